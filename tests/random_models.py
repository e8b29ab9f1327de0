"""Random models, their compilation, their data and what is done with them, the same for the same seed."""

import random

import keras
import numpy as np
import torch
from keras import layers, ops

from keras_examples.layers import LSTM

CLASSES = 3
SHAPES = {"vector": (6,), "sequence": (7, 4), "image": (8, 8, 2), "volume": (4, 6, 4, 2), "tokens": (7,)}


class Penalty(layers.Layer):
    """A layer of a user's: adds a loss by a number that somebody may change."""

    def __init__(self, strength=0.01):
        super().__init__()
        self.strength = strength

    def call(self, x):
        self.add_loss(self.strength * ops.mean(x**2))
        return x


class Counted(layers.Layer):
    """A layer with a state of its own, which counts in training."""

    def build(self, shape):
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            self.seen.assign_add(ops.cast(ops.shape(x)[0], "float32"))
        return x / (1 + 0.001 * self.seen)


class Distance(keras.metrics.Metric):
    """A metric of a user's."""

    def __init__(self, name="distance"):
        super().__init__(name=name)
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(ops.sum(ops.abs(y_pred)) / 10)

    def result(self):
        return self.total


def counted_with_numpy(y_true, y_pred):
    return float(np.mean(ops.convert_to_numpy(y_pred) > 0))


def half_squared(y_true, y_pred):
    return ops.mean(ops.square(ops.cast(y_true, y_pred.dtype) - y_pred), axis=-1) / 2


