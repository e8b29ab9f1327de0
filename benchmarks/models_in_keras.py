"""Those twelve models written as people write them in Keras, and trained by plain `fit` on arrays."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from benchmarks.models import CHARACTERS, CLASSES, WORDS, Model


def mlp_batchnorm() -> keras.Model:
    hidden = (layer for _ in range(2) for layer in (layers.Dense(256), layers.BatchNormalization(), layers.ReLU()))
    return keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(CLASSES, activation="softmax")])


def conv1d() -> keras.Model:
    hidden = (layers.Conv1D(64, 5, padding="same", activation="relu") for _ in range(3))
    end = layers.GlobalAveragePooling1D(), layers.Dense(CLASSES, activation="softmax")
    return keras.Sequential([keras.Input((128, 8)), *hidden, *end])


class Places(layers.Layer):
    def build(self, shape: tuple[int, ...]) -> None:
        self.places = self.add_weight(shape[1:])

    def call(self, x: Any) -> Any:
        return x + self.places


def transformer() -> keras.Model:
    """A language model of two blocks, 128 wide, that normalise before attention and before the dense layers."""
    inputs = keras.Input((64,), dtype="int32")
    x = Places()(layers.Embedding(CHARACTERS, 128)(inputs))
    for _ in range(2):
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        x = x + layers.MultiHeadAttention(4, 32)(y, y, use_causal_mask=True)
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        x = x + layers.Dense(128)(layers.Dense(512, activation="gelu")(y))
    x = layers.LayerNormalization(epsilon=1e-5)(x)
    return keras.Model(inputs, layers.Dense(CHARACTERS, activation="softmax")(x))


def bilstm() -> keras.Model:
    hidden = layers.Embedding(WORDS, 64, mask_zero=True), layers.Bidirectional(layers.LSTM(64))
    return keras.Sequential([keras.Input((80,), dtype="int32"), *hidden, layers.Dense(1, activation="sigmoid")])


def lstm_l2() -> keras.Model:
    """The one of https://github.com/keras-team/keras/issues/20902, on 60 steps of 8 numbers."""
    weights = keras.regularizers.L2(1e-5)
    options = {"kernel_regularizer": weights, "recurrent_regularizer": weights}
    hidden = layers.LSTM(80, return_sequences=True, **options), layers.LSTM(80, **options)
    return keras.Sequential([keras.Input((60, 8)), *hidden, layers.Dense(1, activation="sigmoid")])


def dense_autoencoder() -> keras.Model:
    """After https://github.com/keras-team/keras/issues/21851: dense layers to 32 numbers and back."""
    hidden = (layers.Dense(units, activation="relu") for units in (256, 128, 32, 128, 256))
    return keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(784)])


def unet() -> keras.Model:
    def twice(x: Any, filters: int) -> Any:
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        return x

    inputs = x = keras.Input((64, 64, 3))
    kept = []
    for filters in (16, 32):
        kept.append(twice(x, filters))
        x = layers.MaxPooling2D()(kept[-1])
    x = twice(x, 64)
    for filters in (32, 16):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = twice(layers.Concatenate()([kept.pop(), x]), filters)
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))


class Sampling(layers.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, mean: Any, log_variance: Any) -> Any:
        divergence = ops.mean(ops.sum(1 + log_variance - mean**2 - ops.exp(log_variance), axis=-1)) / -2
        self.add_loss(1e-3 * divergence)
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(log_variance / 2) * noise


def vae() -> keras.Model:
    inputs = keras.Input((784,))
    x = layers.Dense(256, activation="relu")(inputs)
    z = Sampling()(layers.Dense(16)(x), layers.Dense(16)(x))
    return keras.Model(inputs, layers.Dense(784)(layers.Dense(256, activation="relu")(z)))


def siamese() -> keras.Model:
    images = [keras.Input((28, 28, 1), name=name) for name in ("left", "right")]
    hidden = layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(), layers.Conv2D(64, 3, activation="relu")
    end = layers.GlobalAveragePooling2D(), layers.Dense(64)
    encoder = keras.Sequential([keras.Input((28, 28, 1)), *hidden, *end])
    left, right = map(encoder, images)
    return keras.Model(images, layers.Dense(1, activation="sigmoid")(ops.abs(left - right)))


def application(name: str) -> Callable[[], keras.Model]:
    return lambda: getattr(keras.applications, name)(input_shape=(64, 64, 3), weights=None, classes=CLASSES)


BUILDERS: dict[str, Callable[[], keras.Model]] = {
    "mlp-batchnorm": mlp_batchnorm,
    "conv1d": conv1d,
    "transformer": transformer,
    "bilstm": bilstm,
    "lstm-l2": lstm_l2,
    "dense-autoencoder": dense_autoencoder,
    "unet": unet,
    "vae": vae,
    "siamese": siamese,
    "mobilenetv2": application("MobileNetV2"),
    "efficientnetb0": application("EfficientNetB0"),
    "resnet50": application("ResNet50"),
}


def trainer(row: Model, name: str, peer: str) -> Callable[[Any, Any], object]:
    """Builds the model; returns what trains an epoch on arrays."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = BUILDERS[name]()
    metrics = ["mae" if row.loss == "mse" else "accuracy"]
    model.compile("adam", row.loss, metrics=metrics, jit_compile=peer == "keras-jit")
    if peer.startswith("ours"):
        from keras_examples.acceleration import accelerate

        warnings.filterwarnings("error", message=".*not accelerated.*")
        accelerate(model, cuda_graph=peer == "ours-cuda-graph")
    return lambda x, y: model.fit(x, y, batch_size=row.batch_size, verbose=0)
