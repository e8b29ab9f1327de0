"""Every picture that the project draws."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from keras_examples.files import whole_file

RIGHT, WRONG = "#0072b2", "#d55e00"  # blue and vermilion, told apart by colour-blind eyes
QUADRANTS = " ▘▝▀▖▌▞▛▗▚▐▜▄▙▟█"  # bits 1, 2, 4, 8: upper left, upper right, lower left, lower right


def save_predictions(
    path: str | Path, x: np.ndarray, y: np.ndarray, predicted: np.ndarray, class_names: Sequence[str], title: str
) -> None:
    """Draws images in a grid, the true class over each, and the predicted one where it differs.

    Args:
        path: PNG file to write.
        x: Images, `(N, height, width)` grey or `(N, height, width, 3)`, uint8.
        y: True classes, `(N,)`.
        predicted: Predicted classes, `(N,)`.
        class_names: Name of each class.
        title: Title of the picture.

    Raises:
        OSError: the file cannot be written.
    """
    columns = min(len(x), 10)
    rows = -(-len(x) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.3 * columns + 0.4, 1.7 * rows + 0.6), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, true, guess in zip(axes.flat, x, y, predicted):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        label = class_names[true] if true == guess else f"{class_names[true]},\nnot {class_names[guess]}"
        axis.set_title(label, fontsize=9, color=RIGHT if true == guess else WRONG)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def save_reconstructions(path: str | Path, x: np.ndarray, output: np.ndarray, title: str) -> None:
    """Draws each image over its reconstruction, the mean squared error under each pair.

    Args:
        path: PNG file to write.
        x: Images, `(N, height, width, 3)` uint8.
        output: Reconstructions of the same shape, float32, about 0–1.
        title: Title of the picture.

    Raises:
        OSError: the file cannot be written.
    """
    figure, axes = plt.subplots(2, len(x), figsize=(1.4 * len(x) + 0.4, 3.6), squeeze=False, layout="constrained")
    errors = np.square(output - x / 255).mean(axis=(1, 2, 3))
    for (above, below), image, copy, error in zip(axes.T, x, output, errors):
        above.imshow(image)
        below.imshow(copy.clip(0, 1))
        above.axis("off")
        below.set(xticks=[], yticks=[])
        below.spines[:].set_visible(False)
        below.set_xlabel(f"MSE {error:.4f}", fontsize=9)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def save_image(path: str | Path, image: np.ndarray) -> None:
    """Writes one image as it is, a pixel a pixel.

    Args:
        path: PNG file to write.
        image: `(height, width, 3)`, uint8, or float32 in about 0–1.

    Raises:
        OSError: the file cannot be written.
    """
    pixels = image if image.dtype == np.uint8 else (image.clip(0, 1) * 255).round().astype(np.uint8)
    with whole_file(path) as temporary:
        plt.imsave(temporary, pixels, format="png")


def blocks(x: np.ndarray, y: np.ndarray, predicted: np.ndarray, columns: int = 5) -> str:
    """Draws grey images with block characters, four pixels in each, and the class read under each.

    Args:
        x: Images, `(N, height, width)` uint8, height and width even.
        y: True classes, `(N,)`.
        predicted: Predicted classes, `(N,)`.
        columns: Images side by side.

    Returns:
        Lines of text.
    """
    ink = (x > 96).astype(int)
    codes = ink[:, ::2, ::2] + 2 * ink[:, ::2, 1::2] + 4 * ink[:, 1::2, ::2] + 8 * ink[:, 1::2, 1::2]
    lines = []
    for start in range(0, len(x), columns):
        part = slice(start, start + columns)
        lines += ["".join(QUADRANTS[code] for code in row) for row in np.concatenate(codes[part], axis=1)]
        captions = [
            f"{guess}" if true == guess else f"{guess} (is {true})" for true, guess in zip(y[part], predicted[part])
        ]
        lines += ["".join(caption.center(codes.shape[2]) for caption in captions)]
    return "\n".join(line.rstrip() for line in lines)


def _save(figure: plt.Figure, path: str | Path) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)
