import keras
import numpy as np
import pytest

from keras_examples.recipes import RECIPES, OneCycle, build, optimizer


def test_one_cycle_rises_for_a_quarter_and_falls_to_zero():
    rates = [OneCycle(0.1, 400)(step) for step in range(400)]
    assert np.argmax(rates) in (99, 100)
    assert max(rates) == pytest.approx(0.1, rel=0.01)
    assert 0 < rates[0] < 0.002
    assert 0 < rates[-1] < 0.001
    assert np.diff(rates[:99]).min() > 0 > np.diff(rates[101:]).max()


@pytest.mark.parametrize("steps", [1, 2, 7, 400])
def test_one_cycle_is_the_same_for_numbers_and_for_tensors(steps):
    schedule = OneCycle(0.1, steps)
    for step in range(steps):
        on_device = schedule(keras.ops.convert_to_tensor(step))
        assert float(on_device) == pytest.approx(schedule(step), rel=1e-5, abs=1e-7)
        assert schedule(step) > 0


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizers_take_the_schedule_and_the_clip(name):
    made = optimizer(name, 0.1, 10, 0.5)
    assert float(made.learning_rate) == pytest.approx(OneCycle(0.1, 10)(0))
    assert made.global_clipnorm == 0.5
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    assert float(copy.learning_rate) == pytest.approx(float(made.learning_rate))


def test_every_row_builds_its_model():
    for example in RECIPES:
        model = build(example, {"vocabulary_size": 9} if example == "charrnn" else {})
        assert isinstance(model, keras.Sequential)


def test_a_size_the_builder_does_not_have():
    with pytest.raises(ValueError, match=r"mnist-linear has no such size. Received: --units 3. It has: none"):
        build("mnist-linear", {"units": 3})
