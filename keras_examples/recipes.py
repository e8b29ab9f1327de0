"""One row an example: what it learns from, what it is built of and how it is trained.

The architecture is the source's; the recipe is ours. Adding an example is one builder in `models.py` plus one row.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras

from keras_examples import data as datasets
from keras_examples import models
from keras_examples.training.optimizers import CentredAdam, CentredSGD, OneCycle
from keras_examples.training.tasks import Classification, NextCharacter, Reconstruction, Task


@dataclass(frozen=True)
class Recipe:
    """How an example is trained, unless options say otherwise.

    Attributes:
        dataset: Loader of the data set, called with `data` and `data_dir`.
        build: Builder of the model.
        task: What is learned from the data.
        epochs: Passes over the training data.
        learning_rate: Peak of the one-cycle schedule.
        batch_size: Samples a step.
        optimizer: `sgd`, `adam` or `adamw`.
        clip_norm: Largest norm of the whole gradient, or None.
        centre: Brightness, 0–1, that counts as zero in the steps of the first layer, see `optimizers.Centred`.
        augment: Whether to shift and flip by default.
        shift: Largest random shift in pixels when augmenting.
        flip: Whether augmenting mirrors half of the images.
        validation_split: Fraction of the training data kept for validation; 0 validates on the test data.
        sizes: Arguments for the builder other than its defaults.
    """

    dataset: Callable[..., Any]
    build: Callable[..., keras.Sequential]
    task: Task
    epochs: int
    learning_rate: float
    batch_size: int = 128
    optimizer: str = "adam"
    clip_norm: float | None = None
    centre: float = 0.0
    augment: bool = False
    shift: int = 0
    flip: bool = False
    validation_split: float = 0.05
    sizes: Mapping[str, Any] = field(default_factory=dict)


_mnist = partial(Recipe, dataset=datasets.load_mnist, task=Classification(), shift=2)
_cifar = partial(Recipe, dataset=datasets.load_cifar10, shift=2, flip=True, augment=True, centre=0.5)

RECIPES: dict[str, Recipe] = {
    "mnist-linear": _mnist(build=models.mnist_linear, epochs=20, learning_rate=0.003),
    "mnist-mlp": _mnist(build=models.mnist_mlp, epochs=20, learning_rate=0.004, augment=True, shift=1),
    "mnist-cnn": _mnist(build=models.mnist_cnn, epochs=30, learning_rate=0.002, augment=True),
    "cifar-dense": _cifar(
        build=models.cifar_dense, task=Classification(), epochs=20, learning_rate=0.07, optimizer="sgd"
    ),
    "cifar-cnn": _cifar(build=models.cifar_cnn, task=Classification(), epochs=100, learning_rate=0.005, batch_size=32),
    "autoencoder": _cifar(
        build=models.conv_autoencoder, task=Reconstruction(), epochs=30, learning_rate=0.01, batch_size=32
    ),
    "charrnn": Recipe(
        dataset=datasets.load_text,
        build=models.char_lstm,
        task=NextCharacter(sequence_length=180),
        sizes={"dropout": 0.25, "weight_dropout": 0.25},
        epochs=50,
        learning_rate=0.01,
        batch_size=32,
        clip_norm=0.5,
        validation_split=0,
    ),
}


def default_sizes(example: str) -> dict[str, Any]:
    """The arguments of an example's builder by default: its own, but where the recipe says otherwise."""
    recipe = RECIPES[example]
    known = inspect.signature(recipe.build).parameters.items()
    return {name: size.default for name, size in known if size.default is not size.empty} | {**recipe.sizes}


def build(example: str, sizes: dict[str, Any]) -> keras.Sequential:
    """Builds the model of an example.

    Args:
        example: Example id, such as `mnist-cnn`.
        sizes: Arguments for its builder.

    Raises:
        ValueError: the builder has no such argument, or refuses its value.
    """
    builder = RECIPES[example].build
    known = inspect.signature(builder).parameters
    for name, value in sizes.items():
        if name not in known:
            option = name.replace("_", "-")
            raise ValueError(
                f"{example} has no such size. Received: --{option} {value}. It has: {', '.join(known) or 'none'}."
            )
    return builder(**sizes)


def optimizer(
    name: str, learning_rate: float, steps: int, clip_norm: float | None, centre: float
) -> keras.optimizers.Optimizer:
    """Makes the optimizer of a run, its learning rate on a one-cycle schedule.

    Args:
        name: `sgd` (Nesterov momentum 0.9), `adam` or `adamw` (weight decay 0.05).
        learning_rate: Peak learning rate, more than 0.
        steps: Steps of the whole run, at least 1.
        clip_norm: Largest norm of the whole gradient, or None.
        centre: Brightness that counts as zero in the steps of the first layer, 0–1, see `Centred`.
    """
    make = {
        "sgd": lambda **rest: CentredSGD(momentum=0.9, nesterov=True, **rest),
        "adam": CentredAdam,
        "adamw": lambda **rest: CentredAdam(weight_decay=0.05, **rest),
    }[name]
    return make(learning_rate=OneCycle(learning_rate, steps), global_clipnorm=clip_norm, centre=centre)
