"""The three kinds of work: tell classes apart, reconstruct, predict the next character.

A task knows how its data is split and batched, what is minimised and which figures count. Training, sampling and the
command line know the examples only through this common surface.
"""

import math
from typing import Any, Protocol

import keras
import numpy as np

from keras_examples.data import Images, Text
from keras_examples.data.batches import Batches, ImageBatches, TextBatches
from keras_examples.data.vocabulary import Vocabulary
from keras_examples.show.reports import has_progress_bar
from keras_examples.show.text import evaluate_text, generate

PREDICTION_BATCH = 500


class Task(Protocol):
    """What training needs to know of an example.

    Attributes:
        loss: What is minimised.
        metrics: Names of the Keras metrics reported beside it.
        curves: Figures of an epoch to draw, and what to call them.
    """

    loss: keras.losses.Loss
    metrics: tuple[str, ...]
    curves: dict[str, str]

    def vocabulary(self, dataset: Any) -> Vocabulary | None:
        """The characters the model knows, if it reads text."""

    def split(self, dataset: Any, validation_split: float) -> tuple[Any, Any, Any]:
        """Splits into arrays to train on, to validate on each epoch, and to measure at the end.

        Args:
            dataset: What the recipe's loader returned.
            validation_split: Last fraction of the training data to validate on, in [0, 1); with 0 each epoch
                validates on the test data, which then must not choose anything.
        """

    def first(self, arrays: Any, limit: int) -> Any:
        """The first `limit` samples of what `split` returned."""

    def batches(
        self, arrays: Any, batch_size: int, seed: int | None = None, shift: int = 0, flip: bool = False
    ) -> Batches:
        """Batches for `model.fit` and `model.evaluate`, shuffled and augmented if there is a seed."""

    def measure(self, model: keras.Model, arrays: Any) -> dict[str, Any]:
        """The figures of a trained model; `loss` is one of them."""

    def derive(self, logs: dict[str, float]) -> None:
        """Adds to an epoch's figures what follows from them."""

    def preview(self, model: keras.Model, vocabulary: Vocabulary | None) -> str:
        """A short sample to show between epochs, or ''."""

    def draw(self, figure: Any, model: keras.Model, arrays: Any, names: Any) -> None:
        """Draws on a matplotlib figure what a model makes of test arrays; names are the classes, or a vocabulary."""


class _ImageTask:
    """Arrays are `(x, y)`: images `(N, height, width[, channels])` uint8, labels `(N,)` int32."""

    def vocabulary(self, dataset: Images) -> None:
        return None

    def split(self, dataset: Images, validation_split: float) -> tuple[Any, Any, Any]:
        test = (dataset.x_test, dataset.y_test)
        kept = len(dataset.x_train) - int(len(dataset.x_train) * validation_split)
        train = (dataset.x_train[:kept], dataset.y_train[:kept])
        held_out = (dataset.x_train[kept:], dataset.y_train[kept:])
        return train, held_out if len(held_out[0]) else test, test

    def first(self, arrays: Any, limit: int) -> Any:
        return arrays[0][:limit], arrays[1][:limit]

    def derive(self, logs: dict[str, float]) -> None:
        pass

    def preview(self, model: keras.Model, vocabulary: Vocabulary | None) -> str:
        return ""


