import keras
import numpy as np
import pytest

import keras_examples
from keras_examples import char_lstm, cifar_dense, mnist_linear, mnist_mlp

CASES = [
    ("mnist_linear", {}, (28, 28), (10,), 7_850),
    ("mnist_mlp", {}, (28, 28), (10,), 79_510),
    ("mnist_mlp", {"hidden_units": (128,)}, (28, 28), (10,), 101_770),
    ("mnist_cnn", {}, (28, 28), (10,), 1_111_946),
    ("cifar_dense", {}, (32, 32, 3), (10,), 4_735_498),
    ("cifar_cnn", {}, (32, 32, 3), (10,), 6_738),
    ("conv_autoencoder", {}, (32, 32, 3), (32, 32, 3), 2_331),
    ("char_lstm", {"vocabulary_size": 65}, (7,), (7, 65), 346_433),
    ("char_lstm", {"vocabulary_size": 65, "units": 512, "layers": 2, "dropout": 0.2}, (7,), (7, 65), 3_316_289),
]


@pytest.mark.parametrize(("name", "sizes", "input_shape", "output_shape", "parameters"), CASES)
def test_shapes_and_parameter_counts(name, sizes, input_shape, output_shape, parameters):
    model = getattr(keras_examples, name)(**sizes)
    output = model(np.ones((3, *input_shape), model.inputs[0].dtype))
    assert tuple(output.shape) == (3, *output_shape)
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    assert model.count_params() == parameters
    assert not model.compiled


@pytest.mark.parametrize(("name", "sizes", "input_shape", "output_shape", "parameters"), CASES[::2])
def test_mixed_precision_keeps_variables_and_output_in_float32(name, sizes, input_shape, output_shape, parameters):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = getattr(keras_examples, name)(**sizes)
    finally:
        keras.config.set_dtype_policy("float32")
    output = model(np.ones((2, *input_shape), model.inputs[0].dtype))
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}


def test_linear_starts_at_even_odds():
    assert not mnist_linear()(np.full((2, 28, 28), 255, "uint8")).any()


def test_pixels_are_scaled_to_one():
    model = mnist_linear()
    kernel, bias = model.get_weights()
    model.set_weights([np.ones_like(kernel), bias])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(np.full((1, 28, 28), 255, "uint8"))), 784, rtol=1e-5)


def test_hidden_units_set_the_layers():
    assert [w.shape for w in mnist_mlp((128, 64)).weights[::2]] == [(784, 128), (128, 64), (64, 10)]
    assert [w.shape for w in cifar_dense((8,)).weights[::2]] == [(3072, 8), (8, 10)]


def test_the_text_model_takes_any_length():
    model = char_lstm(11, units=4)
    assert model(np.zeros((2, 1), "int32")).shape == (2, 1, 11)
    assert model(np.zeros((2, 30), "int32")).shape == (2, 30, 11)


def test_an_lstm_without_a_layer():
    with pytest.raises(ValueError, match=r"Received: layers=0\. Give at least 1\.$"):
        char_lstm(65, layers=0)
