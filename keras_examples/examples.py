"""The examples, a row each: what is learned, from which data, by which model, and how it is trained.

Plain data that imports nothing heavy: the command line makes its commands, options and help of it. The architecture of
an example is its source's, the recipe is ours. docs/adding-an-example.md adds one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Size:
    """An argument of a model's builder that the command line offers: what the example sets it to, and what it is."""

    default: int | float | tuple[int, ...]
    help: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an example is trained. Each field is an option of `fit`, and works for any example."""

    epochs: int  # passes over the training data, at least 1
    learning_rate: float  # peak of the one-cycle schedule, above 0
    batch_size: int = 128  # samples a step, at least 1
    optimizer: str = "adam"  # or sgd (Nesterov momentum 0.9), muon
    weight_decay: float = 0.0  # fraction of every weight, times the learning rate, that each step takes off
    clip_norm: float = 0.0  # largest norm of the whole gradient; 0 does not clip
    centre: float = 0.0  # brightness, 0–1, that counts as zero in the steps of the first layer, see `Centred`
    augment: bool = False  # shift and flip images at random in training
    shift: int = 0  # largest shift in pixels
    flip: bool = False  # mirror half of the images
    validation_split: float = 0.05  # last fraction of the training data to validate on; 0 validates on the test data


@dataclass(frozen=True, kw_only=True)
class Options(Recipe):
    """All that `fit` can be asked: a recipe, and what belongs to one run."""

    sizes: dict[str, Any] = field(default_factory=dict)  # arguments of the builder
    data: str = "auto"  # or real, synthetic: see `data.load`
    data_dir: str = "datasets"
    text: str | None = None  # UTF-8 file to learn instead of the data set, where that is a text
    precision: str = "float32"  # or bfloat16, with float32 variables and logits
    seed: int = 0  # of everything drawn at random, below 2³²
    limit: int | None = None  # training samples to use, at least 1; None for all
    dry_run: bool = False  # train and measure one batch, and save nothing
    early_stopping: int | None = None  # epochs without a lower validation loss to stop after; the best's weights stay
    accelerate: bool = True  # on torch, replay captured steps instead of running stock Keras
    load: str | None = None  # weights to start from
    save: str | None = None  # where the weights go instead of weights/<example>.weights.h5
    save_config: str | None = None  # TOML file to write these options to
    log_dir: str | None = None  # folder for TensorBoard's event files and history.csv
    plot: bool = False  # draw the run beside the weights, as <example>.png


@dataclass(frozen=True, kw_only=True)
class Example:
    """What is learned, from which data, by which model, and how it is trained."""

    command: str  # the first row of a command is what `--arch` is by default
    arch: str = ""  # what `--arch` calls it, where a command has several
    dataset: str  # a row of `data.catalogue`
    builder: str  # a function in `models`
    task: str  # a class in `training.tasks`
    recipe: Recipe
    sizes: Mapping[str, Size] = field(default_factory=dict)  # arguments of the builder that can be chosen
    source_reaches: str = ""  # what the program that the architecture comes from reaches


COMMANDS = {
    "mnist": "Handwritten digits: linear, perceptron or convolutional.",
    "cifar": "CIFAR-10 photos in ten classes: convolutional or dense.",
    "autoencoder": "CIFAR-10 photos through a code of 8×8×8 numbers and back.",
    "charrnn": "Text, a character at a time, by an LSTM.",
}

HIDDEN_UNITS = "Width of each hidden layer, each at least 1."

_mnist = partial(Example, command="mnist", dataset="mnist", task="Classification")
_cifar = partial(Example, command="cifar", dataset="cifar10", task="Classification")
_photos = partial(Recipe, centre=0.5, augment=True, shift=2, flip=True)

EXAMPLES: dict[str, Example] = {
    "mnist-linear": _mnist(
        arch="linear",
        builder="mnist_linear",
        recipe=Recipe(epochs=20, learning_rate=0.003, shift=2),
        source_reaches="91.5–92 %",
    ),
    "mnist-mlp": _mnist(
        arch="mlp",
        builder="mnist_mlp",
        recipe=Recipe(epochs=60, learning_rate=0.004, weight_decay=0.05, augment=True, shift=1),
        sizes={"hidden_units": Size((100,), HIDDEN_UNITS)},
        source_reaches="96–97 %",
    ),
    "mnist-cnn": _mnist(
        arch="cnn",
        builder="mnist_cnn",
        recipe=Recipe(epochs=60, learning_rate=0.002, weight_decay=0.1, augment=True, shift=2),
        sizes={"dropout": Size(0.5, "Fraction of the 1,024 hidden units dropped in training.")},
        source_reaches="99.0–99.1 %",
    ),
    "cifar-cnn": _cifar(
        arch="cnn",
        builder="cifar_cnn",
        recipe=_photos(epochs=100, learning_rate=0.02, batch_size=64, optimizer="muon"),
        source_reaches="67 %",
    ),
    "cifar-dense": _cifar(
        arch="dense",
        builder="cifar_dense",
        recipe=_photos(epochs=40, learning_rate=0.07, optimizer="sgd"),
        sizes={"hidden_units": Size((1536,), HIDDEN_UNITS)},
        source_reaches="41 %",
    ),
    "autoencoder": Example(
        command="autoencoder",
        dataset="cifar10",
        builder="conv_autoencoder",
        task="Reconstruction",
        recipe=_photos(epochs=40, learning_rate=0.02, batch_size=32, optimizer="muon"),
    ),
    "charrnn": Example(
        command="charrnn",
        dataset="tinyshakespeare",
        builder="char_lstm",
        task="NextCharacter",
        recipe=Recipe(
            epochs=100, learning_rate=0.01, batch_size=32, weight_decay=0.03, clip_norm=0.5, validation_split=0.0
        ),
        sizes={
            "units": Size(256, "Width of each LSTM layer, at least 1."),
            "layers": Size(1, "Number of LSTM layers, at least 1."),
            "dropout": Size(0.25, "Fraction of each LSTM layer's outputs dropped in training."),
            "weight_dropout": Size(0.25, "Fraction of each LSTM layer's recurrent weights dropped at each step."),
        },
    ),
}
