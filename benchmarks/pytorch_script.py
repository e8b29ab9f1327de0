"""What `cli.py` does with an example by its recipe, in PyTorch by hand, as one would write it for speed.

python -m benchmarks.pytorch_script EXAMPLE DATA_DIR EPOCHS FILE
"""

import gzip
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.pytorch_peer import CharLSTM, build, train
from benchmarks.workloads import WORKLOADS
from keras_examples.examples import EXAMPLES, Recipe

LENGTH, DROPPED = 180, 0.25  # characters of a sequence; what charrnn drops of its outputs and recurrent weights
TEST_BATCH = 500
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class Work:
    """What is trained and measured; losses come with an accuracy, 0 where there is none."""

    model: nn.Module
    count: int  # samples an epoch
    begin_epoch: Callable[[], None]
    loss: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # of the samples at these places
    validate: Callable[[], list[float]]
    test: Callable[[], list[float]]


def read_mnist(folder: Path) -> list[torch.Tensor]:
    """Images `(N, 1, 28, 28)` uint8 and labels `(N,)` int64, to train on and to test with."""

    def read(name: str, header: int) -> torch.Tensor:
        content = gzip.decompress((folder / "mnist" / f"{name}-ubyte.gz").read_bytes())
        return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header)

    return [
        part
        for name in ("train", "t10k")
        for part in (read(f"{name}-images-idx3", 16).view(-1, 1, 28, 28), read(f"{name}-labels-idx1", 8).long())
    ]


def read_cifar10(folder: Path) -> list[torch.Tensor]:
    """Images `(N, 3, 32, 32)` uint8 and labels `(N,)` int64, to train on and to test with."""
    names = ["test_batch", *(f"data_batch_{number}" for number in range(1, 6))]
    files = [np.fromfile(folder / "cifar-10-batches-bin" / f"{name}.bin", np.uint8).reshape(-1, 3073) for name in names]
    sets = np.concatenate(files[1:]), files[0]
    return [
        torch.from_numpy(part)
        for records in sets
        for part in (records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64))
    ]


def averaged(
    figures: Callable[..., tuple[torch.Tensor, torch.Tensor]], size: int, *arrays: torch.Tensor
) -> list[float]:
    """The means of both figures over samples that are measured so many at a time."""
    totals = torch.zeros(2, device=DEVICE)
    for part in zip(*(array.split(size) for array in arrays)):
        totals += torch.stack(figures(*part)) * len(part[0])
    return (totals / len(arrays[0])).tolist()


