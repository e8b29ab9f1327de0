"""Shuffled, augmented batches, gathered by index where the arrays live.

On torch the arrays stay on the device as they are (pixels as uint8, 0–255) and a batch is one indexing operation
there; other backends index NumPy arrays. Everything drawn at random is a function of the seed and the epoch alone, so
a run that starts again at epoch n sees what the uninterrupted run saw.
"""

import math
from typing import Any

import keras
import numpy as np

AHEAD = 2**21  # bytes of images gathered at once; for one small batch the call takes longer than the copying


class Batches(keras.utils.PyDataset):
    """Batches of `num_samples` samples, the last perhaps smaller, shuffled anew each epoch if there is a seed.

    `rank` of `size` processes gets its share of every batch, which can be empty.
    """

    rank, size = 0, 1

    def __init__(self, num_samples: int, batch_size: int, seed: int | None):
        super().__init__()
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Draws the order, and what else is drawn, of an epoch numbered from 0; `first` batches of it are left out."""
        self.first = first
        if self.seed is None:
            self.order = _on_device(np.arange(self.num_samples))
        else:
            self.draw(np.random.default_rng((self.seed, epoch)))

    def draw(self, generator: np.random.Generator) -> None:
        self.order = _on_device(generator.permutation(self.num_samples))

    def share(self, index: int) -> slice:
        """This process's share of a batch, as places in the order."""
        start = (self.first + index) * self.batch_size
        count = min(self.batch_size, self.num_samples - start)
        return slice(*(start + count * place // self.size for place in (self.rank, self.rank + 1)))

    def __len__(self) -> int:
        return math.ceil(self.num_samples / self.batch_size) - self.first


class ImageBatches(Batches):
    """Batches of images with their labels, or with themselves scaled to 0–1.

    Args:
        x: Images, `(N, height, width)` or `(N, height, width, channels)`, uint8, 0–255.
        y: Labels, `(N,)` int32, or None to reconstruct: float32 targets in [0, 1] shaped as the images.
        batch_size: Images in a batch, at least 1.
        seed: Seed of shuffle and augmentation, or None for the given order and no augmentation.
        shift: Largest random shift in pixels, each way along both axes; what comes in repeats the edge.
        flip: Whether to mirror half of the images left to right.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray | None,
        batch_size: int,
        seed: int | None = None,
        shift: int = 0,
        flip: bool = False,
    ):
        self.x = _on_device(x)
        self.y = None if y is None else _on_device(y.astype(np.int64))  # int64 is what torch's loss wants, every step
        self.shift, self.flip = shift, flip
        self.rows, self.columns = (_on_device(np.arange(side)) for side in x.shape[1:3])
        self.ahead = AHEAD // x[0].nbytes // batch_size * batch_size
        super().__init__(len(x), batch_size, seed)

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        super().set_epoch(epoch, first)
        self.held = slice(0, 0)  # places in the order whose images and labels are gathered

    def draw(self, generator: np.random.Generator) -> None:
        super().draw(generator)
        self.offsets = _on_device(generator.integers(-self.shift, self.shift, (2, self.num_samples, 1), endpoint=True))
        self.mirrored = _on_device(generator.integers(0, int(self.flip), (self.num_samples, 1), endpoint=True))

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        share = self.share(index)
        augmented = self.seed is not None and (self.shift or self.flip)
        x, y = self.augmented(share) if augmented else self.gathered(share)
        return (x, x / np.float32(255)) if self.y is None else (x, y)

    def gathered(self, share: slice) -> tuple[Any, Any]:
        if not self.held.start <= share.start <= share.stop <= self.held.stop:
            self.held = slice(share.start, max(share.stop, share.start + self.ahead))
            chosen = self.order[self.held]
            self.x_held = _rows(self.x, chosen)
            self.y_held = None if self.y is None else _rows(self.y, chosen)
        here = slice(share.start - self.held.start, share.stop - self.held.start)
        return self.x_held[here], None if self.y_held is None else self.y_held[here]

    def augmented(self, share: slice) -> tuple[Any, Any]:
        chosen = self.order[share]
        last_row, last_column = len(self.rows) - 1, len(self.columns) - 1
        rows = (self.rows + self.offsets[0, share]).clip(0, last_row)  # (batch, height)
        columns = (self.columns + self.offsets[1, share]).clip(0, last_column)  # (batch, width)
        columns = columns + self.mirrored[share] * (last_column - 2 * columns)
        x = self.x[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        return x, None if self.y is None else _rows(self.y, chosen)


class TextBatches(Batches):
    """Batches of windows over a text: ids, and the ids that follow them.

    The windows lie end to end, from a phase drawn anew each epoch, so that every character but a few at both ends is
    used once an epoch.

    Args:
        ids: Character ids of the whole text, `(N,)` int32, N > `sequence_length`.
        sequence_length: Characters in a window, T; a batch is two arrays `(batch, T)`.
        batch_size: Windows in a batch, at least 1.
        seed: Seed of the phase and the shuffle, or None for phase 0 and the text's order.
    """

    def __init__(self, ids: np.ndarray, sequence_length: int, batch_size: int, seed: int | None = None):
        self.ids = _on_device(ids)
        self.sequence_length = sequence_length
        self.window = _on_device(np.arange(sequence_length + 1))
        self.phase = 0
        # One window is given up so that any phase leaves room for the rest.
        super().__init__(max(1, len(ids) // sequence_length - 1), batch_size, seed)

    def draw(self, generator: np.random.Generator) -> None:
        super().draw(generator)
        slack = len(self.ids) - 1 - self.num_samples * self.sequence_length
        self.phase = int(generator.integers(min(slack + 1, self.sequence_length)))

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        starts = self.phase + self.order[self.share(index)] * self.sequence_length
        windows = self.ids[starts[:, None] + self.window]  # (batch, T + 1)
        return windows[:, :-1], windows[:, 1:]


def _on_device(array: np.ndarray) -> Any:
    return keras.ops.convert_to_tensor(array) if keras.backend.backend() == "torch" else array


def _rows(array: Any, chosen: Any) -> Any:
    # On torch this takes a seventh of the time of indexing.
    return array.index_select(0, chosen) if keras.backend.backend() == "torch" else array[chosen]
