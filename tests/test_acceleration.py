"""Accelerated and stock Keras, side by side: what they compute must agree to float32 rounding."""

import gc
import warnings

import keras
import numpy as np
import pytest
import torch

import keras_examples
from keras_examples.acceleration import accelerate
from keras_examples.training.optimizers import CentredAdam, CentredMuon, CentredSGD

MODELS = ["mnist_linear", "mnist_mlp", "mnist_cnn", "cifar_dense", "cifar_cnn", "conv_autoencoder", "char_lstm"]
LARGE = ["cifar_dense", "cifar_cnn", "conv_autoencoder"]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 6)).astype("float32")
Y = RNG.integers(0, 3, 50).astype("int32")


def compiled(model, optimizer="adam", accelerated=False, cuda_graph=False, **options):
    options = {"loss": crossentropy(), "metrics": ["accuracy"], **options}
    model.compile(optimizer=optimizer, **options)
    if accelerated:
        centred = getattr(model.optimizer, "centred", None)
        accelerate(model, around_update=centred, cuda_graph=cuda_graph)
    return model


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def small(*hidden, dtype=None):
    return keras.Sequential([keras.Input((6,)), *hidden, keras.layers.Dense(3, dtype=dtype)])


def dense():
    return keras.layers.Dense(8, activation="relu")


def state(model):
    return [variable.numpy() for variable in [*model.weights, *model.optimizer.variables]]


def assert_same_as_stock(run, rtol=1e-4, atol=1e-5):
    """Runs `run(accelerated)` both ways from the same seed, with no fallback, and compares all it returns."""
    results = []
    for accelerated in (False, True):
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*not accelerated.*")
            warnings.filterwarnings("error", module="keras_examples")
            warnings.filterwarnings("ignore", message="RNN module weights")  # on GPUs
            results.append(run(accelerated))
    stock, ours = map(keras.tree.flatten, results)
    assert len(stock) == len(ours)
    for a, b in zip(stock, ours, strict=True):
        # What cancels out was rounded as the largest numbers are.
        np.testing.assert_allclose(b, a, rtol=rtol, atol=atol * np.abs(a).max(initial=1))
    return results[1]


def example(name, samples=80):
    """A model and random data for it: 80 samples are a batch of 64 and a partial one of 16."""
    if name == "char_lstm":
        ids = RNG.integers(0, 11, (samples, 13), dtype="int32")
        return keras_examples.char_lstm(11, units=24), ids[:, :-1], ids[:, 1:]
    model = getattr(keras_examples, name)()
    x = RNG.integers(0, 256, (samples, *model.input_shape[1:])).astype("uint8")
    if name == "conv_autoencoder":
        return model, x, x / np.float32(255)
    return model, x, RNG.integers(0, 10, samples, dtype="int32")


def check_an_epoch(name, cuda_graph):
    _, x, y = example(name)
    options = {"loss": "mse", "metrics": ["mae"]} if name == "conv_autoencoder" else {}

    def run(accelerated):
        model = compiled(example(name)[0], accelerated=accelerated, cuda_graph=cuda_graph, **options)
        history = model.fit(x, y, batch_size=64, validation_data=(x[:20], y[:20]), verbose=0).history
        evaluation = model.evaluate(x, y, batch_size=64, verbose=0)
        return history, state(model), evaluation, model.predict(x, batch_size=64, verbose=0)

    assert_same_as_stock(run)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in MODELS])
def test_an_epoch_of_each_model(name):
    check_an_epoch(name, cuda_graph=False)


@pytest.mark.parametrize("slow", [False, True])
def test_large_products_by_either_library(slow, monkeypatch):
    from keras_examples.acceleration import rewrites

    monkeypatch.setattr(rewrites, "mkl_is_slow", lambda: slow)
    x, y = RNG.normal(size=(256, 700)).astype("float32"), RNG.integers(0, 3, 256)

    def run(accelerated):
        layers = [keras.Input((700,)), keras.layers.Dense(900, activation="relu"), keras.layers.Dense(3)]
        model = compiled(keras.Sequential(layers), "sgd", accelerated)
        return model.fit(x, y, batch_size=128, epochs=3, verbose=0).history, model.get_weights()

    assert_same_as_stock(run)