def images(example: str, recipe: Recipe, folder: Path) -> Work:
    read = read_mnist if EXAMPLES[example].dataset == "mnist" else read_cifar10
    x, y, *test = (part.to(DEVICE) for part in read(folder))
    count, side, shift = len(x) - int(len(x) * recipe.validation_split), x.shape[2], recipe.shift * recipe.augment
    model = build(WORKLOADS[example])[1:].to(DEVICE)  # type: ignore[index]
    edges = torch.arange(-shift, side + shift, device=DEVICE).clamp(0, side - 1)
    padded = x[:count, :, edges][..., edges] if shift else x[:count]
    windows = padded.unfold(2, side, 1).unfold(3, side, 1)  # (N, channels, shifts down, shifts across, side, side)

    def augmented(chosen: torch.Tensor) -> torch.Tensor:
        if not shift:
            return x[chosen]
        down, across = torch.randint(0, 2 * shift + 1, (2, len(chosen)), device=DEVICE)
        shifted = windows[chosen, :, down, across]
        mirrored = torch.rand(len(chosen), 1, 1, 1, device=DEVICE) < 0.5 * recipe.flip
        return torch.where(mirrored, shifted.flip(3), shifted) if recipe.flip else shifted

    def figures(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = x / 255
        outputs = model(pixels - recipe.centre)
        if outputs.ndim == 4:
            return functional.mse_loss(outputs, pixels), torch.zeros((), device=DEVICE)
        return functional.cross_entropy(outputs, y), (outputs.detach().argmax(1) == y).float().mean()

    def measure(x: torch.Tensor, y: torch.Tensor) -> list[float]:
        return averaged(figures, TEST_BATCH, x, y)

    return Work(
        model,
        count,
        lambda: None,
        lambda chosen: figures(augmented(chosen), y[chosen]),
        lambda: measure(x[count:], y[count:]),
        lambda: measure(*test),
    )


def text(example: str, recipe: Recipe, folder: Path) -> Work:
    characters = (folder / "tinyshakespeare.txt").read_text()
    vocabulary = {character: place for place, character in enumerate(sorted(set(characters)))}
    ids = torch.tensor([vocabulary[character] for character in characters], device=DEVICE)
    ids, test = ids.split([len(ids) * 9 // 10, len(ids) - len(ids) * 9 // 10])
    model = CharLSTM(len(vocabulary)).to(DEVICE)
    state = torch.zeros(1, recipe.batch_size, model.lstm.hidden_size, device=DEVICE)

    trained = ids  # windows of it, drawn anew each epoch

    def windows(ids: torch.Tensor) -> torch.Tensor:
        return ids.unfold(0, LENGTH + 1, LENGTH)  # (N, T + 1)

    def figures(windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        one_hot = functional.one_hot(windows[:, :-1], len(vocabulary)).float()
        inputs, recurrent, *biases = model.lstm.parameters()
        weights = [inputs, functional.dropout(recurrent, DROPPED, model.training), *biases]
        first = state[:, : len(windows)]
        outputs = torch.lstm(one_hot, (first, first), weights, True, 1, 0.0, model.training, False, True)[0]
        logits = model.head(functional.dropout(outputs, DROPPED, model.training)).flatten(0, 1)
        targets = windows[:, 1:].flatten()
        return functional.cross_entropy(logits, targets), (logits.detach().argmax(1) == targets).float().mean()

    def begin_epoch() -> None:
        nonlocal trained
        trained = windows(ids[int(torch.randint(LENGTH, ())) :])

    return Work(
        model,
        len(windows(ids)) - 1,
        begin_epoch,
        lambda chosen: figures(trained[chosen]),
        lambda: averaged(figures, recipe.batch_size, windows(test)),
        lambda: [figure.item() for figure in figures(test[None])],
    )


class Muon(torch.optim.AdamW):
    """All kernels but the last as matrices, by Muon (Jordan et al. 2024); the others and the biases by AdamW."""

    def __init__(self, parameters: list[nn.Parameter], rate: float, decay: float):
        self.kernels = [parameter for parameter in parameters if parameter.ndim > 1][:-1]
        self.momentums = [torch.zeros_like(kernel) for kernel in self.kernels]
        others = [parameter for parameter in parameters if all(parameter is not kernel for kernel in self.kernels)]
        groups: list[dict[str, Any]] = [{"params": self.kernels}, {"params": others, "lr": 0.3 * rate}]
        super().__init__(groups, rate, weight_decay=decay, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        rate, decay = (self.param_groups[0][name] for name in ("lr", "weight_decay"))
        for kernel, momentum in zip(self.kernels, self.momentums):
            gradient = kernel.grad
            assert gradient is not None
            momentum.mul_(0.95).add_(gradient)
            x = gradient.add(momentum, alpha=0.95).flatten(1)
            x = x.T if (tall := x.shape[0] > x.shape[1]) else x
            x = x / (x.norm() + 1e-7)
            for _ in range(5):
                square = x @ x.T
                x = 3.4445 * x + (2.0315 * square @ square - 4.775 * square) @ x
            kernel.mul_(1 - rate * decay).sub_((x.T if tall else x).reshape(kernel.shape), alpha=rate)
            kernel.grad = None  # AdamW leaves it out
        super().step()


def main(example: str, data_dir: str, epochs: str, file: str) -> None:
    recipe = EXAMPLES[example].recipe
    torch.manual_seed(0)
    work = (text if example == "charrnn" else images)(example, recipe, Path(data_dir))
    parameters, steps = [*work.model.parameters()], -(-work.count // recipe.batch_size) * int(epochs)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    optimizer = {
        "sgd": lambda: torch.optim.SGD(parameters, rate, momentum=0.9, nesterov=True, fused=True),
        "adam": lambda: torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True),
        "muon": lambda: Muon(parameters, rate, decay),
    }[recipe.optimizer]()

    def height(step: int) -> float:
        """Up in a quarter of the steps, down in the others."""
        done = (step + 1) / (steps + 1)
        return min(4 * done, 4 / 3 * (1 - done))

    def clip(*_: object) -> None:
        nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, height)
    if recipe.clip_norm:
        optimizer.register_step_pre_hook(clip)
    optimizer.register_step_post_hook(lambda *_: schedule.step())

    def measured(figures: Callable[[], list[float]]) -> list[float]:
        work.model.eval()
        with torch.inference_mode():
            return figures()

    for epoch in range(int(epochs)):
        work.model.train()
        work.begin_epoch()
        trained = train(optimizer, work.loss, work.count, recipe.batch_size, DEVICE)
        print(f"epoch {epoch + 1}/{epochs}", *trained, *measured(work.validate), flush=True)
    print("test", *measured(work.test))
    torch.save(work.model.state_dict(), file)


if __name__ == "__main__":
    main(*sys.argv[1:])
