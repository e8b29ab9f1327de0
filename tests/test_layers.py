import keras
import numpy as np
import pytest
import torch
from conftest import on_cpu
from keras import ops
from torch.fx.experimental.proxy_tensor import make_fx

from keras_examples import char_lstm
from keras_examples.layers import LSTM, OneHot

BATCH, TIME, FEATURES, UNITS = 3, 11, 5, 4

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="compares with torch's kernel")


@pytest.fixture
def kernel_calls(monkeypatch):
    """Counts the calls of torch's own LSTM."""
    calls = []
    kernel = torch.lstm
    monkeypatch.setattr(torch, "lstm", lambda *args, **kwargs: calls.append(1) or kernel(*args, **kwargs))
    return calls


@pytest.fixture
def bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


def sequences(features=FEATURES, seed=0):
    return np.random.default_rng(seed).standard_normal((BATCH, TIME, features)).astype(np.float32)


def pair(features=FEATURES, **options):
    """Our layer and the stock one, with the same random weights."""
    ours = LSTM(UNITS, **options)
    options.pop("weight_dropout", None)
    stock = keras.layers.LSTM(UNITS, **options)
    for layer in (ours, stock):
        layer.build((BATCH, TIME, features))
    generator = np.random.default_rng(1)
    stock.set_weights([generator.normal(0, 0.5, weight.shape) for weight in stock.get_weights()])
    ours.set_weights(stock.get_weights())
    return ours, stock


def tensor(array):
    return ops.convert_to_tensor(array).clone()


def outputs_and_gradients(layer, x, states=None, **options):
    """All outputs, then the gradients of a function of them: by input, initial states and variables."""
    x, *states = (tensor(array).requires_grad_() for array in (x, *(states or [])))
    outputs = layer(x, initial_state=states or None, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = sum(torch.sin(output).sum() for output in outputs)
    sources = [x, *states, *(variable.value for variable in layer.trainable_variables)]
    return [ops.convert_to_numpy(tensor) for tensor in (*outputs, *torch.autograd.grad(loss, sources))]


def assert_same(ours, stock):
    for a, b in zip(ours, stock, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 if torch.cuda.is_available() else 1e-5)


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("return_state", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("initial_state", [False, True])
def test_equals_the_stock_layer(kernel_calls, return_sequences, return_state, go_backwards, initial_state):
    ours, stock = pair(return_sequences=return_sequences, return_state=return_state, go_backwards=go_backwards)
    states = [sequences(seed=seed)[:, 0, :UNITS] for seed in (2, 3)] if initial_state else None
    assert_same(*(outputs_and_gradients(layer, sequences(), states, training=True) for layer in (ours, stock)))
    assert len(kernel_calls) == 1


def test_weight_dropout(kernel_calls):
    ours, stock = pair(return_sequences=True, weight_dropout=0.5)
    assert_same(outputs_and_gradients(ours, sequences()), outputs_and_gradients(stock, sequences()))
    weights = stock.get_weights()
    masks = []
    for _ in range(2):
        trained = outputs_and_gradients(ours, sequences(), training=True)
        masks.append(trained[-2] != 0)  # gradients of the recurrent weights
        stock.set_weights([weights[0], weights[1] * masks[-1] * 2, weights[2]])
        dropped = outputs_and_gradients(stock, sequences(), training=True)
        dropped[-2] *= masks[-1] * 2
        assert_same(trained, dropped)
    assert (masks[0] != masks[1]).any()
    assert len(kernel_calls) == 3
    with pytest.raises(ValueError, match="Received: weight_dropout=1. Give less than 1."):
        LSTM(UNITS, weight_dropout=1)


@pytest.mark.parametrize("options", [{"use_bias": False}, {"unit_forget_bias": False}, {"use_cudnn": True}])
def test_equals_the_stock_layer_with_other_arguments(kernel_calls, options):
    ours, stock = pair(return_sequences=True, **options)
    assert_same(outputs_and_gradients(ours, sequences()), outputs_and_gradients(stock, sequences()))
    assert kernel_calls


def test_a_wide_input_is_the_same_function(kernel_calls):
    features = 4 * UNITS + 1
    ours, stock = pair(features, return_sequences=True, go_backwards=True)
    x = sequences(features)
    assert_same(outputs_and_gradients(ours, x), outputs_and_gradients(stock, x))
    assert kernel_calls


def test_a_wide_one_hot_input_is_the_same_function(kernel_calls):
    characters = 4 * UNITS + 1
    ids = np.random.default_rng(2).integers(characters, size=(BATCH, TIME), dtype=np.int32)
    results = []
    for layer in pair(characters, return_sequences=True, go_backwards=True):
        outputs = layer(OneHot(characters)(ids))
        values = [variable.value for variable in layer.trainable_variables]
        results.append([outputs, *torch.autograd.grad(torch.sin(outputs).sum(), values)])
    assert_same(*(map(ops.convert_to_numpy, result) for result in results))
    assert kernel_calls


def test_state_is_carried_and_reset():
    ours, stock = pair(return_sequences=True, return_state=True)
    stateful, _ = pair(return_sequences=True, return_state=True, stateful=True)
    first, second = sequences(seed=4), sequences(seed=5)
    states = [ops.convert_to_numpy(state) for state in stock(first)[1:]]
    stateful(first)
    # The stock layer on torch cannot train while stateful, so the state is handed to it.
    expected = outputs_and_gradients(stock, second, states)
    del expected[4:6]  # the gradients by the initial states
    assert_same(outputs_and_gradients(stateful, second), expected)
    stateful.reset_state()
    assert_same(outputs_and_gradients(stateful, first), outputs_and_gradients(ours, first))


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu"},
        {"recurrent_activation": "hard_sigmoid"},
        {"unroll": True},
        {"use_cudnn": False},
        {"dropout": 0.5, "seed": 1},
        {"recurrent_dropout": 0.5, "seed": 1},
    ],
)
def test_anything_unusual_runs_the_stock_layer(kernel_calls, options):
    ours, stock = pair(return_sequences=True, **options)
    assert_same(*(outputs_and_gradients(layer, sequences(), training=True) for layer in (ours, stock)))
    assert not kernel_calls


