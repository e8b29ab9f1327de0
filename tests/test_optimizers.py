import sys
from functools import partial

import keras
import numpy as np
import pytest

from keras_examples.acceleration import accelerate
from keras_examples.examples import Recipe
from keras_examples.training.optimizers import CentredAdam, CentredMuon, CentredSGD, OneCycle, optimizer


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


def test_an_accelerated_run_asks_one_cycle_with_numbers():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile(CentredAdam(OneCycle(0.1, 20)), "mse")
    accelerate(model, around_update=model.optimizer.centred)
    asked = []

    def see(frame, event, argument):
        if event == "call" and frame.f_code is OneCycle.__call__.__code__:
            asked.append(type(frame.f_locals["step"]))

    sys.setprofile(see)
    try:
        model.fit(np.ones((40, 6)), np.ones((40, 3)), batch_size=2, verbose=0)
    finally:
        sys.setprofile(None)
    assert {*asked[-15:]} <= {int, float}


def twin(offset, optimizer):
    """A model that takes `offset` off its input, and one that does not but computes the same."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Rescaling(1.0, offset=offset),
            keras.layers.Dense(5, activation="relu", name="first"),
            keras.layers.Dense(3),
        ]
    )
    generator = np.random.default_rng(0)
    kernel, bias, *rest = (generator.normal(size=w.shape) for w in model.get_weights())
    model.set_weights([kernel, bias - offset * kernel.sum(axis=0), *rest])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize(
    "kind", [CentredSGD, CentredAdam, partial(CentredMuon, weight_decay=None, adam_weight_decay=None)]
)
def test_centred_steps_are_those_of_a_model_with_centred_input(kind, accelerated):
    from keras_examples.acceleration import accelerate

    x = np.random.default_rng(1).uniform(0, 1, (64, 6)).astype("float32")
    y = np.random.default_rng(2).integers(0, 3, 64)
    centred_input = twin(-0.5, kind(0.05))
    centred_steps = twin(0.0, kind(0.05, centre=0.5))
    losses = []
    for model in (centred_input, centred_steps):
        if accelerated:
            accelerate(model, around_update=model.optimizer.centred)
        losses.append(model.fit(x, y, batch_size=16, epochs=5, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0][-1] < losses[0][0]
    outputs = [model.predict(x, verbose=0) for model in (centred_input, centred_steps)]
    np.testing.assert_allclose(*outputs, atol=1e-4)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="needs the torch backend")
def test_sums_that_were_kept_are_not_used_for_other_weights():
    from keras_examples.acceleration import accelerate

    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(64, 6)), generator.integers(0, 3, 64)
    weights = [generator.normal(size=w.shape) for w in twin(0.0, "sgd").get_weights()]
    outputs = []
    for accelerated in (True, False):
        model = twin(0.0, CentredSGD(0.05, centre=0.5))
        if accelerated:
            accelerate(model, around_update=partial(model.optimizer.centred, known={}))
        for given in (model.get_weights(), weights):
            model.set_weights(given)
            model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
        outputs.append(model.predict(x, verbose=0))
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


def test_a_centred_step_changes_a_convolution_by_what_its_bias_takes_back():
    model = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(3, 2), keras.layers.Flatten()])
    optimizer = CentredSGD(0.1, centre=0.25)
    optimizer.build(model.trainable_variables)
    constant = np.full((1, 4, 4, 2), 0.25, "float32")
    before = keras.ops.convert_to_numpy(model(constant))
    kernel = keras.random.normal(model.trainable_variables[0].shape, seed=0)
    optimizer.apply([kernel, keras.ops.zeros(3)], model.trainable_variables)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(constant)), before, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 4), (3, 3, 2, 5)])
def test_muon_moves_a_kernel_as_far_in_all_directions(shape):
    recipe = Recipe(epochs=1, learning_rate=0.5, optimizer="muon")
    muon = optimizer(recipe, steps=3)
    kernel, head = (keras.Variable(np.zeros(size, "float32"), name=str(size)) for size in (shape, (4, 2)))
    muon.build([kernel, head])
    assert len(muon.variables) == 4  # the iteration, a momentum of each, a velocity of the last
    gradient = np.random.default_rng(0).normal(size=shape).astype("float32")
    muon.apply([keras.ops.convert_to_tensor(gradient), keras.ops.full((4, 2), 3.0)], [kernel, head])
    step = keras.ops.convert_to_numpy(kernel).reshape(-1, shape[-1])
    rate = OneCycle(0.5, 3)(0)
    lengths = np.linalg.svd(step, compute_uv=False)
    assert 0.6 * rate < lengths.min() <= lengths.max() < 1.3 * rate
    assert (step * gradient.reshape(step.shape)).sum() < 0
    np.testing.assert_allclose(keras.ops.convert_to_numpy(head), -0.3 * rate, rtol=1e-3)  # as Adam's first step
