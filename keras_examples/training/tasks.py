"""The three kinds of work: tell classes apart, reconstruct, predict the next character.

Training knows the examples only through what tasks have: a `loss` to minimise, `metrics` of Keras beside it, `curves`
(figures of an epoch to draw, and what to call them), and

    split(dataset, validation_split)  arrays to train on, to validate on each epoch, and to measure at the end; with a
                                      split of 0 each epoch validates on the test data, which then must choose nothing
    first(arrays, limit)              the first samples of such arrays
    batches(arrays, recipe, seed)     for `model.fit`, shuffled and augmented as the recipe says if there is a seed
    measure(model, arrays)            the figures of a trained model
    derive(logs)                      adds to an epoch's figures what follows from them
    preview(model, vocabulary)        a short sample to show between epochs, or ''
    draw(figure, model, arrays, names)  on a matplotlib figure, what the model makes of test arrays
"""

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_examples.data import Images, Text
from keras_examples.data.batches import Batches, ImageBatches, TextBatches
from keras_examples.data.vocabulary import Vocabulary
from keras_examples.examples import EXAMPLES, Recipe
from keras_examples.show.reports import has_progress_bar
from keras_examples.show.text import evaluate_text, generate
from keras_examples.training.figures import block_bound, confusion_matrix, error_and_correlation

PREDICTION_BATCH = 250


class _ImageTask:
    """Arrays are `(x, y)`: images `(N, height, width[, channels])` uint8, labels `(N,)` int32."""

    def split(self, dataset: Images, validation_split: float) -> tuple[Any, Any, Any]:
        test = (dataset.x_test, dataset.y_test)
        kept = len(dataset.x_train) - int(len(dataset.x_train) * validation_split)
        train = (dataset.x_train[:kept], dataset.y_train[:kept])
        held_out = (dataset.x_train[kept:], dataset.y_train[kept:])
        return train, held_out if len(held_out[0]) else test, test

    def first(self, arrays: Any, limit: int) -> Any:
        return arrays[0][:limit], arrays[1][:limit]

    def batches(self, arrays: Any, recipe: Recipe, seed: int | None = None) -> Batches:
        shift, flip = (recipe.shift, recipe.flip) if recipe.augment else (0, False)
        if recipe.augment and not (shift or flip):
            raise ValueError("There is nothing to augment by. Received: --augment, --shift 0. Give a --shift.")
        return ImageBatches(*self.pairs(arrays), recipe.batch_size, seed, shift, flip)

    def pairs(self, arrays: Any) -> tuple[np.ndarray, np.ndarray | None]:
        return arrays

    def derive(self, logs: dict[str, float]) -> None:
        pass

    def preview(self, model: keras.Model, vocabulary: Vocabulary | None) -> str:
        return ""


class Classification(_ImageTask):
    """Images to one of ten classes."""

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics = ("accuracy",)
    curves: dict[str, str] = {"loss": "loss, nats", "accuracy": "accuracy"}  # noqa: RUF012

    def predict(self, model: keras.Model, x: np.ndarray) -> np.ndarray:
        return model.predict(x, batch_size=PREDICTION_BATCH, verbose=int(has_progress_bar()))

    def measure(self, model: keras.Model, arrays: Any) -> dict[str, Any]:
        """Returns `loss` (mean cross-entropy, nats), `accuracy` (0–1), `class_accuracy` (0–1 for each class) and
        `confusion` (counts, a row for each true class, a column for each predicted one)."""
        x, y = arrays
        logits = self.predict(model, x).astype(np.float64)
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

        x, y = arrays
        logits = self.predict(model, x)
        probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
        kernels = (layer.get_weights()[0] for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
        plots.draw_mistakes(figure, x, y, probabilities, confusion_matrix(y, logits), names, next(kernels, None))


class Reconstruction(_ImageTask):
    """Images to themselves, their pixels scaled to 0–1."""

    loss = keras.losses.MeanSquaredError()
    metrics = ()
    curves: dict[str, str] = {"loss": "mean squared error"}  # noqa: RUF012

    def pairs(self, arrays: Any) -> tuple[np.ndarray, np.ndarray | None]:
        return arrays[0], None

    def measure(self, model: keras.Model, arrays: Any) -> dict[str, Any]:
        """Returns `loss` (mean squared error), `psnr` (dB, of that error), `correlation` (Pearson's over all pixels,
        for red, green and blue) and `bound` (see `block_bound`)."""
        x = arrays[0]
        parts = np.array_split(x, -(-len(x) // PREDICTION_BATCH))  # as floats all would take eight times the room
        error, correlation = error_and_correlation(
            (part.astype(np.float32) / 255, model.predict(part, PREDICTION_BATCH, verbose=0)) for part in parts
        )
        psnr = -10 * math.log10(error)
        return {"loss": error, "psnr": psnr, "correlation": correlation, "bound": block_bound(x)}

    def draw(self, figure: Any, model: keras.Model, arrays: Any, names: Any) -> None:
        from keras_examples.show import plots

        x = arrays[0][:16]
        plots.draw_pairs(figure, x, model.predict(x, verbose=0))


class NextCharacter:
    """Text to the character that follows each; arrays are ids, `(N,)` int32, trained on in windows of a length."""

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics = ("accuracy",)
    curves: dict[str, str] = {"bits": "loss, bits a character", "accuracy": "accuracy"}  # noqa: RUF012

    def __init__(self, sequence_length: int = 180):
        self.sequence_length = sequence_length

    def split(self, dataset: Text, validation_split: float) -> tuple[Any, Any, Any]:
        vocabulary = dataset.vocabulary
        if len(vocabulary) < 2:
            raise ValueError(
                f"There is nothing to predict in a text of one distinct character. Received: {dataset.name}, all "
                f"{vocabulary.characters!r}. Give another text."
            )
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

    def batches(self, arrays: Any, recipe: Recipe, seed: int | None = None) -> Batches:
        if recipe.augment:
            raise ValueError("A text cannot be augmented. Received: --augment. Leave it out.")
        return TextBatches(arrays, self.sequence_length, recipe.batch_size, seed)

    def measure(self, model: keras.Model, arrays: Any) -> dict[str, Any]:
        """Returns `loss` (nats a character) and `bits` (bits a character) over a whole text, the state carried."""
        figures = {"loss": evaluate_text(model, arrays, verbose=int(has_progress_bar()))}
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


Task = Classification | Reconstruction | NextCharacter


def task_of(example: str) -> Task:
    """The task of an example, such as `mnist-cnn`."""
    return globals()[EXAMPLES[example].task]()


@dataclass
class Data:
    """What a run learns from: batches to train on and to validate on after each epoch, and arrays to measure on.

    `sha256` is of the arrays that the training batches are made of.
    """

    dataset: Any
    task: Any
    batches: Batches
    validation: Batches
    test: Any
    sha256: str
