"""The seven examples as every peer runs them: sizes, and random data made from a seed."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Workload:
    """What is trained on what.

    Attributes:
        builder: Name of the builder in `keras_examples`.
        input_shape: One sample: `(28, 28)` or `(32, 32, 3)` uint8 pixels, or `(180,)` characters of a text.
        steps: Steps in a round.
        batch_size: Samples in a step.
        classes: Number of classes, or 0 to reconstruct the input.
    """

    builder: str
    input_shape: tuple[int, ...]
    steps: int
    batch_size: int = 128
    classes: int = 10

    def data(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Makes pixels and labels, pixels and None, or the ids of a text and None.

        The text has a sequence more than is trained on, so that it can be cut anywhere.
        """
        generator = np.random.default_rng(0)
        samples = self.steps * self.batch_size
        if self.builder == "char_lstm":
            return generator.integers(0, self.classes, (samples + 1) * self.input_shape[0], np.int32), None
        x = generator.integers(0, 256, (samples, *self.input_shape), np.uint8)
        return x, generator.integers(0, self.classes, samples, np.int32) if self.classes else None


WORKLOADS = {
    "mnist-linear": Workload("mnist_linear", (28, 28), steps=2000),
    "mnist-mlp": Workload("mnist_mlp", (28, 28), steps=1500),
    "mnist-cnn": Workload("mnist_cnn", (28, 28), steps=12),
    "cifar-dense": Workload("cifar_dense", (32, 32, 3), steps=30),
    "cifar-cnn": Workload("cifar_cnn", (32, 32, 3), steps=30),
    "autoencoder": Workload("conv_autoencoder", (32, 32, 3), steps=24, classes=0),
    "charrnn": Workload("char_lstm", (180,), steps=3, batch_size=64, classes=65),
}
