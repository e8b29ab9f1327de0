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
    """How an example is trained. Each field is an option of `fit`, and works for any example.

    Attributes:
        epochs: Passes over the training data, at least 1.
        learning_rate: Peak of the one-cycle schedule, above 0.
        batch_size: Samples a step, at least 1.
        optimizer: `sgd` (Nesterov momentum 0.9), `adam` or `adamw` (weight decay 0.05).
        clip_norm: Largest norm of the whole gradient; 0 does not clip.
        centre: Brightness, 0–1, that counts as zero in the steps of the first layer, see `training.optimizers`.
        augment: Whether training shifts and flips images at random.
        shift: Largest shift in pixels.
        flip: Whether half of the images are mirrored.
        validation_split: Last fraction of the training data to validate on, in [0, 1); 0 validates on the test data.
    """

    epochs: int
    learning_rate: float
    batch_size: int = 128
    optimizer: str = "adam"
    clip_norm: float = 0.0
    centre: float = 0.0
    augment: bool = False
    shift: int = 0
    flip: bool = False
    validation_split: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Options(Recipe):
    """All that `fit` can be asked: a recipe, and what belongs to one run.

    Attributes:
        sizes: Arguments of the builder.
        data: `auto`, `real` or `synthetic`, see `data.load`.
        data_dir: Folder of the data files.
        text: UTF-8 file to learn instead of the data set, for an example that reads text.
        precision: `float32` or `bfloat16` (float32 variables and logits, bfloat16 between them).
        seed: Seed of everything drawn at random, 0 to 2³² − 1.
        limit: Number of training samples to use, at least 1, or None for all.
        dry_run: Whether to train and measure one batch only, and save nothing.
        early_stopping: Epochs without a lower validation loss after which to stop, at least 1, or None. The weights of
            the best epoch are kept.
        accelerate: Whether to replay captured steps on torch, instead of running stock Keras.
        load: Weights to start from.
        save: Where the weights go instead of `weights/<example>.weights.h5`.
        save_config: TOML file to write these options to.
        log_dir: Folder for TensorBoard's event files and `history.csv`.
        plot: Whether to draw the run beside the weights, as `<example>.png`.
    """

    sizes: dict[str, Any] = field(default_factory=dict)
    data: str = "auto"
    data_dir: str = "datasets"
    text: str | None = None
    precision: str = "float32"
    seed: int = 0
    limit: int | None = None
    dry_run: bool = False
    early_stopping: int | None = None
    accelerate: bool = True
    load: str | None = None
    save: str | None = None
    save_config: str | None = None
    log_dir: str | None = None
    plot: bool = False


@dataclass(frozen=True, kw_only=True)
class Example:
    """An example.

    Attributes:
        command: Its command; the first row of a command is what `--arch` is by default.
        arch: What `--arch` calls it among several examples of one command, else ''.
        dataset: A row of `data.DATASETS`.
        builder: A function in `models`.
        task: A class in `training.tasks`.
        recipe: How it is trained.
        sizes: Arguments of its builder that can be chosen, by name.
        source_reaches: What the program that the architecture comes from reaches, or ''.
    """

    command: str
    arch: str = ""
    dataset: str
    builder: str
    task: str
    recipe: Recipe
    sizes: Mapping[str, Size] = field(default_factory=dict)
    source_reaches: str = ""


COMMANDS = {
    "mnist": "Handwritten digits: linear, multilayer perceptron or convolutional.",
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
        recipe=Recipe(epochs=20, learning_rate=0.004, augment=True, shift=1),
        sizes={"hidden_units": Size((100,), HIDDEN_UNITS)},
        source_reaches="96–97 %",
    ),
    "mnist-cnn": _mnist(
        arch="cnn",
        builder="mnist_cnn",
        recipe=Recipe(epochs=30, learning_rate=0.002, augment=True, shift=2),
        sizes={"dropout": Size(0.5, "Fraction of the 1,024 hidden units dropped in training.")},
        source_reaches="99.0–99.1 %",
    ),
    "cifar-cnn": _cifar(
        arch="cnn",
        builder="cifar_cnn",
        recipe=_photos(epochs=100, learning_rate=0.005, batch_size=32),
        source_reaches="67 %",
    ),
    "cifar-dense": _cifar(
        arch="dense",
        builder="cifar_dense",
        recipe=_photos(epochs=20, learning_rate=0.07, optimizer="sgd"),
        sizes={"hidden_units": Size((1536,), HIDDEN_UNITS)},
        source_reaches="41 %",
    ),
    "autoencoder": Example(
        command="autoencoder",
        dataset="cifar10",
        builder="conv_autoencoder",
        task="Reconstruction",
        recipe=_photos(epochs=30, learning_rate=0.01, batch_size=32),
    ),
    "charrnn": Example(
        command="charrnn",
        dataset="tinyshakespeare",
        builder="char_lstm",
        task="NextCharacter",
        recipe=Recipe(epochs=50, learning_rate=0.01, batch_size=32, clip_norm=0.5, validation_split=0.0),
        sizes={
            "units": Size(256, "Width of each LSTM layer, at least 1."),
            "layers": Size(1, "Number of LSTM layers, at least 1."),
            "dropout": Size(0.25, "Fraction of each LSTM layer's outputs dropped in training."),
            "weight_dropout": Size(0.25, "Fraction of each LSTM layer's recurrent weights dropped at each step."),
        },
    ),
}
