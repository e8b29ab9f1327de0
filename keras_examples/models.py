"""The seven models: sizes in, an uncompiled `keras.Sequential` out.

Image models take raw pixels (uint8, 0–255): `Rescaling(1/255)` is their first layer. Every model but the
autoencoder returns float32 logits, also under a mixed-precision policy; `keras.ops.softmax` makes them
probabilities.
"""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import keras
from keras import layers

from keras_examples.examples import EXAMPLES
from keras_examples.layers import LSTM, OneHot

MNIST_SHAPE = (28, 28)
CIFAR_SHAPE = (32, 32, 3)
NUM_CLASSES = 10

# Whatever another project left in keras.json, the channels of images come last here.
Conv2D, Conv2DTranspose, MaxPooling2D, Flatten = (
    partial(layer, data_format="channels_last")
    for layer in (layers.Conv2D, layers.Conv2DTranspose, layers.MaxPooling2D, layers.Flatten)
)


def mnist_linear() -> keras.Sequential:
    """Multinomial logistic regression on MNIST, zero-initialised; 7,850 parameters.

    From uint8 images `(N, 28, 28)`, 0–255, to float32 logits `(N, 10)`.
    Source: candle's mnist-training (`linear`) and the tch-rs mnist example.
    """
    return keras.Sequential(
        [
            keras.Input(MNIST_SHAPE, dtype="uint8"),
            layers.Rescaling(1 / 255),
            Flatten(),
            layers.Dense(NUM_CLASSES, kernel_initializer="zeros", dtype="float32"),
        ],
        name="mnist_linear",
    )


def mnist_mlp(hidden_units: Sequence[int] = (100,)) -> keras.Sequential:
    """Multilayer perceptron on MNIST; 79,510 parameters with the default 100 hidden units.

    The width of each hidden layer is at least 1: `(128,)` is tch-rs-example's, `(fc1, fc2)` the FSDL lab's.
    From uint8 images `(N, 28, 28)`, 0–255, to float32 logits `(N, 10)`.
    Source: candle's mnist-training (`mlp`), tch-rs-example, FSDL lab 1.
    """
    return keras.Sequential(
        [
            keras.Input(MNIST_SHAPE, dtype="uint8"),
            layers.Rescaling(1 / 255),
            Flatten(),
            *[layers.Dense(units, activation="relu") for units in hidden_units],
            layers.Dense(NUM_CLASSES, dtype="float32"),
        ],
        name="mnist_mlp",
    )


