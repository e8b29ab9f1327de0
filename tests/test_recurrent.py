"""The LSTM in parts: it computes what torch's kernel computes over the whole batch."""

import keras
import numpy as np
import pytest
import torch

from keras_examples.acceleration import recurrent
from keras_examples.acceleration.internals import lstm_kernel
from keras_examples.acceleration.recording import Recorder
from keras_examples.acceleration.rewrites import finished

STEPS, FEATURES, UNITS = 7, 5, 12


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(recurrent, "LONG", 0)
    monkeypatch.setattr(recurrent, "LARGE", 0)


pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


def step(x, hidden, carry, *weights):
    """Outputs and states, and the gradients of all inputs."""
    outputs, hidden_now, carry_now = torch.lstm(x, (hidden, carry), weights, True, 1, 0.0, True, False, True)
    loss = outputs.square().sum() + 2 * hidden_now.square().sum() + 3 * carry_now.square().sum()
    gradients = torch.autograd.grad(loss, (x, hidden, carry, *weights))
    return [outputs, hidden_now, carry_now, *gradients]


def inputs(samples, dtype=torch.float32, units=UNITS):
    torch.manual_seed(0)
    shapes = [(samples, STEPS, FEATURES), (1, samples, units), (1, samples, units)]
    shapes += [(4 * units, FEATURES), (4 * units, units), (4 * units,), (4 * units,)]
    return [(torch.randn(shape) / 2).to(dtype).requires_grad_() for shape in shapes]


def record(given):
    """A replay of a step, and the operations in it."""
    with Recorder(given) as recorder:
        results = step(*given)
    function, held, _ = finished(recorder, results)
    operations = {node.target for node in recorder.graph.nodes}
    return lambda *given: function(*given, *held), operations


@pytest.mark.parametrize(
    ("dtype", "samples", "close"), [(torch.float32, 21, 1e-5), (torch.float32, 64, 1e-5), (torch.bfloat16, 33, 0.05)]
)
def test_parts_agree_with_the_whole_also_when_the_last_is_smaller(dtype, samples, close):
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16 kernels")
    given = inputs(samples, dtype)
    function, operations = record(given)
    assert {recurrent._lstm, recurrent._lstm_backward} <= operations
    for part, whole in zip(function(*given), step(*given), strict=True):
        assert part.shape == whole.shape
        assert part.dtype == whole.dtype
        torch.testing.assert_close(part, whole, rtol=close, atol=close * float(whole.detach().abs().max()))


@pytest.mark.parametrize(("samples", "units", "long"), [(8, UNITS, 0), (32, 257, 0), (32, UNITS, STEPS + 1)])
def test_few_samples_wide_layers_and_short_sequences_stay_whole(samples, units, long, monkeypatch):
    monkeypatch.setattr(recurrent, "LONG", long)
    given = inputs(samples, units=units)
    _, operations = record(given)
    assert lstm_kernel in operations
    assert recurrent._lstm not in operations


def test_any_number_of_threads_computes_the_same_to_the_bit():
    given, threads = inputs(40), torch.get_num_threads()
    function, _ = record(given)
    results = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append([result.detach().clone() for result in function(*given)])
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


def test_an_error_in_a_part_is_raised_and_the_threads_come_back():
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        recurrent._on_threads(lambda x: 1 // x.item(), [(torch.tensor(number),) for number in (1, 0, 2)])
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("kind", ["stacked", "bidirectional", "backwards"])
def test_layers_train_and_predict_as_without_parts(kind, monkeypatch):
    from keras_examples import accelerate
    from keras_examples.layers import LSTM

    def trained():
        keras.utils.set_random_seed(0)
        first = LSTM(UNITS, return_sequences=True, go_backwards=kind == "backwards")
        if kind == "bidirectional":
            first = keras.layers.Bidirectional(first)
        model = keras.Sequential([keras.Input((STEPS, FEATURES)), first, LSTM(UNITS), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        accelerate(model)
        x = np.random.default_rng(0).normal(size=(60, STEPS, FEATURES)).astype("float32")
        model.fit(x, x[:, 0, :1], batch_size=20, epochs=2, verbose=0, shuffle=False)
        return [*model.get_weights(), model.predict(x, batch_size=20, verbose=0)]

    parts = trained()
    monkeypatch.setattr(recurrent, "WIDEST", 0)
    for part, whole in zip(parts, trained(), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-4, atol=1e-5)
