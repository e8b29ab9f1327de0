"""A `.keras` file says what its network is: another one is refused, also where its arrays have the same shapes."""

import zipfile

import keras
import numpy as np
import pytest
from keras import layers
from small import small

from keras_examples import weights
from keras_examples.layers import LSTM, OneHot


def mlp(rescaling=(1 / 255, 0.0), hidden="relu", last=None, before=(), between=(), after=(), **settings):
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            layers.Rescaling(*rescaling),
            *before,
            layers.Flatten(),
            layers.Dense(12, hidden, **settings),
            *between,
            layers.Dense(10, last),
            *after,
        ]
    )


def cnn(pool=layers.MaxPooling2D, first=None, padding="valid", strides=1, dilation=1):
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            layers.Rescaling(1 / 255),
            layers.Reshape((28, 28, 1)),
            layers.Conv2D(32, 5, strides=strides, activation=first, padding=padding, dilation_rate=dilation),
            pool(2),
            layers.Conv2D(64, 5, padding="same" if strides > 1 else padding),
            layers.MaxPooling2D(2),
            *([] if padding == "valid" and strides == dilation == 1 else [layers.Resizing(4, 4)]),
            layers.Flatten(),
            layers.Dense(1024, "relu"),
            layers.Dense(10),
        ]
    )


def rnn(kind=layers.LSTM, **settings):
    model = keras.Sequential([keras.Input((None,), dtype="int32"), OneHot(9)])
    model.add(kind(6, return_sequences=True, **settings))
    model.add(layers.Dense(9))
    return model


def functional(skip=False):
    images = keras.Input((28, 28))
    x = layers.Flatten()(layers.Rescaling(1 / 255)(images))
    hidden = layers.Dense(12, "relu", name="a")(x)
    if skip:  # the same layers in the same order, but not one after the other
        other = layers.Dense(12, "relu", name="b")(x)
        return keras.Model(images, layers.Dense(10, name="c")(other + 0 * hidden))
    return keras.Model(images, layers.Dense(10, name="head")(hidden))


OTHERS = [
    ("mnist-mlp", lambda: mlp(rescaling=(1 / 127.5, -1.0))),
    ("mnist-mlp", lambda: mlp(rescaling=(1 / 255, -0.5))),
    ("mnist-mlp", lambda: mlp(rescaling=(1.0, 0.0))),
    ("mnist-mlp", lambda: mlp(hidden="tanh")),
    ("mnist-mlp", lambda: mlp(hidden=None)),
    ("mnist-mlp", lambda: mlp(last="softmax")),
    ("mnist-mlp", lambda: mlp(after=[layers.Softmax()])),
    ("mnist-mlp", lambda: mlp(between=[layers.Activation("relu"), layers.UnitNormalization()])),
    ("mnist-mlp", lambda: mlp(before=[layers.Permute((2, 1))])),
    ("mnist-mlp", lambda: functional(skip=True)),
    ("mnist-cnn", lambda: cnn(pool=layers.AveragePooling2D)),
    ("mnist-cnn", lambda: cnn(first="relu")),
    ("mnist-cnn", lambda: cnn(padding="same")),
    ("mnist-cnn", lambda: cnn(strides=2)),
    ("mnist-cnn", lambda: cnn(dilation=2)),
    ("charrnn", lambda: rnn(activation="relu")),
    ("charrnn", lambda: rnn(recurrent_activation="hard_sigmoid")),
    ("charrnn", lambda: rnn(go_backwards=True)),
]
SAME = [
    ("mnist-mlp", lambda: mlp()),
    ("mnist-mlp", lambda: mlp(between=[layers.Dropout(0.3), layers.GaussianNoise(0.1), layers.Activation("linear")])),
    (
        "mnist-mlp",
        lambda: mlp(kernel_initializer="zeros", kernel_regularizer="l2", name="other", dtype="mixed_bfloat16"),
    ),
    ("mnist-mlp", lambda: functional()),
    ("mnist-cnn", lambda: cnn()),
    ("charrnn", lambda: rnn()),
    ("charrnn", lambda: rnn(LSTM, dropout=0.2, weight_dropout=0.1)),
]


@pytest.mark.parametrize(("example", "make"), OTHERS)
def test_another_network_is_refused(tmp_path, example, make):
    make().save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match=rf"Weights that do not fit {example}: .*Received: path="):
        weights.restore(tmp_path / "other.keras", example)


@pytest.mark.parametrize(("example", "make"), SAME)
def test_what_computes_the_same_is_read(tmp_path, example, make):
    model = make()
    model.save(tmp_path / "same.keras")
    restored, _ = weights.restore(tmp_path / "same.keras", example)
    shape = (2, *(length or 5 for length in model.input_shape[1:]))
    x = np.random.default_rng(0).integers(9 if example == "charrnn" else 256, size=shape)
    np.testing.assert_allclose(restored.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)


def test_the_difference_is_said(tmp_path):
    mlp(hidden="tanh").save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="'activation' of its Dense is 'tanh', not 'relu'"):
        weights.restore(tmp_path / "other.keras", "mnist-mlp")


def test_a_layer_of_the_same_name_from_elsewhere_is_another(tmp_path):
    small("mnist-mlp").save(tmp_path / "good.keras")
    with zipfile.ZipFile(tmp_path / "good.keras") as good, zipfile.ZipFile(tmp_path / "odd.keras", "w") as odd:
        for name in good.namelist():
            content = good.read(name)
            if name == "config.json":
                content = content.replace(
                    b'"module": "keras.layers", "class_name": "Dense"', b'"module": "mine", "class_name": "Dense"'
                )
            odd.writestr(name, content)
    weights.restore(tmp_path / "good.keras", "mnist-mlp")
    with pytest.raises(ValueError, match="its network is 'Rescaling, Flatten, mine.Dense, mine.Dense, mine.Dense'"):
        weights.restore(tmp_path / "odd.keras", "mnist-mlp")
