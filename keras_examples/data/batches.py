"""Shuffled, augmented batches, gathered by index a few at a time.

NumPy gathers images, in blocks of a few batches that stay in the processor's cache, and each block goes to the device
once; a text lies on the device. Everything drawn at random is a function of the seed and the epoch alone, so a run that
starts again at epoch n sees what the uninterrupted run saw.
"""

import math
from typing import Any

import keras
import numpy as np

from keras_examples.data.augmentation import augmented
from keras_examples.devices import on_device

BLOCK = 2**21  # bytes of images gathered at once; for one small batch the calls take longer than the copying


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
            self.order = np.arange(self.num_samples)
        else:
            self.draw(np.random.default_rng((self.seed, epoch)))

    def draw(self, generator: np.random.Generator) -> None:
        self.order = generator.permutation(self.num_samples)

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
        x: Images, `(N, height, width[, channels])` uint8, 0–255.
        y: Labels, `(N,)` int32, or None to reconstruct: float32 targets in [0, 1] shaped as the images.
        shift: Largest random shift in pixels, each way along both axes; what comes in repeats the edge.
        flip: Whether to mirror half of the images left to right. Without a seed nothing is shifted or mirrored.
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
        self.x, self.shift, self.flip = x, shift, flip
        self.y = None if y is None else y.astype(np.int64)  # as torch's loss wants them, at every step
        self.ahead = BLOCK // x[0].nbytes // batch_size * batch_size
        super().__init__(len(x), batch_size, seed)

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        super().set_epoch(epoch, first)
        self.block = slice(0, 0)  # places in the order whose images and labels are gathered

    def draw(self, generator: np.random.Generator) -> None:
        super().draw(generator)
        self.offsets = generator.integers(-self.shift, self.shift, (2, self.num_samples, 1), endpoint=True)[..., 0]
        self.mirrored = generator.integers(0, int(self.flip), (self.num_samples, 1), endpoint=True)[:, 0] > 0

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        share = self.share(index)
        if not self.block.start <= share.start <= share.stop <= self.block.stop:
            self.block = slice(share.start, max(share.stop, share.start + self.ahead))
            chosen = self.order[self.block]
            x = self.x.take(chosen, axis=0)  # half the time of an index
            if len(x) and self.seed is not None and (self.shift or self.flip):
                down, across = self.offsets[:, self.block]
                x = augmented(x, down, across, self.mirrored[self.block])
            self.x_block = on_device(x)
            self.y_block = None if self.y is None else on_device(self.y[chosen])
        here = slice(share.start - self.block.start, share.stop - self.block.start)
        x = self.x_block[here]
        return x, x / np.float32(255) if self.y_block is None else self.y_block[here]


class TextBatches(Batches):
    """Batches of windows over a text: ids, and the ids that follow them.

    The windows lie end to end, from a phase drawn anew each epoch, so that every character but a few at both ends is
    used once an epoch.

    From the character ids of a whole text, `(N,)` int32, N > T = `sequence_length`, to two arrays `(batch, T)`. Without
    a seed the phase is 0 and the order the text's.
    """

    def __init__(self, ids: np.ndarray, sequence_length: int, batch_size: int, seed: int | None = None):
        self.ids = on_device(np.array(ids))
        self.sequence_length = sequence_length
        self.window = on_device(np.arange(sequence_length + 1))
        # One window is given up so that any phase leaves room for the rest.
        super().__init__(max(1, len(ids) // sequence_length - 1), batch_size, seed)

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        self.phase = 0
        super().set_epoch(epoch, first)
        self.starts = on_device(self.phase + self.order * self.sequence_length)

    def draw(self, generator: np.random.Generator) -> None:
        super().draw(generator)
        slack = len(self.ids) - 1 - self.num_samples * self.sequence_length
        self.phase = int(generator.integers(min(slack + 1, self.sequence_length)))

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        windows = self.ids[self.starts[self.share(index)][:, None] + self.window]  # (batch, T + 1)
        return windows[:, :-1], windows[:, 1:]
