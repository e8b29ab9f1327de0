"""Twelve models of others, as every peer trains them: random data made from a seed, and what is measured."""

import gc
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

WORDS, CHARACTERS, CLASSES = 5000, 65, 10


class Model(NamedTuple):
    """What a model is trained on.

    Attributes:
        inputs: Makes the inputs of so many samples from a generator of NumPy's.
        batch_size: Samples in a step.
        steps: Steps in a round.
        loss: Name of the loss, which follows from the targets: classes, words at each place, yes or no, the input.
        targets: Shape of one sample's target.
    """

    inputs: Callable[[np.random.Generator, int], Any]
    batch_size: int
    steps: int
    loss: str = "sparse_categorical_crossentropy"
    targets: tuple[int, ...] = ()

    def data(self, samples: int) -> tuple[Any, Any]:
        generator = np.random.default_rng(0)
        x = self.inputs(generator, samples)
        match self.loss:
            case "mse":
                return x, x
            case "binary_crossentropy":
                return x, generator.integers(0, 2, (samples, *(self.targets or (1,)))).astype("float32")
            case _:
                classes = CHARACTERS if self.targets else CLASSES
                return x, generator.integers(0, classes, (samples, *self.targets)).astype("int32")


def numbers(*shape: int) -> Callable[[np.random.Generator, int], Any]:
    return lambda generator, samples: generator.random((samples, *shape), "float32")


def pairs(generator: np.random.Generator, samples: int) -> Any:
    return {name: generator.random((samples, 28, 28, 1), "float32") for name in ("left", "right")}


def texts(generator: np.random.Generator, samples: int) -> Any:
    """Words, 0 after the last of a text."""
    lengths = generator.integers(10, 81, (samples, 1))
    return np.where(np.arange(80) < lengths, generator.integers(1, WORDS, (samples, 80)), 0).astype("int32")


def characters(generator: np.random.Generator, samples: int) -> Any:
    return generator.integers(0, CHARACTERS, (samples, 64)).astype("int32")


IMAGES = numbers(64, 64, 3)
MODELS = {
    "mlp-batchnorm": Model(numbers(784), 128, 150),
    "conv1d": Model(numbers(128, 8), 64, 30),
    "transformer": Model(characters, 16, 15, targets=(64,)),
    "bilstm": Model(texts, 32, 10, "binary_crossentropy"),
    "lstm-l2": Model(numbers(60, 8), 64, 10, "binary_crossentropy"),
    "dense-autoencoder": Model(numbers(784), 128, 150, "mse"),
    "unet": Model(IMAGES, 8, 6, "binary_crossentropy", (64, 64, 1)),
    "vae": Model(numbers(784), 128, 150, "mse"),
    "siamese": Model(pairs, 64, 8, "binary_crossentropy"),
    "mobilenetv2": Model(IMAGES, 8, 6),
    "efficientnetb0": Model(IMAGES, 8, 4),
    "resnet50": Model(IMAGES, 8, 4),
}
BY_HAND = [*MODELS][:6]


def training(peer: str, name: str) -> Callable[[], list[float]]:
    """A function that builds the model anew; returns the seconds of its first step and milliseconds of a later one."""
    if peer == "pytorch":
        from benchmarks.models_by_hand import trainer
    else:
        from benchmarks.models_in_keras import trainer
    row = MODELS[name]
    first, whole = row.data(row.batch_size), row.data(row.batch_size * row.steps)

    def turn() -> list[float]:
        gc.collect()
        train, times = trainer(row, name, peer), []
        for data in (first, first, first, whole):  # from the third step on a recording is trusted
            start = time.perf_counter()
            train(*data)
            times.append(time.perf_counter() - start)
        return [times[0], times[-1] / row.steps * 1e3]

    return turn
