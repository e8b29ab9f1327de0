"""Several processes that train one model together, as torchrun starts them: each takes its share of every batch.

Without torchrun there is one process: `size` is 1, and nothing here does anything.
"""

import contextlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SHARED = "/dev/shm"
PATIENCE = 1800  # seconds to wait for another process, which may be downloading or hang; as long as torch's default
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
rank, size = 0, 1  # of this process among all that are `together`
_wish = _agreed = False
_rooms: dict[int, "_Room | None"] = {}  # by the number of elements that are combined


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Joins the processes that torchrun started with this one, until the block ends.

    All but the first are silent from then on. If processes fail, the one that does so first says why.

    Raises:
        ValueError: The backend or the device cannot take part.
        ConnectionError: Another process has ended, or gave no answer for half an hour.
    """
    global rank, size, _wish, _agreed
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    import torch.distributed as dist

    store, rank, size = next(dist.rendezvous("env://"))
    standard_error = os.dup(2)
    if rank:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    try:
        timeout = timedelta(seconds=PATIENCE)
        dist.init_process_group(_backend(), timeout=timeout, store=store, rank=rank, world_size=size)
        yield
    except BaseException:
        if store.add("failures", 1) > 1:
            sys.exit(1)
        os.dup2(standard_error, 2)
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        _rooms.clear()
        rank, size, _wish, _agreed = 0, 1, False, False


def _backend() -> str:
    """The library that sums on the device that was chosen, of which this process takes its own."""
    import torch

    backend, device = os.environ["KERAS_BACKEND"], os.environ.get("KERAS_TORCH_DEVICE", "cpu")
    if backend != "torch" or device not in BACKENDS:
        raise ValueError(
            f"Several processes train on torch alone, on cpu or cuda. Received: {backend} on {device}. Start one "
            "process, without torchrun."
        )
    if device == "cuda":
        place, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= count:
            raise ValueError(f"Each process needs a GPU. Received: {count} here. Lower --nproc-per-node.")
        torch.cuda.set_device(place)
    return BACKENDS[device]


def gathered(value: Any) -> list[Any]:
    """The values that all processes give, in their order."""
    values = [value] * size
    if size > 1:
        import torch.distributed as dist

        _meet(dist.all_gather_object, values, value)
    return values


@contextlib.contextmanager
def one_ahead() -> Iterator[None]:
    """Lets a machine's first process through the block before the others, who find there what it downloaded."""
    ahead = os.environ.get("LOCAL_RANK", "0") == "0"
    if not ahead:
        gathered(None)
    yield
    if ahead:
        gathered(None)


def draw_apart() -> None:
    """Gives each process random numbers of its own; those of the first stay what they were."""
    if rank:
        import torch

        torch.manual_seed(torch.initial_seed() + (rank << 32))  # seeds of ours are below 2**32


def agreed(wish: bool) -> bool:
    """Whether a process wished so before the last step that they took together, or, if it is alone, does so now."""
    global _wish
    _wish = wish
    return _agreed if size > 1 else wish


def combined(
    gradients: Sequence["torch.Tensor"], states: Sequence["torch.Tensor"], before: Sequence["torch.Tensor"], count: int
) -> tuple[list["torch.Tensor"], list["torch.Tensor"]]:
    """What a step would have come to if one process had seen all samples; all processes call this, to the same end.

    Args:
        gradients: Of the mean loss over this process's samples, float32.
        states: What the metrics, which are sums over samples, come to with this process's samples.
        before: What they were before, the same in all processes.
        count: This process's samples; with 0 it adds nothing.

    Returns:
        Gradients of the mean loss over all samples, and states.
    """
    global _agreed
    import torch

    changes = [(state - old) * bool(count) for state, old in zip(states, before)]
    parts = [*gradients, *changes]
    sizes = [part.numel() for part in parts]
    both = torch.tensor([count, _wish], dtype=torch.float32, device=parts[0].device)
    vectors = [part.reshape(-1) for part in (*parts, both)]
    elements = sum(sizes) + len(both)
    if elements not in _rooms:
        _rooms[elements] = _Room.opened(elements, parts[0].is_cuda)
    room = _rooms[elements]
    flat = _meet(room.reduce if room else _reduce, vectors, sum(sizes[: len(gradients)]))
    _agreed = bool(flat[-1])
    sums = [piece.view_as(part) for piece, part in zip(flat[: -len(both)].split(sizes), parts)]
    return sums[: len(gradients)], [old + change for old, change in zip(before, sums[len(gradients) :])]


def _reduce(vectors: list["torch.Tensor"], weighted: int) -> "torch.Tensor":
    """Over all processes, the mean of the first `weighted` elements, by the last but one, and the sum of the others."""
    import torch
    import torch.distributed as dist

    flat = torch.cat(vectors)  # as one, since each exchange takes its time
    flat[:weighted] *= flat[-2]
    dist.all_reduce(flat)
    flat[:weighted] /= flat[-2]
    return flat


class _Room:
    """Memory that the processes share if all are on one machine; gloo copies through sockets, which takes far longer.

    It has two halves, used in turn, so that nobody writes where another still reads.
    """

    def __init__(self, halves: "torch.Tensor", others: list[socket.socket]):
        self.halves, self.others, self.turn = halves, others, 0

    @classmethod
    def opened(cls, elements: int, on_gpu: bool) -> "_Room | None":
        """A room of `(2, size, elements)` float32, or None where there can be none."""
        import torch

        folder = ""
        here = os.environ["LOCAL_WORLD_SIZE"] == str(size) and not on_gpu and os.path.isdir(SHARED)
        if not rank and here and shutil.disk_usage(SHARED).free > 16 * size * elements:
            folder = tempfile.mkdtemp(dir=SHARED)
            door = socket.socket(socket.AF_UNIX)
            door.bind(f"{folder}/door")
            door.listen(size)
        folder = gathered(folder)[0]
        if not folder:
            return None
        halves = torch.from_file(f"{folder}/numbers", shared=True, size=2 * size * elements)
        if rank:
            others = [socket.socket(socket.AF_UNIX)]
            others[0].connect(f"{folder}/door")
        else:
            others = [door.accept()[0] for _ in range(size - 1)]
            shutil.rmtree(folder)
        for other in others:
            other.settimeout(PATIENCE)
        return cls(halves.view(2, size, elements), others)

    def reduce(self, vectors: list["torch.Tensor"], weighted: int) -> "torch.Tensor":
        """See `_reduce`."""
        import torch

        self.turn ^= 1
        half = self.halves[self.turn]
        torch.cat(vectors, out=half[rank])
        self.meet()
        mean, counts = half[0], half[:, -2].tolist()
        for place in range(1, size):
            mean = torch.lerp(mean, half[place], counts[place] / max(1, sum(counts[: place + 1])))
        mean[weighted:] = half[:, weighted:].sum(0)
        return mean

    def meet(self) -> None:
        """Waits for all: the first process hears from each other one, and tells them."""
        if rank:
            self.others[0].send(b".")
        if not all(other.recv(1) for other in self.others):
            raise ConnectionError
        if not rank:
            for other in self.others:
                other.send(b".")


def _meet(collective: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return collective(*arguments)
    except (RuntimeError, OSError) as error:
        raise ConnectionError(
            f"Another process of this run has ended or hangs. Received: no answer in process {rank} of {size}, from 0. "
            "Start all of them again, with --resume if there is a checkpoint."
        ) from error