def mnist_cnn(dropout: float = 0.5) -> keras.Sequential:
    """LeNet-like convolutional network on MNIST; 1,111,946 parameters.

    As in the source, nothing but pooling follows a convolution: no activation. `dropout`, in [0, 1), is the fraction of
    the 1,024 hidden units dropped in training.
    From uint8 images `(N, 28, 28)`, 0–255, to float32 logits `(N, 10)`.
    Source: candle's mnist-training (`cnn`).
    """
    return keras.Sequential(
        [
            keras.Input(MNIST_SHAPE, dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Reshape((*MNIST_SHAPE, 1)),
            Conv2D(32, 5),  # (24, 24, 32)
            MaxPooling2D(2),
            Conv2D(64, 5),  # (8, 8, 64)
            MaxPooling2D(2),
            Flatten(),  # 1,024
            layers.Dense(1024, activation="relu"),
            layers.Dropout(dropout),
            layers.Dense(NUM_CLASSES, dtype="float32"),
        ],
        name="mnist_cnn",
    )


def cifar_dense(hidden_units: Sequence[int] = (1536,)) -> keras.Sequential:
    """Dense network on CIFAR-10; 4,735,498 parameters with the default 1,536 hidden units.

    The width of each hidden layer is at least 1.
    From uint8 images `(N, 32, 32, 3)`, 0–255, to float32 logits `(N, 10)`.
    Source: mamezou's tch-rs tutorial.
    """
    return keras.Sequential(
        [
            keras.Input(CIFAR_SHAPE, dtype="uint8"),
            layers.Rescaling(1 / 255),
            Flatten(),
            *[layers.Dense(units, activation="relu") for units in hidden_units],
            layers.Dense(NUM_CLASSES, dtype="float32"),
        ],
        name="cifar_dense",
    )


def cifar_cnn() -> keras.Sequential:
    """Small convolutional network on CIFAR-10; 6,738 parameters.

    From uint8 images `(N, 32, 32, 3)`, 0–255, to float32 logits `(N, 10)`.
    Source: mamezou's tch-rs tutorial.
    """
    return keras.Sequential(
        [
            keras.Input(CIFAR_SHAPE, dtype="uint8"),
            layers.Rescaling(1 / 255),
            *_encoder(),
            Flatten(),  # 512
            layers.Dense(NUM_CLASSES, dtype="float32"),
        ],
        name="cifar_cnn",
    )


def conv_autoencoder() -> keras.Sequential:
    """Convolutional autoencoder on CIFAR-10, a code of 8×8×8 numbers; 2,331 parameters.

    The decoder has no activation, so each 4×4×3 block of the output is an affine map of 8 numbers.
    From uint8 images `(N, 32, 32, 3)`, 0–255, to float32 images of the same shape, about 0–1.
    Source: mamezou's tch-rs tutorial.
    """
    return keras.Sequential(
        [
            keras.Input(CIFAR_SHAPE, dtype="uint8"),
            layers.Rescaling(1 / 255),
            *_encoder(),
            Conv2DTranspose(16, 2, strides=2),  # (16, 16, 16)
            Conv2DTranspose(3, 2, strides=2, dtype="float32"),  # (32, 32, 3)
        ],
        name="conv_autoencoder",
    )


def _encoder() -> list[keras.Layer]:
    return [
        Conv2D(16, 3, padding="same", activation="relu"),  # (32, 32, 16)
        MaxPooling2D(2),
        Conv2D(8, 3, padding="same", activation="relu"),  # (16, 16, 8)
        MaxPooling2D(2),  # (8, 8, 8)
    ]


def char_lstm(
    vocabulary_size: int, units: int = 256, layers: int = 1, dropout: float = 0.0, weight_dropout: float = 0.0
) -> keras.Sequential:
    """Character-level language model; 346,433 parameters for 65 characters, 256 units and one layer.

    At least 2 characters, 1 layer and 1 unit, the width of each layer. `dropout`, in [0, 1), is the fraction of each
    layer's outputs dropped in training, `weight_dropout` that of its recurrent weights, others at each step.
    From int32 character ids `(N, T)`, 0 ≤ id < `vocabulary_size`, to float32 logits `(N, T, vocabulary_size)` for
    the character that follows each; T is free.
    Source: the tch-rs char-rnn example: one-hot input, no embedding.
    """
    if layers < 1:
        raise ValueError(f"An LSTM needs a layer. Received: layers={layers}. Give at least 1.")
    model = keras.Sequential([keras.Input((None,), dtype="int32"), OneHot(vocabulary_size)], name="char_lstm")
    for _ in range(layers):
        model.add(LSTM(units, weight_dropout, return_sequences=True))
        if dropout:
            model.add(keras.layers.Dropout(dropout))
    # Under mixed_bfloat16 this product, not only the LSTM's, is in bfloat16: 6 % of a training step on a CPU.
    model.add(keras.layers.Dense(vocabulary_size))
    model.add(keras.layers.Activation("linear", dtype="float32"))
    return model


def default_sizes(example: str) -> dict[str, Any]:
    """The sizes that an example is built with, unless others are chosen."""
    return {name: size.default for name, size in EXAMPLES[example].sizes.items()}


def build(example: str, sizes: Mapping[str, Any]) -> keras.Sequential:
    """Builds the model of an example, `sizes` being arguments for its builder, whose own defaults hold for the others.

    Raises ValueError if the builder has no such argument, or refuses its value.
    """
    builder = globals()[EXAMPLES[example].builder]
    known = inspect.signature(builder).parameters
    for name, value in sizes.items():
        if name not in known:
            option = name.replace("_", "-")
            raise ValueError(
                f"{example} has no such size. Received: --{option} {value}. It has: {', '.join(known) or 'none'}."
            )
    return builder(**sizes)
