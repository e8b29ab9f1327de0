"""Six of those models in PyTorch by hand: fused Adam, data and metrics kept on the device."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.models import CHARACTERS, CLASSES, WORDS, Model
from benchmarks.pytorch_peer import train

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Conv1D(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(channels, 64, 5, padding="same") for channels in (8, 64, 64))
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2)
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x.mean(-1))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.projections, self.after = nn.LayerNorm(128), nn.Linear(128, 384), nn.Linear(128, 128)
        self.dense = nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 512), nn.GELU(), nn.Linear(512, 128))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            self.projections(self.before(x)).unflatten(-1, (3, 4, 32)).permute(2, 0, 3, 1, 4)
        )  # each (N, 4, T, 32)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.after(attended.transpose(1, 2).flatten(2))
        return x + self.dense(x)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(CHARACTERS, 128), nn.Parameter(torch.zeros(64, 128))
        self.blocks = nn.Sequential(Block(), Block(), nn.LayerNorm(128), nn.Linear(128, CHARACTERS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.characters(x) + self.places).flatten(0, 1)


class BiLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, 64), nn.Linear(128, 1)
        self.lstm = nn.LSTM(64, 64, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lengths = (x != 0).sum(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(self.words(x), lengths, batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        return self.head(last.transpose(0, 1).flatten(1))


class TwoLSTMs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 80, num_layers=2, batch_first=True), nn.Linear(80, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])

    def penalty(self) -> Any:
        return sum(1e-5 * w.square().sum() for name, w in self.lstm.named_parameters() if name.startswith("weight"))


def mlp() -> nn.Module:
    hidden = (layer for n in (784, 256) for layer in (nn.Linear(n, 256), nn.BatchNorm1d(256), nn.ReLU()))
    return nn.Sequential(*hidden, nn.Linear(256, CLASSES))


def autoencoder() -> nn.Module:
    units = 784, 256, 128, 32, 128, 256
    hidden = (layer for ends in itertools.pairwise(units) for layer in (nn.Linear(*ends), nn.ReLU()))
    return nn.Sequential(*hidden, nn.Linear(256, 784))


BY_HAND: dict[str, Callable[[], nn.Module]] = {
    "mlp-batchnorm": mlp,
    "conv1d": Conv1D,
    "transformer": Transformer,
    "bilstm": BiLSTM,
    "lstm-l2": TwoLSTMs,
    "dense-autoencoder": autoencoder,
}


def trainer(row: Model, name: str, peer: str) -> Callable[[Any, Any], object]:
    """Builds the model; returns what trains an epoch on arrays and returns the loss and accuracy or mean error."""
    model = BY_HAND[name]().to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7, fused=True)

    def loss_and_metric(outputs: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if row.loss == "mse":
            return functional.mse_loss(outputs, y), (outputs.detach() - y).abs().mean()
        if row.loss == "binary_crossentropy":
            loss = functional.binary_cross_entropy_with_logits(outputs, y)
            return loss, ((outputs.detach() > 0) == y).float().mean()
        y = y.flatten().long()
        return functional.cross_entropy(outputs, y), (outputs.detach().argmax(1) == y).float().mean()

    def epoch(x: Any, y: Any) -> list[float]:
        x, y = torch.from_numpy(x).to(DEVICE), torch.from_numpy(y).to(DEVICE)

        def step(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            loss, metric = loss_and_metric(model(x[chosen]), y[chosen])
            return loss + model.penalty() if isinstance(model, TwoLSTMs) else loss, metric

        return train(optimizer, step, len(x), row.batch_size, DEVICE)

    return epoch
