import keras
import pytest

from keras_examples.examples import EXAMPLES, Recipe
from keras_examples.models import build
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


def test_an_optimizer_that_is_none():
    with pytest.raises(ValueError, match=r"^No such optimizer\. Received: adamw\. .* adam \(AdamW with decay\)\.$"):
        optimizer(Recipe(epochs=1, learning_rate=0.1, optimizer="adamw"), 10)


def test_every_row_builds_its_model():
    for example in EXAMPLES:
        model = build(example, {"vocabulary_size": 9} if example == "charrnn" else {})
        assert isinstance(model, keras.Sequential)


def test_a_size_the_builder_does_not_have():
    with pytest.raises(ValueError, match=r"mnist-linear has no such size. Received: --units 3. It has: none"):
        build("mnist-linear", {"units": 3})
