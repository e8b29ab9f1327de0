"""The same models and work in PyTorch by hand: fused Adam, data on the device, metrics kept there."""

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.workloads import Workload


class Pixels(nn.Module):
    """uint8 `(N, H, W[, C])` to float32 `(N, C, H, W)`, 0–1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(torch.float32) * (1 / 255)
        return x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2)


class CharLSTM(nn.Module):
    def __init__(self, characters: int, units: int = 256):
        super().__init__()
        self.characters = characters
        self.lstm = nn.LSTM(characters, units, batch_first=True)
        self.head = nn.Linear(units, characters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one_hot = functional.one_hot(x.long(), self.characters).to(torch.float32)
        return self.head(self.lstm(one_hot)[0]).flatten(0, 1)  # (N × T, characters)


def sample(model: CharLSTM, characters: str, length: int) -> str:
    """Draws a text, one step a character."""
    text, state, drawn = [], None, torch.zeros(1, dtype=torch.long)
    one_hot = torch.eye(len(characters))
    with torch.inference_mode():
        for _ in range(length):
            outputs, state = model.lstm(one_hot[drawn][None], state)  # (1, 1, units)
            drawn = torch.multinomial(model.head(outputs[0, 0]).softmax(0), 1)
            text.append(characters[int(drawn)])
    return "".join(text)


def encoder() -> list[nn.Module]:
    return [
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    ]


def build(workload: Workload) -> nn.Module:
    layers: dict[str, Callable[[], list[nn.Module]]] = {
        "mnist_linear": lambda: [nn.Flatten(), nn.Linear(784, 10)],
        "mnist_mlp": lambda: [nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10)],
        "mnist_cnn": lambda: [
            *(nn.Conv2d(1, 32, 5), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(1024, 1024), nn.ReLU(), nn.Dropout(0.5), nn.Linear(1024, 10)),
        ],
        "cifar_dense": lambda: [nn.Flatten(), nn.Linear(3072, 1536), nn.ReLU(), nn.Linear(1536, 10)],
        "cifar_cnn": lambda: [*encoder(), nn.Flatten(), nn.Linear(512, 10)],
        "conv_autoencoder": lambda: [*encoder(), nn.ConvTranspose2d(8, 16, 2, 2), nn.ConvTranspose2d(16, 3, 2, 2)],
    }
    if workload.builder == "char_lstm":
        return CharLSTM(workload.classes)
    return nn.Sequential(Pixels(), *layers[workload.builder]())


def epoch(workload: Workload, precision: str, compiled: bool) -> Callable[[], float]:
    """Builds the model; returns a function that trains one epoch and returns its loss."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build(workload).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    x, y = (None if array is None else torch.from_numpy(array).to(device) for array in workload.data())
    assert x is not None
    if isinstance(model, CharLSTM):
        windows = x.unfold(0, workload.input_shape[0] + 1, workload.input_shape[0])  # (N, T + 1)
        x, y = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def forward(inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss, and accuracy or mean absolute error."""
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            outputs = model(inputs)
        outputs = outputs.to(torch.float32)
        if y is None:
            return functional.mse_loss(outputs, targets), (outputs.detach() - targets).abs().mean()
        hits = outputs.detach().argmax(1) == targets
        return functional.cross_entropy(outputs, targets), hits.to(torch.float32).mean()

    if compiled:
        forward = torch.compile(forward)

    def loss_and_metric(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = x.index_select(0, chosen)
        targets = (inputs / 255).permute(0, 3, 1, 2) if y is None else y.index_select(0, chosen).flatten().long()
        return forward(inputs, targets)

    return lambda: train(optimizer, loss_and_metric, len(x), workload.batch_size, device)[0]


def train(
    optimizer: torch.optim.Optimizer,
    loss_and_metric: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    count: int,
    batch_size: int,
    device: str,
) -> list[float]:
    """Trains an epoch on `count` samples, given to the loss by their places; returns the means of loss and metric."""
    totals = torch.zeros(2, device=device)
    for chosen in torch.randperm(count, device=device).split(batch_size):
        loss, metric = loss_and_metric(chosen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals += torch.stack([loss.detach(), metric]) * len(chosen)
    return (totals / count).tolist()


def limit(workload: Workload, precision: str) -> Callable[[], float]:
    """Counts a step's operations; returns a function that measures the milliseconds of as many in a matrix product."""
    with torch.device("meta"):  # where nothing is computed, and no kernel of the LSTM's own hides its products
        model, x = build(workload), torch.empty((workload.batch_size, *workload.input_shape), dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    device, side = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 2048)
    matrix = torch.rand(side, side, dtype=getattr(torch, precision), device=device)

    def product() -> float:
        start = time.perf_counter()
        torch.mm(matrix, matrix)[0, 0].item()  # which waits for the device
        return time.perf_counter() - start

    def run() -> float:
        return counter.get_total_flops() / (2 * side**3) * min(product() for _ in range(5)) * 1e3

    return run
