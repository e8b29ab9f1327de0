"""What `cli.py mnist --arch cnn --epochs 1` does, by hand: `python -m benchmarks.pytorch_script DATA_DIR FILE`."""

import gzip
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.pytorch_peer import build
from benchmarks.workloads import WORKLOADS

BATCH_SIZE, LEARNING_RATE, SHIFT, KEPT = 128, 0.002, 2, 0.95  # the last images are validated on
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def read(path: Path, header: int) -> torch.Tensor:
    """The bytes of a compressed idx file after its header."""
    values = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)
    return torch.from_numpy(values.copy()).to(DEVICE)


def shifted(x: torch.Tensor) -> torch.Tensor:
    offsets = torch.randint(-SHIFT, SHIFT + 1, (2, len(x), 1), device=DEVICE)
    rows, columns = (torch.arange(28, device=DEVICE) + offsets).clamp(0, 27)  # each (N, 28)
    return x[torch.arange(len(x), device=DEVICE)[:, None, None], rows[:, :, None], columns[:, None, :]]


def measure(model: nn.Module, x: torch.Tensor, y: torch.Tensor, batch_size: int) -> tuple[float, float]:
    """Mean cross-entropy, and accuracy."""
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([model(part) for part in x.split(batch_size)])
    return functional.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()


def main(data_dir: str, weights: str, *flags: str) -> None:
    images, labels, test_images, test_labels = (
        read(Path(data_dir, "mnist", f"{part}-{name}-ubyte.gz"), header)
        for part in ("train", "t10k")
        for name, header in (("images-idx3", 16), ("labels-idx1", 8))
    )
    images, test_images = images.view(-1, 28, 28), test_images.view(-1, 28, 28)
    labels, test_labels = labels.long(), test_labels.long()
    kept = int(len(images) * KEPT)
    model = build(WORKLOADS["mnist-cnn"]).to(DEVICE)
    if "--compile" in flags:
        model.compile()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    batches = torch.randperm(kept, device=DEVICE).split(BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, len(batches), pct_start=0.25, anneal_strategy="linear", cycle_momentum=False
    )
    totals = torch.zeros(2, device=DEVICE)
    for chosen in batches:
        targets = labels[chosen]
        logits = model(shifted(images[chosen]))
        loss = functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        totals += torch.stack([loss.detach() * len(chosen), (logits.detach().argmax(1) == targets).sum()])
    print("epoch 1/1", *(totals / kept).tolist(), *measure(model, images[kept:], labels[kept:], BATCH_SIZE), flush=True)
    print("test", *measure(model, test_images, test_labels, 500))
    torch.save(model.state_dict(), weights)


if __name__ == "__main__":
    main(*sys.argv[1:])