def test_a_mask_runs_the_stock_layer(kernel_calls):
    ours, stock = pair(return_sequences=True)
    mask = tensor(np.arange(TIME) < np.array([[4], [TIME], [7]]))
    assert_same(*(outputs_and_gradients(layer, sequences(), mask=mask) for layer in (ours, stock)))
    assert not kernel_calls


def test_dropout_does_not_matter_outside_training(kernel_calls):
    ours, stock = pair(dropout=0.5, recurrent_dropout=0.5)
    assert_same(outputs_and_gradients(ours, sequences()), outputs_and_gradients(stock, sequences()))
    assert kernel_calls


def test_mixed_bfloat16(bfloat16, kernel_calls):
    ours, stock = pair(return_sequences=True, return_state=True)
    results = [layer(sequences()) for layer in (ours, stock)]
    for a, b in zip(*results):
        assert a.dtype == b.dtype == torch.bfloat16
        torch.testing.assert_close(a, b, rtol=0, atol=0.02)
    results[0][0].float().sum().backward()
    assert all(variable.value.grad.dtype == torch.float32 for variable in ours.trainable_variables)
    assert kernel_calls


@on_cpu
@pytest.mark.parametrize("features", [FEATURES, 4 * UNITS + 1])
def test_forward_and_backward_are_captured_by_make_fx(features):
    layer, _ = pair(features, return_sequences=True)
    values = [variable.value for variable in layer.trainable_variables]

    def step(x):
        loss = layer(x, training=True).square().sum()
        return loss, *torch.autograd.grad(loss, values)

    captured = make_fx(step)(tensor(sequences(features)))
    x = tensor(sequences(features, seed=6))
    for a, b in zip(captured(x), step(x)):
        torch.testing.assert_close(a, b)


def test_saved_model_comes_back(tmp_path):
    model = char_lstm(7, units=4, layers=2, dropout=0.1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    ids = np.array([[0, 6, 3, 2]], np.int32)
    np.testing.assert_array_equal(loaded.predict(ids, verbose=0), model.predict(ids, verbose=0))


def test_weights_move_to_the_stock_layer_and_back(tmp_path):
    def model(layer):
        return keras.Sequential([keras.Input((None, FEATURES)), layer(UNITS, name="lstm")])

    ours, stock, again = model(LSTM), model(keras.layers.LSTM), model(LSTM)
    for number, (source, target) in enumerate([(ours, stock), (stock, again)]):
        path = tmp_path / f"{number}.weights.h5"
        source.save_weights(path)
        target.load_weights(path)
    for a, b, c in zip(ours.get_weights(), stock.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize("shape", [(2, 3), (2, 1), (4,)])
@pytest.mark.parametrize("dtype", ["int32", "uint8", "int64"])
def test_one_hot(shape, dtype):
    ids = np.random.default_rng(0).integers(6, size=shape).astype(dtype)
    layer = OneHot(6)
    encoded = layer(ids)
    assert tuple(encoded.shape) == layer.compute_output_shape(shape) == (*shape, 6)
    assert encoded.dtype == torch.float32
    np.testing.assert_array_equal(ops.convert_to_numpy(encoded), np.eye(6, dtype=np.float32)[ids])


def test_one_hot_has_the_compute_dtype(bfloat16):
    assert OneHot(3)(np.array([[0, 2]])).dtype == torch.bfloat16