def schedule():
    return keras.optimizers.schedules.CosineDecay(0.05, decay_steps=8)


def adamw_without_bias():
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adam, large epsilon": lambda: keras.optimizers.Adam(0.01, beta_1=0.8, beta_2=0.9, epsilon=0.1),
    "adam, schedule": lambda: keras.optimizers.Adam(schedule()),
    "adam, clipnorm": lambda: keras.optimizers.Adam(0.01, clipnorm=0.01),
    "adam, global_clipnorm": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.01),
    "adam, clipvalue": lambda: keras.optimizers.Adam(0.01, clipvalue=0.01),
    "adam, weight decay": lambda: keras.optimizers.Adam(0.01, weight_decay=0.1),
    "adam, amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "adam, average": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=3),
    "adam, accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "adam, scaled loss": lambda: keras.optimizers.Adam(0.01, loss_scale_factor=8.0),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "adamw, schedule": lambda: keras.optimizers.AdamW(schedule(), weight_decay=0.1),
    "adamw, not on biases": adamw_without_bias,
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "sgd, momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "sgd, clip, weight decay": lambda: keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.01, weight_decay=0.1),
    "sgd, no step": lambda: keras.optimizers.SGD(0.0, momentum=0.9),
    "sgd, nesterov, schedule": lambda: keras.optimizers.SGD(schedule(), momentum=0.9, nesterov=True),
    "sgd, centred": lambda: CentredSGD(schedule(), momentum=0.9, nesterov=True, centre=0.5),
    "adam, centred": lambda: CentredAdam(0.01, centre=0.5),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "adafactor": lambda: keras.optimizers.Adafactor(0.01),
    "adadelta": lambda: keras.optimizers.Adadelta(0.01),
    "ftrl": lambda: keras.optimizers.Ftrl(0.01),
    "lamb, schedule, clipnorm": lambda: keras.optimizers.Lamb(schedule(), clipnorm=0.01),
    "muon": lambda: keras.optimizers.Muon(0.01),
    "muon, centred": lambda: CentredMuon(schedule(), centre=0.5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_optimizers(optimizer):
    def run(accelerated):
        model = compiled(small(dense()), optimizer(), accelerated)
        return model.fit(X, Y, batch_size=16, epochs=2, verbose=0).history, state(model)

    assert_same_as_stock(run)


@pytest.mark.parametrize("name", ["rmsprop", "lion", "adam, amsgrad", "muon, centred"])
def test_small_updates_of_other_optimizers_run_without_keras(name):
    model = compiled(small(dense()), OPTIMIZERS[name](), True)
    for _ in range(3):
        model.train_on_batch(X, Y)
    before = model.get_weights()
    kind = type(model.optimizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "_backend_apply_gradients", None)
        model.train_function.watch.look = lambda: ""  # which sees that
        model.train_on_batch(X, Y)
    assert all((a != b).any() for a, b in zip(before, model.get_weights()))


def test_a_setting_of_an_optimizer_that_changes_within_an_epoch_counts_at_once():
    class Cooling(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 4:
                self.model.optimizer.rho = 0.1

    def run(accelerated):
        model = compiled(small(dense()), keras.optimizers.RMSprop(0.01, rho=0.5), accelerated)
        return model.fit(X, Y, batch_size=8, epochs=2, callbacks=[Cooling()], verbose=0).history, state(model)

    assert_same_as_stock(run)


class Operations(torch.utils._python_dispatch.TorchDispatchMode):
    """Collects the names of the operations that are run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function._schema.name.removeprefix("aten::"))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "name", ["adam", "adamw, schedule", "adam, centred", "sgd, nesterov, schedule", "sgd, centred"]
)
def test_plain_optimizers_and_crossentropy_take_few_operations(name):
    model = compiled(small(dense()), OPTIMIZERS[name](), True)
    for _ in range(2):  # until the recording is trusted
        model.train_on_batch(X, Y)
    with Operations() as run:
        model.train_on_batch(X, Y)
    assert {"_fused_adamw_", "_fused_sgd_"} & run.names
    assert "sqrt" not in run.names
    assert torch.cuda.is_available() or "nll_loss_forward" not in run.names


class Pairs(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        part = slice(index * 16, index * 16 + 16)
        return X[part], Y[part]


INPUTS = {
    "tensors": lambda: {"x": torch.from_numpy(X), "y": torch.from_numpy(Y)},
    "data set": lambda: {"x": Pairs()},
    "data set, some steps": lambda: {"x": Pairs(), "steps_per_epoch": 3},
    "data set, class_weight": lambda: {"x": Pairs(), "class_weight": {0: 1.0, 1: 3.0, 2: 0.5}},
    "class_weight": lambda: {"x": X, "y": Y, "class_weight": {0: 1.0, 1: 3.0, 2: 0.5}},
    "sample_weight": lambda: {"x": X, "y": Y, "sample_weight": np.linspace(0, 2, 50)},
    "column of labels": lambda: {"x": X.astype("float64"), "y": Y[:, None]},
    "loader": lambda: {
        "x": torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=16
        )
    },
    "generator": lambda: {"x": (Pairs()[i % 4] for i in range(12)), "steps_per_epoch": 5},
    "validation split": lambda: {"x": X, "y": Y, "validation_split": 0.3},
}


@pytest.mark.parametrize("data", INPUTS.values(), ids=INPUTS.keys())
def test_inputs(data):
    def run(accelerated):
        model = compiled(small(dense()), accelerated=accelerated, weighted_metrics=["accuracy"])
        return model.fit(**data(), epochs=2, verbose=0).history, state(model)

    assert_same_as_stock(run)


def test_several_inputs_and_outputs():
    def run(accelerated):
        a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
        hidden = dense()(keras.layers.Concatenate()([a, b]))
        outputs = {"c": keras.layers.Dense(3, name="c")(hidden), "d": keras.layers.Dense(1, name="d")(hidden)}
        model = keras.Model({"a": a, "b": b}, outputs)
        losses, metrics = {"c": crossentropy(), "d": "mse"}, {"c": ["accuracy"], "d": ["mae"]}
        compiled(model, accelerated=accelerated, loss=losses, metrics=metrics, loss_weights={"c": 1.0, "d": 0.3})
        history = model.fit({"a": X, "b": -X}, {"c": Y, "d": X[:, :1]}, epochs=2, verbose=0).history
        return history, state(model), model.predict({"a": X, "b": X}, verbose=0)

    assert_same_as_stock(run)


@pytest.mark.parametrize("options", [{}, {"reduction": "sum"}, {"reduction": "none", "label_smoothing": 0.1}])
def test_a_loss_of_ones_own_that_calls_cross_entropy(options):
    def loss(y, logits):
        return torch.nn.functional.cross_entropy(logits, y.long().flatten(), **options).mean()

    def run(accelerated):
        model = compiled(small(dense()), accelerated=accelerated, loss=loss)
        history = model.fit(X, Y, batch_size=16, epochs=2, verbose=0)
        return state(model), history.history

    assert_same_as_stock(run)


def test_layers_with_state_and_losses_of_their_own():
    def run(accelerated):
        layers = [
            keras.layers.Reshape((3, 2)),
            keras.layers.Conv1D(4, 2, use_bias=False, kernel_regularizer="l2"),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("gelu"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(5, activity_regularizer="l1", kernel_constraint="unit_norm"),
            keras.layers.LayerNormalization(),
        ]
        model = compiled(small(*layers), accelerated=accelerated)
        history = model.fit(X, Y, batch_size=16, epochs=3, validation_data=(X, Y), verbose=0).history
        return history, state(model), model.predict(X, verbose=0)

    assert_same_as_stock(run)


def test_images_through_batch_normalization_and_overlapping_pooling():
    def run(accelerated):
        layers = [
            keras.layers.Reshape((6, 6, 1)),
            keras.layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.MaxPooling2D(3, strides=1, padding="same"),
            keras.layers.DepthwiseConv2D(2),
            keras.layers.AveragePooling2D(2),
            keras.layers.UpSampling2D(2),
            keras.layers.GlobalMaxPooling2D(),
            keras.layers.Dense(3),
        ]
        model = compiled(keras.Sequential([keras.Input((36,)), *layers]), accelerated=accelerated)
        x = np.tile(X, 6)
        return model.fit(x, Y, epochs=3, verbose=0).history, state(model), model.predict(x, verbose=0)

    assert_same_as_stock(run)


@pytest.mark.parametrize("again", [True, False], ids=["compile again", "same compile"])
def test_freezing_a_layer(again):
    def run(accelerated):
        model = compiled(small(dense(), dense()), accelerated=accelerated)
        model.fit(X, Y, verbose=0)
        model.layers[0].trainable = False
        if again:
            compiled(model, "sgd", accelerated)
        frozen = model.layers[0].kernel.numpy()
        history = model.fit(X, Y, verbose=0).history
        np.testing.assert_array_equal(model.layers[0].kernel, frozen)
        return history, state(model)

    assert_same_as_stock(run)


def test_fitting_again_continues():
    def run(accelerated):
        model = compiled(small(dense()), accelerated=accelerated)
        histories = [model.fit(X, Y, initial_epoch=i, epochs=i + 2, verbose=0).history for i in (0, 2)]
        return histories, state(model)

    assert_same_as_stock(run)


def test_assigned_weights_learning_rate_and_iterations_are_seen():
    def run(accelerated):
        model = compiled(small(dense()), accelerated=accelerated)
        model.fit(X, Y, verbose=0)
        model.set_weights([weight * 0.5 for weight in model.get_weights()])
        model.optimizer.learning_rate = 0.05
        model.optimizer.iterations.assign(1000)
        return model.fit(X, Y, epochs=2, verbose=0).history, state(model)

    assert_same_as_stock(run)


def test_compile_makes_it_stock_keras_again():
    model = compiled(small(dense()), accelerated=True)
    model.fit(X, Y, verbose=0)
    compiled(model)
    assert (model.train_function, model.test_function, model.predict_function) == (None, None, None)
    model.fit(X, Y, verbose=0)
    assert type(model.train_function).__module__ == "builtins"


def test_callbacks():
    class Logs(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.logs = []

        def on_train_batch_end(self, batch, logs=None):
            self.logs += [batch, *logs.values()]

        def on_test_batch_end(self, batch, logs=None):
            self.logs += [batch, *logs.values()]

    def run(accelerated):
        model = compiled(small(dense()), keras.optimizers.Adam(0.1), accelerated)
        recorded = Logs()
        callbacks = [
            recorded,
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.8),
            keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True),
        ]
        history = model.fit(X, Y, 16, 30, 0, callbacks, validation_data=(X[:20], Y[:20])).history
        assert len(history["loss"]) < 30
        return history, state(model), recorded.logs

    assert_same_as_stock(run, rtol=1e-3, atol=1e-4)


def test_a_callback_can_stop_training():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    model = compiled(small(dense()), accelerated=True)
    model.fit(Pairs(), epochs=5, callbacks=[Stop()], verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 3


def test_progress_bar_ends_with_the_epoch_values(capsys):
    model = compiled(small(dense()), accelerated=True)
    history = model.fit(Pairs(), verbose=1).history
    model.evaluate(Pairs(), verbose=1)
    output = capsys.readouterr().out
    assert "4/4" in output
    assert f"loss: {history['loss'][0]:.4f}" in output


def test_single_batches():
    def run(accelerated):
        model = compiled(small(dense()), accelerated=accelerated)
        logs = [model.train_on_batch(X, Y), model.train_on_batch(X, Y, sample_weight=np.arange(50.0))]
        return logs, model.test_on_batch(X, Y), model.predict_on_batch(X), state(model)

    assert_same_as_stock(run)


def test_saved_and_loaded_training_continues(tmp_path):
    def run(accelerated):
        path = tmp_path / f"{accelerated}.keras"
        model = compiled(small(dense()), accelerated=accelerated)
        model.fit(X, Y, verbose=0)
        model.save(path)
        model = keras.models.load_model(path)
        if accelerated:
            accelerate(model)
        return model.fit(X, Y, verbose=0).history, state(model)

    assert_same_as_stock(run)


def test_mixed_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:

        def run(accelerated):
            keras.config.set_dtype_policy("mixed_bfloat16")
            model = compiled(small(dense(), dense(), dtype="float32"), accelerated=accelerated)
            history = model.fit(X, Y, epochs=3, verbose=0).history
            assert {variable.dtype for variable in model.weights} == {"float32"}
            return history, state(model)

        assert_same_as_stock(run, rtol=0.05, atol=0.02)
    finally:
        keras.config.set_dtype_policy("float32")


def test_dropout_draws_a_fresh_mask_each_step():
    ones = np.ones((200, 6), "float32")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dropout(0.25), keras.layers.Dense(1, use_bias=False)])
    # With a learning rate of 0 a loss differs from the next by its mask alone.
    compiled(model, keras.optimizers.SGD(0.0), True, loss=lambda y, prediction: prediction, metrics=[])
    model.set_weights([np.ones((6, 1))])
    losses = [model.train_on_batch(ones, ones[:, :1]) for _ in range(200)]
    assert len(set(losses)) > 50
    assert np.mean(losses) == pytest.approx(6, abs=0.05)
    # The mean of 200 sums of 6 masks, each 0 or 4/3 with variance 1/3, varies by 0.1.
    assert np.std(losses) == pytest.approx(0.1, rel=0.2)
    assert model.test_on_batch(ones, ones[:, :1]) == pytest.approx(6)


def test_dropout_draws_what_stock_keras_draws():
    def run(accelerated):
        model = compiled(small(dense(), keras.layers.Dropout(0.5)), accelerated=accelerated)
        return model.fit(X, Y, epochs=2, verbose=0).history, state(model)

    assert_same_as_stock(run)


class OwnStep(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        (small, {"run_eagerly": True}, "run_eagerly"),
        (small, {"jit_compile": True}, "jit_compile"),
        (small, {"steps_per_execution": 2}, "steps_per_execution=2"),
        (lambda: OwnStep([keras.Input((6,)), dense()]), {}, "a train_step of its own"),
    ],
)
def test_what_cannot_be_accelerated_stays_stock_keras_and_says_why(model, options, reason):
    model = model()
    with pytest.warns(UserWarning, match=reason):
        assert compiled(model, accelerated=True, **options) is model


@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.Dropout(0.5, seed=1),
        lambda: keras.layers.GaussianNoise(0.5),
        lambda: keras.layers.Lambda(lambda x: x + keras.random.normal(keras.ops.shape(x))),
        lambda: keras.layers.Lambda(lambda x: x + keras.random.uniform(keras.ops.shape(x), seed=3)),
    ],
    ids=["Dropout", "GaussianNoise", "keras.random", "a fixed seed"],
)
def test_seeded_layers_draw_what_stock_keras_draws(layer):
    def run(accelerated):
        model = compiled(small(layer()), "sgd", accelerated)
        return [model.train_on_batch(X, Y)[0] for _ in range(5)], state(model), torch.rand(3).numpy()

    assert_same_as_stock(run)


def test_variables_outside_of_the_model_are_not_frozen():
    def run(accelerated):
        generator = keras.random.SeedGenerator(0)

        class Draws(keras.layers.Layer):
            def call(self, x):
                return x + keras.ops.cast(generator.next()[1], x.dtype)

        model = compiled(small(Draws()), keras.optimizers.SGD(0.1), accelerated)
        return [model.train_on_batch(X, Y)[0] for _ in range(4)], generator.state.numpy()

    assert_same_as_stock(run)


def test_needs_compile():
    with pytest.raises(ValueError, match="Received: model="):
        accelerate(small())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", MODELS)
def test_on_a_gpu_a_step_is_one_cuda_graph(name):
    check_an_epoch(name, cuda_graph=True)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_garbage_collector_is_left_as_it_was(frozen):
    gc.unfreeze()
    if frozen:
        gc.freeze()
    compiled(small(dense()), accelerated=True).train_on_batch(X, Y)
    assert gc.isenabled()
    assert (gc.get_freeze_count() > 0) == frozen
    gc.unfreeze()