class Draw:
    """Draws a model, its compilation, its data and what is done with it; the same for the same seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.kind = self.one_of(SHAPES)
        self.task = self.one_of(["classes", "classes", "one-hot", "numbers", "numbers", "binary", "sequence"])
        if self.kind not in ("sequence", "tokens") and self.task == "sequence":
            self.task = "classes"
        self.layout = self.one_of(
            ["plain"] * 5 + ["dict inputs", "list inputs", "dict outputs", "list outputs", "nested"]
        )
        if self.task == "sequence":
            self.layout = "plain"

    def one_of(self, things):
        return self.random.choice(list(things))

    def likely(self, chance):
        return self.random.random() < chance

    # The model

    def model(self):
        shape, dtype = SHAPES[self.kind], "int32" if self.kind == "tokens" else "float32"
        if self.layout in ("dict inputs", "list inputs"):
            self.names = ["query", "key", "anchor"][: self.random.randint(2, 3)]
            inputs = {name: keras.Input(shape, dtype=dtype, name=name) for name in self.names}
            features = [self.features(value) for value in inputs.values()]
            if self.likely(0.3):  # a layer that is used twice
                shared = layers.Dense(4, activation="tanh")
                features = [
                    shared(f) if i < 2 and f.shape[-1] == features[0].shape[-1] else f for i, f in enumerate(features)
                ]
            merged = layers.Concatenate()(features)
            given = inputs if self.layout == "dict inputs" else list(inputs.values())
            return keras.Model(given, self.head()(merged))
        given = keras.Input(shape, dtype=dtype)
        if self.layout == "nested":
            inner = keras.Input(shape, dtype=dtype)
            features = keras.Model(inner, self.features(inner))(given)
        else:
            features = self.features(given)
        if self.layout == "dict outputs":
            return keras.Model(
                given, {"main": self.head("main")(features), "aid": layers.Dense(2, name="aid")(features)}
            )
        if self.layout == "list outputs":
            return keras.Model(given, [self.head("main")(features), layers.Dense(2, name="aid")(features)])
        return keras.Model(given, self.head()(features))

    def head(self, name="head"):
        units = CLASSES if self.task in ("classes", "one-hot", "sequence") else 1 if self.task == "binary" else 2
        return layers.Dense(units, name=name, **self.weights())

    def weights(self):
        options = {}
        if self.likely(0.15):
            options["kernel_initializer"] = self.one_of(["orthogonal", "he_normal", "random_uniform"])
        if self.likely(0.15):
            l1l2 = keras.regularizers.L1L2(1e-3, 1e-3)
            options["kernel_regularizer"] = self.one_of(
                [keras.regularizers.L2(1e-2), keras.regularizers.L1(1e-3), l1l2]
            )
        if self.likely(0.08):
            options["kernel_constraint"] = self.one_of([keras.constraints.MaxNorm(1.0), keras.constraints.NonNeg()])
        return options

    def activation(self):
        return self.one_of(["relu", "relu", "tanh", "gelu", "sigmoid", "elu", "swish", "softplus", "leaky_relu", None])

    def features(self, x):
        for _ in range(self.random.randint(1, 3)):
            x = {1: self.on_vectors, 2: self.on_sequences, 3: self.on_images, 4: self.on_volumes}[len(x.shape) - 1](x)
        if self.task == "sequence":
            return x if len(x.shape) == 3 else layers.RepeatVector(7)(x)
        while len(x.shape) > 2:
            pool = {3: layers.GlobalAveragePooling1D, 4: layers.GlobalMaxPooling2D, 5: layers.GlobalAveragePooling3D}
            x = layers.Flatten()(x) if self.likely(0.5) else pool[len(x.shape)]()(x)
        return x

    def on_vectors(self, x):
        if self.kind == "tokens" and x.dtype == "int32":
            if self.likely(0.2):
                return layers.CategoryEncoding(11, output_mode=self.one_of(["multi_hot", "count"]))(x)
            return layers.Embedding(11, 5, mask_zero=self.likely(0.3))(x)
        choices = [
            lambda: layers.Dense(self.random.randint(3, 20), activation=self.activation(), **self.weights()),
            lambda: layers.Dense(8, activation=self.activation(), use_bias=False),
            lambda: layers.BatchNormalization(momentum=0.9),
            lambda: layers.LayerNormalization(),
            lambda: layers.Dropout(0.3),
            lambda: layers.Rescaling(0.5, 0.1),
            lambda: layers.PReLU(),
            lambda: layers.Lambda(lambda t: ops.sin(t) * 2),
            lambda: layers.ActivityRegularization(l2=1e-3),
            lambda: Penalty(),
            lambda: Counted(),
            lambda: layers.TorchModuleWrapper(self.torch_module(x.shape[-1]), output_shape=(None, 5)),
            lambda: layers.GaussianNoise(0.1),
            lambda: layers.AlphaDropout(0.1, seed=1),
        ]
        odds = [6, 3, 2, 2, 3, 1, 1, 1, 1, 1, 1, 1, 0.4, 0.4]
        return self.random.choices(choices, odds)[0]()(x)

    def torch_module(self, width):
        parts = [torch.nn.Linear(width, 5), torch.nn.Tanh()] + ([torch.nn.BatchNorm1d(5)] if self.likely(0.5) else [])
        return torch.nn.Sequential(*parts)

    def on_sequences(self, x):
        many = self.task == "sequence" or self.likely(0.5)
        units = self.random.randint(3, 8)
        return self.random.choices(
            [
                lambda: layers.SimpleRNN(units, return_sequences=many)(x),
                lambda: layers.GRU(units, return_sequences=many, reset_after=self.likely(0.7))(x),
                lambda: layers.LSTM(units, return_sequences=many)(x),
                lambda: LSTM(units, return_sequences=many)(x),
                lambda: layers.Bidirectional(layers.LSTM(units, return_sequences=many))(x),
                lambda: layers.Conv1D(units, 3, padding=self.one_of(["same", "causal"]), activation=self.activation())(
                    x
                ),
                lambda: layers.SeparableConv1D(units, 2, padding="same")(x),
                lambda: layers.MultiHeadAttention(2, 4, use_bias=False)(x, x),
                lambda: layers.Add()([x, layers.Dense(x.shape[-1])(layers.LayerNormalization()(x))]),
                lambda: layers.TimeDistributed(layers.Dense(units, activation=self.activation()))(x),
                lambda: layers.SpatialDropout1D(0.2)(x),
                lambda: x if self.task == "sequence" else layers.MaxPooling1D(2, padding="same")(x),
            ],
            [1, 1, 1, 2, 1, 3, 1, 2, 2, 2, 0.4, 2],
        )[0]()

    def on_images(self, x):
        units, size = self.random.randint(2, 6), self.one_of([2, 3])
        return self.random.choices(
            [
                lambda: layers.Conv2D(units, size, self.one_of([1, 1, 2]), "same", activation=self.activation())(x),
                lambda: layers.MaxPooling2D(2, padding="same")(
                    layers.Conv2D(units, size, padding="same", activation="relu")(x)
                ),
                lambda: layers.Conv2D(units, 3, padding="same", dilation_rate=2, **self.weights())(x),
                lambda: layers.DepthwiseConv2D(size, padding="same")(x),
                lambda: layers.SeparableConv2D(units, size, padding="same", activation="relu")(x),
                lambda: layers.Conv2DTranspose(units, size, padding="same", activation=self.activation())(x),
                lambda: layers.BatchNormalization(momentum=0.8)(
                    layers.Conv2D(units, 3, padding="same", use_bias=False)(x)
                ),
                lambda: layers.GroupNormalization(1)(x),
                lambda: layers.AveragePooling2D(2, 1, padding="same")(x),
                lambda: layers.UpSampling2D(2)(layers.MaxPooling2D(2, padding="same")(x)),
                lambda: layers.ZeroPadding2D(1)(x),
                lambda: layers.RandomFlip(seed=1)(x),
            ],
            [4, 3, 1, 1, 1, 1, 2, 1, 1, 1, 1, 0.3],
        )[0]()

    def on_volumes(self, x):
        units = self.random.randint(2, 4)
        return self.random.choices(
            [
                lambda: layers.Conv3D(units, 2, padding="same", activation=self.activation())(x),
                lambda: layers.MaxPooling3D(2, padding="same")(x),
                lambda: layers.AveragePooling3D(2, padding="same")(x),
                lambda: layers.ConvLSTM2D(2, 2, padding="same")(x),
                lambda: layers.TimeDistributed(layers.Conv2D(units, 2, padding="same"))(x),
            ],
            [4, 2, 1, 1, 1],
        )[0]()

    # Its compilation

    def compile(self, model):
        if self.layout == "dict outputs":
            loss, metrics = {"main": self.loss(), "aid": "mse"}, {"main": self.metrics(), "aid": ["mae"]}
            weights = self.one_of([None, {"main": 1.0, "aid": 0.3}])
        elif self.layout == "list outputs":
            loss, metrics, weights = [self.loss(), "mae"], [self.metrics(), None], self.one_of([None, [1.0, 0.2]])
        else:
            loss, metrics, weights = self.loss(), self.metrics(), None
        weighted = ["mse"] if self.task == "numbers" and self.layout == "plain" and self.likely(0.2) else None
        model.compile(self.optimizer(), loss, loss_weights=weights, metrics=metrics, weighted_metrics=weighted)

    def loss(self):
        losses = keras.losses
        if self.task in ("classes", "sequence"):
            return losses.SparseCategoricalCrossentropy(
                from_logits=True, ignore_class=self.one_of([None, None, None, 1])
            )
        if self.task == "one-hot":
            smooth = losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
            return self.one_of([losses.CategoricalCrossentropy(from_logits=True), smooth, "categorical_hinge"])
        if self.task == "binary":
            focal = losses.BinaryFocalCrossentropy(from_logits=True)
            return self.one_of([losses.BinaryCrossentropy(from_logits=True), focal, "hinge"])
        return self.one_of(["mse", "mae", losses.Huber(0.5), losses.LogCosh(), "cosine_similarity", half_squared])

    def metrics(self):
        choices = {
            "classes": [
                "accuracy",
                keras.metrics.SparseTopKCategoricalAccuracy(k=2),
                "sparse_categorical_crossentropy",
            ],
            "sequence": ["accuracy"],
            "one-hot": ["accuracy", keras.metrics.F1Score(average="macro"), keras.metrics.CategoricalCrossentropy()],
            "binary": ["accuracy", keras.metrics.AUC(from_logits=True), keras.metrics.Precision(thresholds=0.5)],
            "numbers": ["mae", "mse", keras.metrics.RootMeanSquaredError(), keras.metrics.R2Score()],
        }[self.task]
        chosen = self.random.sample(choices, self.random.randint(0, min(2, len(choices))))
        chosen += [Distance()] * self.likely(0.15) + [counted_with_numpy] * self.likely(0.04)
        return chosen

    def optimizer(self):
        options = self.one_of([{}] * 6 + [{"clipnorm": 0.1}, {"global_clipnorm": 0.5}, {"clipvalue": 0.05}])
        options |= self.one_of([{}] * 8 + [{"weight_decay": 0.01}, {"use_ema": True, "ema_overwrite_frequency": 2}])
        options |= self.one_of([{}] * 10 + [{"gradient_accumulation_steps": 2}, {"loss_scale_factor": 4.0}])
        names = (
            ["SGD"] * 5 + ["Adam"] * 5 + ["AdamW", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam", "Ftrl"]
        )
        name = self.one_of([*names, "Adafactor", "Lion", "Lamb"])
        if name == "SGD":
            options |= self.one_of([{}, {"momentum": 0.9}, {"momentum": 0.8, "nesterov": True}])
        if name == "Adam" and self.likely(0.2):
            options |= self.one_of([{"amsgrad": True}, {"beta_1": 0.5}])
        rate = {"SGD": 0.05, "Adagrad": 0.05, "Adadelta": 0.5, "Lion": 1e-3}.get(name, 3e-3)
        if self.likely(0.2) and name != "Adafactor":
            rate = self.one_of(
                [
                    keras.optimizers.schedules.CosineDecay(rate, 20),
                    keras.optimizers.schedules.ExponentialDecay(rate, 5, 0.9),
                ]
            )
        # What cancels out but for rounding would be divided by itself.
        options |= {"epsilon": 1e-3} if name in ("Adam", "AdamW", "RMSprop", "Nadam", "Adamax", "Lamb") else {}
        return getattr(keras.optimizers, name)(rate, **options)

    # Its data

    def arrays(self, samples):
        generator = np.random.default_rng(self.random.randint(0, 10**6))

        def inputs():
            if self.kind == "tokens":
                return generator.integers(0, 11, (samples, *SHAPES["tokens"])).astype("int32")
            return generator.normal(size=(samples, *SHAPES[self.kind])).astype("float32")

        def targets():
            if self.task == "sequence":
                return generator.integers(0, CLASSES, (samples, 7)).astype("int32")
            if self.task == "numbers":
                return generator.normal(size=(samples, 2)).astype("float32")
            classes = generator.integers(0, 2 if self.task == "binary" else CLASSES, samples)
            if self.task == "one-hot":
                return np.eye(CLASSES, dtype="float32")[classes]
            return (
                classes.astype(self.one_of(["int32", "int64", "float32"]))[:, None]
                if self.likely(0.5) or self.task == "binary"
                else classes.astype("int32")
            )

        x, y, aid = inputs(), targets(), generator.normal(size=(samples, 2)).astype("float32")
        if self.layout == "dict inputs":
            x = {name: inputs() for name in self.names}
        elif self.layout == "list inputs":
            x = [inputs() for _ in self.names]
        elif self.layout == "dict outputs":
            y = {"main": y, "aid": aid}
        elif self.layout == "list outputs":
            y = [y, aid]
        return x, y
