"""Figures of a model that Keras has no metric for."""

import numpy as np


def confusion_matrix(y: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Counts, a row for each true class, a column for each predicted one; `y` is `(N,)`, `logits` `(N, classes)`."""
    confusion = np.zeros((logits.shape[1],) * 2, int)
    np.add.at(confusion, (y, logits.argmax(axis=1)), 1)
    return confusion


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