class Classification(_ImageTask):
    """Images to one of ten classes."""

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics: tuple[str, ...] = ("accuracy",)
    curves: dict[str, str] = {"loss": "loss, nats", "accuracy": "accuracy"}  # noqa: RUF012

    def batches(
        self, arrays: Any, batch_size: int, seed: int | None = None, shift: int = 0, flip: bool = False
    ) -> Batches:
        x, y = arrays
        return ImageBatches(x, y, batch_size, seed, shift, flip)

    def measure(self, model: keras.Model, arrays: Any) -> dict[str, Any]:
        """Measures a model on images and labels.

        Returns:
            `loss` (mean cross-entropy, nats), `accuracy` (0–1), `class_accuracy` (a number in 0–1 for each class) and
            `confusion` (counts, a row for each true class, a column for each predicted one).
        """
        x, y = arrays
        logits = model.predict(x, batch_size=PREDICTION_BATCH, verbose=int(has_progress_bar())).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        nats = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]
        confusion = confusion_matrix(y, logits)
        hits = confusion.diagonal()
        return {
            "loss": float(nats.mean()),
            "accuracy": float(hits.sum() / len(y)),
            "class_accuracy": (hits / confusion.sum(axis=1).clip(1)).tolist(),
            "confusion": confusion.tolist(),
        }

    def draw(self, figure: Any, model: keras.Model, arrays: Any, names: Any) -> None:
        from keras_examples.show import plots

        logits = model.predict(arrays[0], batch_size=PREDICTION_BATCH, verbose=0)
        probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
        kernels = (layer.get_weights()[0] for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
        x, y = arrays
        plots.draw_mistakes(figure, x, y, probabilities, confusion_matrix(y, logits), names, next(kernels, None))


class Reconstruction(_ImageTask):
    """Images to themselves, their pixels scaled to 0–1."""

    loss = keras.losses.MeanSquaredError()
    metrics: tuple[str, ...] = ()
    curves: dict[str, str] = {"loss": "mean squared error"}  # noqa: RUF012

    def batches(
        self, arrays: Any, batch_size: int, seed: int | None = None, shift: int = 0, flip: bool = False
    ) -> Batches:
        return ImageBatches(arrays[0], None, batch_size, seed, shift, flip)

    def measure(self, model: keras.Model, arrays: Any) -> dict[str, Any]:
        """Measures a model on images.

        Returns:
            `loss` (mean squared error), `psnr` (dB, of that error), `correlation` (Pearson's over all pixels, for red,
            green and blue) and `bound` (see `block_bound`).
        """
        x = arrays[0].astype(np.float32) / 255
        output = model.predict(arrays[0], batch_size=PREDICTION_BATCH, verbose=int(has_progress_bar()))
        error = float(np.square(output - x, dtype=np.float64).mean())
        channels = [(x[..., i].ravel(), output[..., i].ravel()) for i in range(x.shape[-1])]
        return {
            "loss": error,
            "psnr": -10 * math.log10(error),
            "correlation": [float(np.corrcoef(*pair)[0, 1]) for pair in channels],
            "bound": block_bound(arrays[0]),
        }

    def draw(self, figure: Any, model: keras.Model, arrays: Any, names: Any) -> None:
        from keras_examples.show import plots

        x = arrays[0][:16]
        plots.draw_pairs(figure, x, model.predict(x, verbose=0))


class NextCharacter:
    """Text to the character that follows each; arrays are ids, `(N,)` int32.

    Args:
        sequence_length: Characters in a training window.
    """

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics: tuple[str, ...] = ("accuracy",)
    curves: dict[str, str] = {"bits": "loss, bits a character", "accuracy": "accuracy"}  # noqa: RUF012

    def __init__(self, sequence_length: int):
        self.sequence_length = sequence_length

    def vocabulary(self, dataset: Text) -> Vocabulary:
        return Vocabulary.from_text(dataset.train + dataset.validation)

    def split(self, dataset: Text, validation_split: float) -> tuple[Any, Any, Any]:
        vocabulary = self.vocabulary(dataset)
        ids, test = vocabulary.encode(dataset.train), vocabulary.encode(dataset.validation)
        kept = len(ids) - int(len(ids) * validation_split)
        for part, name in ((ids[:kept], "training"), (test, "validation")):
            if len(part) <= self.sequence_length:
                raise ValueError(
                    f"The {name} text is shorter than a sequence. Received: {len(part)} characters, sequence length "
                    f"{self.sequence_length}. Give a text of at least {10 * (self.sequence_length + 1)} characters, "
                    "and a small --validation-split."
                )
        held_out = ids[kept:]
        return ids[:kept], held_out if len(held_out) > self.sequence_length else test, test

    def first(self, arrays: Any, limit: int) -> Any:
        return arrays[: (limit + 1) * self.sequence_length]  # TextBatches keeps one window as slack

    def batches(
        self, arrays: Any, batch_size: int, seed: int | None = None, shift: int = 0, flip: bool = False
    ) -> Batches:
        return TextBatches(arrays, self.sequence_length, batch_size, seed)

    def measure(self, model: keras.Model, arrays: Any) -> dict[str, Any]:
        """Measures a model over a whole text, its state carried from the first character to the last.

        Returns:
            `loss` (nats a character) and `bits` (bits a character).
        """
        figures = {"loss": evaluate_text(model, arrays)}
        self.derive(figures)
        return figures

    def derive(self, logs: dict[str, float]) -> None:
        for prefix in ("", "val_"):
            if f"{prefix}loss" in logs:
                logs[f"{prefix}bits"] = logs[f"{prefix}loss"] / math.log(2)

    def preview(self, model: keras.Model, vocabulary: Vocabulary | None) -> str:
        assert vocabulary
        return "".join(generate(model, vocabulary, "", length=120, temperature=0.8))

    def draw(self, figure: Any, model: keras.Model, arrays: Any, names: Any) -> None:
        from keras_examples.show import plots

        plots.draw_text(figure, "".join(generate(model, names, "", length=1200, temperature=0.8, seed=0)))


def confusion_matrix(y: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Counts, a row for each true class, a column for each predicted one; `y` is `(N,)`, `logits` `(N, classes)`."""
    confusion = np.zeros((logits.shape[1],) * 2, int)
    np.add.at(confusion, (y, logits.argmax(axis=1)), 1)
    return confusion


def block_bound(x: np.ndarray, side: int = 4, components: int = 8) -> float:
    """The least mean squared error of any affine code of each block of pixels, by principal components.

    Args:
        x: Images `(N, height, width, channels)` uint8, 0–255; `side` divides height and width.
        side: Side of a block in pixels.
        components: Numbers in a block's code.

    Returns:
        The mean, over a block's numbers scaled to 0–1, of the variance that the code leaves out.
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
