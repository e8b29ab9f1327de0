"""Figures of a model that Keras has no metric for."""

from collections.abc import Iterable

import numpy as np


def confusion_matrix(y: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Counts, a row for each true class, a column for each predicted one; `y` is `(N,)`, `logits` `(N, classes)`."""
    confusion = np.zeros((logits.shape[1],) * 2, int)
    np.add.at(confusion, (y, logits.argmax(axis=1)), 1)
    return confusion


def error_and_correlation(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[float, list[float]]:
    """The mean squared error between images and others, and Pearson's correlation in each channel.

    Pairs are parts of both, `(N, height, width, channels)` float32, so that not all need be in memory at once.
    """
    squares, count, moments = 0.0, 0, np.zeros((1, 3, 3))  # of 1 and both images' pixels, for each channel
    for pair in pairs:
        squares += np.square(pair[0] - pair[1], dtype=np.float64).sum()
        count += pair[0].size
        rows = (
            np.stack([np.ones(one.size), one.ravel(), two.ravel()])
            for one, two in zip(*(np.moveaxis(part, 3, 0) for part in pair))
        )
        moments = moments + [part @ part.T for part in rows]
    means = moments[:, 0, 1:] / moments[:, :1, 0]
    covariances = moments[:, 1:, 1:] / moments[:, :1, :1] - means[:, :, None] * means[:, None, :]
    deviations = np.sqrt(covariances.diagonal(axis1=1, axis2=2)).prod(axis=1)
    return float(squares / count), (covariances[:, 0, 1] / deviations).tolist()


def block_bound(x: np.ndarray, side: int = 4, components: int = 8) -> float:
    """The least mean squared error of any affine code of `components` numbers for each `side`×`side` block of pixels.

    Images are `(N, height, width, channels)` uint8, 0–255, their sides multiples of `side`. The bound, of pixels scaled
    to 0–1, is the variance that the principal components leave out.
    """
    _, height, width, channels = x.shape
    size = side * side * channels
    total, products = np.zeros(size), np.zeros((size, size))
    for images in np.array_split(x, max(1, len(x) // 500)):  # a float64 copy of a part at a time
        blocks = images.reshape(-1, height // side, side, width // side, side, channels).swapaxes(2, 3)
        blocks = blocks.reshape(-1, size) / 255
        total += blocks.sum(axis=0)
        products += blocks.T @ blocks
    count = len(x) * (height // side) * (width // side)
    variances = np.linalg.eigvalsh(products / count - np.outer(total, total) / count**2)  # ascending
    return float(variances[:-components].sum() / size)
