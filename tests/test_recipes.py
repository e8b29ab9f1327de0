import math
import re

import keras
import numpy as np
import pytest

from keras_examples.examples import EXAMPLES, Recipe
from keras_examples.models import build
from keras_examples.training import fit
from keras_examples.training.optimizers import OneCycle, optimizer


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_optimizers_take_what_the_recipe_says(name):
    recipe = Recipe(epochs=1, learning_rate=0.1, optimizer=name, weight_decay=0.05, clip_norm=0.5, centre=0.25)
    made = optimizer(recipe, 10)
    assert float(made.learning_rate) == pytest.approx(OneCycle(0.1, 10)(0))
    assert made.global_clipnorm == 0.5
    assert made.weight_decay == 0.05
    assert made.centre == 0.25
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    assert float(copy.learning_rate) == pytest.approx(float(made.learning_rate))
    assert copy.centre == 0.25


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"epochs": "3"}, "a whole number, 1<=x<=1000000000"),
        ({"epochs": 0}, "a whole number, 1<=x<=1000000000"),
        ({"epochs": 2.0}, "a whole number, 1<=x<=1000000000"),
        ({"epochs": True}, "a whole number, 1<=x<=1000000000"),
        ({"learning_rate": 0}, "a number, 0<x<inf"),
        ({"learning_rate": math.nan}, "a number, 0<x<inf"),
        ({"learning_rate": math.inf}, "a number, 0<x<inf"),
        ({"weight_decay": -0.1}, "a number, 0<=x<inf"),
        ({"validation_split": 1.0}, "a number, 0<=x<1"),
        ({"centre": 7}, "a number, 0<=x<=1"),
        ({"shift": 17}, "a whole number, 0<=x<=16"),
        ({"seed": -1}, "a whole number, 0<=x<=4294967295"),
        ({"seed": None}, "a whole number, 0<=x<=4294967295"),
        ({"limit": 0}, "a whole number, 1<=x<=1000000000"),
        ({"optimizer": "adamw"}, "one of sgd, adam, muon"),
        ({"precision": "float16"}, "one of float32, bfloat16"),
        ({"data": "reel"}, "one of auto, real, synthetic"),
        ({"augment": "yes"}, "true or false"),
        ({"sizes": None}, "a dictionary"),
    ],
)
def test_what_an_option_may_not_be(given, remedy):
    ((name, value),) = given.items()
    message = f"Not a value of {name}. Received: {name}={value!r}. Give {remedy}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit("mnist-linear", **{"data": "synthetic", "dry_run": True} | given)


@pytest.mark.parametrize(
    ("example", "name", "value", "received", "remedy"),
    [
        ("mnist-mlp", "hidden_units", 16, 16, "a list of whole numbers"),
        ("mnist-mlp", "hidden_units", [0], 0, "a whole number, 1<=x<=65536"),
        ("mnist-mlp", "hidden_units", ["a"], "a", "a whole number, 1<=x<=65536"),
        ("mnist-cnn", "dropout", 1, 1, "a number, 0<=x<1"),
        ("charrnn", "units", "x", "x", "a whole number, 1<=x<=65536"),
    ],
)
def test_what_a_size_may_not_be(example, name, value, received, remedy):
    message = f"Not a value of {name}. Received: {name}={received!r}. Give {remedy}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(example, sizes={name: value}, data="synthetic", dry_run=True)


def test_numbers_of_numpy_are_numbers(tmp_path):
    given = {
        "epochs": np.int64(1),
        "batch_size": np.int32(64),
        "learning_rate": np.float32(0.01),
        "limit": np.int64(640),
        "sizes": {"hidden_units": np.array([16])},
    }
    report = fit("mnist-mlp", **given, data="synthetic", save=tmp_path / "numpy.keras", echo=lambda line: None)
    assert (report["epochs"], report["samples"]) == (1, 640)


def test_every_row_builds_its_model():
    for example in EXAMPLES:
        model = build(example, {"vocabulary_size": 9} if example == "charrnn" else {})
        assert isinstance(model, keras.Sequential)


def test_a_size_the_builder_does_not_have():
    with pytest.raises(ValueError, match=r"mnist-linear has no such size. Received: --units 3. It has: none"):
        build("mnist-linear", {"units": 3})
