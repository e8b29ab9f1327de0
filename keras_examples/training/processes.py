"""Several processes that train one model together, as torchrun starts them: each takes its share of every batch.

`torch.distributed` connects them: gloo on CPUs, NCCL on NVIDIA GPUs. Without torchrun there is one process: `size` is
1, and nothing here does anything.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PATIENCE = 1800  # seconds to wait for another process, which may be downloading or hang; torch's own default
LIBRARIES = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
rank, size = 0, 1  # of this process among those of its group
_stop_wanted = _stop_agreed = False


@contextlib.contextmanager
def group() -> Iterator[None]:
    """Joins the processes that torchrun started with this one, until the block ends.

    All but the first are silent from then on. If processes fail, the one that does so first says why. Raises ValueError
    if the backend or the device cannot take part, ConnectionError if another process has ended or is silent for long.
    """
    global rank, size, _stop_wanted, _stop_agreed
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or size > 1:
        yield
        return
    import torch.distributed as dist

    timeout = timedelta(seconds=PATIENCE)
    rank, size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    store, _, _ = _collective(lambda: next(dist.rendezvous("env://", timeout=timeout)))
    standard_error = os.dup(2)
    if rank:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    try:
        library = _library()
        _collective(dist.init_process_group, library, None, timeout, size, rank, store)
        yield
    except BaseException:
        if store.add("failures", 1) > 1:
            sys.exit(1)
        os.dup2(standard_error, 2)
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        rank, size, _stop_wanted, _stop_agreed = 0, 1, False, False


def _library() -> str:
    """What sums on the device that was chosen, of which this process takes its own."""
    import torch

    backend, device = os.environ["KERAS_BACKEND"], os.environ.get("KERAS_TORCH_DEVICE", "cpu")
    if backend != "torch" or device not in LIBRARIES:
        raise ValueError(
            f"Several processes train on torch alone, on cpu or cuda. Received: {backend} on {device}. Start one "
            "process, without torchrun."
        )
    if device == "cuda":
        place, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= count:
            raise ValueError(f"Each process needs a GPU. Received: {count} here. Lower --nproc-per-node.")
        torch.cuda.set_device(place)
    return LIBRARIES[device]


def gathered(value: Any) -> list[Any]:
    """The values that all processes give, in their order."""
    values = [value] * size
    if size > 1:
        import torch.distributed as dist

        _collective(dist.all_gather_object, values, value)
    return values


@contextlib.contextmanager
def first_on_machine_goes_ahead() -> Iterator[None]:
    """Lets a machine's first process through the block before the others, who find there what it downloaded."""
    ahead = os.environ.get("LOCAL_RANK", "0") == "0"
    if not ahead:
        gathered(None)
    yield
    if ahead:
        gathered(None)


def seed_apart() -> None:
    """Gives each process random numbers of its own; those of the first stay what they were."""
    if rank:
        import torch

        torch.manual_seed(torch.initial_seed() + (rank << 32))  # seeds of ours are below 2**32


def should_stop(wanted: bool) -> bool:
    """Whether a process wanted to stop before the last step they took together, or, if it is alone, does so now."""
    global _stop_wanted
    _stop_wanted = wanted
    return _stop_agreed if size > 1 else wanted


def exchange(
    gradients: Sequence["torch.Tensor"], states: Sequence["torch.Tensor"], before: Sequence["torch.Tensor"], count: int
) -> tuple[list["torch.Tensor"], list["torch.Tensor"]]:
    """What a step would have come to if one process had seen all samples; all processes call this, to the same end.

    From the float32 gradients of the mean loss over this process's samples, and from what the metrics, which are sums
    over samples, come to with these and were `before`, to those over all samples. With a count of 0 it adds nothing.
    """
    global _stop_agreed
    import torch
    import torch.distributed as dist

    changes = [(state - old) * bool(count) for state, old in zip(states, before)]
    parts = [*(gradient * count for gradient in gradients), *changes]
    more = torch.tensor([count, _stop_wanted], dtype=torch.float32, device=parts[0].device)
    flat = torch.cat([part.reshape(-1) for part in (*parts, more)])  # as one, since each exchange takes its time
    _collective(dist.all_reduce, flat)
    samples, stop = flat[-2:]
    _stop_agreed = bool(stop)
    sums = [piece.view_as(part) for piece, part in zip(flat[:-2].split([part.numel() for part in parts]), parts)]
    means = [total / samples for total in sums[: len(gradients)]]
    return means, [old + change for old, change in zip(before, sums[len(gradients) :])]


def _collective(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (RuntimeError, OSError) as error:
        raise ConnectionError(
            f"Another process of this run has ended or hangs. Received: no answer in process {rank} of {size}, from 0. "
            "Start all of them again, with --resume if there is a checkpoint."
        ) from error
