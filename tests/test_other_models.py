"""`accelerate` on models that are not ours: what stock Keras computes, or stock Keras with a warning that says why."""

import argparse
import array
import contextlib
import contextvars
import functools
import itertools
import os
import random
import re
import subprocess
import sys
import textwrap
import threading
import types
import warnings
import weakref

import keras
import numpy as np
import pytest
import torch
from conftest import on_cpu
from keras import layers, ops
from test_acceleration import X, Y, compiled, dense, small, state

from keras_examples.acceleration import accelerate

SEQUENCES = np.random.default_rng(1).normal(size=(50, 5, 3)).astype("float32")


class Apply(layers.Layer):
    """A layer that calls a function of itself and its input."""

    def __init__(self, function, **attributes):
        super().__init__()
        self.function = function
        vars(self).update(attributes)

    def call(self, x):
        return self.function(self, x)


def fit(model, x=X, y=Y, **options):
    options = {"batch_size": 16, "epochs": 3, "verbose": 0, "shuffle": False} | options
    return model.fit(x, y, **options).history


def each_epoch(change):
    return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs=None: change(1.0 + epoch))


def both(run):
    """Runs `run(prepare)` by stock Keras and accelerated; asserts that all agrees, and returns the warnings."""
    results = []
    for prepare in (lambda model: model, accelerate):
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        random.seed(0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append(keras.tree.flatten(run(prepare)))
    for ours, stock in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(ours, stock, rtol=1e-3, atol=1e-4)
    return [str(warning.message) for warning in caught if "not accelerated" in str(warning.message)]


def trained(prepare, *hidden, callbacks=(), **options):
    model = prepare(compiled(small(*hidden), "sgd", **options))
    return fit(model, callbacks=list(callbacks)), state(model), model.predict(X, verbose=0)


def add_in_place(tensor):
    with torch.no_grad():
        return tensor.add_(0.1)


def mean_by_numpy(y_true, y_pred):
    return float(np.mean(ops.convert_to_numpy(y_pred)))


class KeepsBatches(keras.metrics.Metric):
    def __init__(self):
        super().__init__(name="spread")
        self.batches = []

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.batches.append(y_pred)

    def result(self):
        return ops.std(ops.concatenate(self.batches)) if self.batches else 0.0

    def reset_state(self):
        self.batches = []


LEAVES = {
    "float()": lambda layer, x: x * float(x.detach().mean()),
    "tolist": lambda layer, x: x * sum(x.detach().flatten().tolist()),
    "numpy": lambda layer, x: x * x.detach().cpu().numpy().mean(),
    "an array of it": lambda layer, x: x * np.asarray(x.detach().cpu()).mean(),
    "a tensor of tensors": lambda layer, x: x * torch.tensor([x.detach().mean(), x.detach().max()]).sum(),
    "as_tensor": lambda layer, x: x * torch.as_tensor([[x.detach().mean()], [2.0]]).sum(),
    "asarray": lambda layer, x: x * torch.asarray((x.detach().mean(), 2.0)).sum(),
    "new_tensor": lambda layer, x: x * x.new_tensor([x.detach().mean()]),
    "text": lambda layer, x: x * float(f"{x.detach().mean():.3f}"),
    "a branch": lambda layer, x: x * 2 if x.sum() > 0 else x * 3,
    "a comparison": lambda layer, x: x * (2 if torch.equal(x, x.abs()) else 3),
    "a shape": lambda layer, x: x + len(torch.unique(x.detach().round())),
    "Python's random numbers": lambda layer, x: x * random.random(),
    "a generator of NumPy's": lambda layer, x: x * layer.numbers.normal(),
    "an old generator of NumPy's": lambda layer, x: x * layer.old_numbers.rand(),
    "a generator of torch's": lambda layer, x: x * torch.rand(6, generator=layer.generator, device=x.device),
    "bare memory": lambda layer, x: x * x.new_empty(0).set_((x * 2).detach().untyped_storage()).mean(),
    "a counter": lambda layer, x: x * next(layer.counter) / 10,
}


@pytest.mark.parametrize("function", LEAVES.values(), ids=LEAVES.keys())
def test_what_a_recording_cannot_follow_stays_stock_keras(function):
    def run(prepare):
        generator = torch.Generator(ops.ones(()).device).manual_seed(0)
        numbers = {"numbers": np.random.default_rng(0), "old_numbers": np.random.RandomState(0)}
        return trained(prepare, Apply(function, generator=generator, counter=itertools.count(1), **numbers))

    assert both(run)


def test_tensors_of_numbers_are_no_reason():
    assert not both(lambda prepare: trained(prepare, Apply(lambda layer, x: x * torch.tensor([1.0, 2.0]).sum())))


def test_connectionist_temporal_classification_of_labels_of_any_length():
    labels = np.random.default_rng(2).integers(1, 4, (50, 3))
    labels[::3, 1:] = 0  # what ends a sequence of labels early, in each batch elsewhere
    labels[20:, 2] = 0

    def run(prepare):
        model = keras.Sequential([keras.Input((5, 3)), layers.LSTM(8, return_sequences=True), layers.Dense(4)])
        model.compile("sgd", keras.losses.CTC())
        return fit(prepare(model), SEQUENCES, labels), state(model)

    assert not both(run)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(1.0),
        lambda: keras.optimizers.SGD(1.0, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda: keras.optimizers.Adam(1.0),
    ],
)
def test_a_gradient_that_is_the_same_at_each_step(optimizer):
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 1.0 if epoch < 2 else 0.1)

    def run(prepare):
        model = small(layers.Dense(1))
        model.compile(optimizer(), lambda y_true, y_pred: 0.1 * y_pred)
        return fit(prepare(model), epochs=4, callbacks=[schedule]), state(model)

    assert not both(run)


class KeepsGradient(layers.Layer):
    """A scale whose gradient a hook of torch's writes into a variable."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[1:], initializer="ones")
        self.kept = self.add_weight(shape=shape[1:], initializer="zeros", trainable=False)
        self.scale.value.register_hook(self.keep)

    def keep(self, gradient):
        self.kept.assign(gradient)

    def call(self, x):
        return x * self.scale


def test_a_gradient_that_a_hook_keeps():
    assert not both(lambda prepare: trained(prepare, KeepsGradient()))


def test_attributes_whose_state_cannot_be_read():
    def plain(layer, x):
        return x * 2

    def run(prepare):
        return trained(prepare, Apply(plain, chance=random.SystemRandom(), sparse=torch.eye(6).to_sparse()))

    both(run)


def test_a_counter_that_seldom_counts_is_not_frozen_either():
    assert both(lambda prepare: trained(prepare, Apply(LEAVES["a counter"], counter=iter([1] * 6 + [5] * 100))))


def test_a_metric_with_python_state():
    assert both(lambda prepare: trained(prepare, dense(), metrics=[KeepsBatches()]))


class MedianByNumpy(keras.metrics.Metric):
    """The sum of the medians of all batches, and of the weights of their samples."""

    def __init__(self):
        super().__init__(name="median")
        self.total = self.add_weight(shape=(), initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(float(np.median(ops.convert_to_numpy(y_pred))))
        if sample_weight is not None:
            self.total.assign_add(ops.sum(sample_weight))

    def result(self):
        return self.total


def test_metrics_through_numpy_leave_the_rest_of_the_step_accelerated():
    def run(prepare):
        model = compiled(small(dense()), "sgd", metrics=["accuracy", mean_by_numpy], weighted_metrics=[MedianByNumpy()])
        prepare(model)
        weights = {"sample_weight": np.linspace(0, 1, len(X)), "validation_data": (X, Y)}
        results = fit(model, **weights), model.evaluate(X, Y, 16, 0), fit(model), fit(model)
        if prepare is accelerate:
            assert model.train_function.recordings
            assert model.test_function.recordings
        return *results, model.train_on_batch(X[:16], Y[:16]), state(model)

    assert not both(run)


def test_metrics_through_numpy_of_several_outputs():
    def run(prepare):
        inputs = keras.Input((6,))
        outputs = {"a": layers.Dense(3, name="a")(inputs), "b": layers.Dense(1, name="b")(inputs)}
        model = keras.Model(inputs, outputs)
        loss = {"a": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "b": "mse"}
        model.compile("adam", loss, metrics={"a": ["accuracy", mean_by_numpy], "b": ["mae"]})
        prepare(model)
        return fit(model, y={"b": X[:, :1], "a": Y}), model.evaluate(X, {"a": Y, "b": X[:, :1]}, verbose=0)

    assert not both(run)


def test_a_metric_through_numpy_of_what_a_layer_keeps():
    def run(prepare):
        def keep(layer, x):
            layer.kept = x
            return x

        def mean(y_true, y_pred):
            return 0.0 if layer.kept.device.type == "meta" else float(layer.kept.mean())

        layer = Apply(keep)
        return trained(prepare, layer, metrics=[mean])

    assert both(run)


@pytest.mark.parametrize("reads", [False, True], ids=["alone", "and a layer that reads values"])
def test_a_metric_through_numpy_of_outputs_with_a_mask(reads):
    def run(prepare):
        hidden = [layers.Embedding(9, 4, mask_zero=True), layers.LSTM(3, return_sequences=True)]
        hidden += [Apply(LEAVES["float()"], supports_masking=True)] * reads
        model = keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(3)])
        prepare(compiled(model, metrics=[MedianByNumpy()]))
        x = np.arange(300).reshape(50, 6) % 9
        return fit(model, x, x % 3), state(model)

    assert ("Python reads the values of a tensor" if reads else "its metrics read a mask") in both(run)[0]


BY_INDEX = {
    "MeanIoU": ("mse", lambda: keras.metrics.MeanIoU(3, sparse_y_true=False, sparse_y_pred=False)),
    "BinaryIoU": ("mse", lambda: keras.metrics.BinaryIoU(target_class_ids=[0, 1])),
    "Hinge": ("mse", keras.metrics.Hinge),
    "hinge": ("hinge", keras.metrics.BinaryAccuracy),
    "squared_hinge": ("squared_hinge", keras.metrics.BinaryAccuracy),
}


@pytest.mark.parametrize("labels", ["0 and 1", "-1 and 1, then 0 and 1"])
@pytest.mark.parametrize(("loss", "metric"), BY_INDEX.values(), ids=BY_INDEX.keys())
def test_confusion_matrices_and_hinges(loss, metric, labels):
    y = np.eye(3, dtype="float32")[Y]
    if labels.startswith("-1"):
        y[:20] = 2 * y[:20] - 1

    def run(prepare):
        model = prepare(compiled(small(dense()), "sgd", loss=loss, metrics=[metric()]))
        return fit(model, y=y), model.evaluate(X, y, verbose=0), state(model)

    assert not both(run)


def test_scattering_adds_what_falls_on_one_place():
    def scatter(layer, x):
        once = ops.scatter([[0], [2], [0]], ops.mean(x, axis=0)[:3], (6,))
        return x + once + ops.mean(ops.scatter([[1], [1]], x[:2], (2, 6)))

    assert not both(lambda prepare: trained(prepare, Apply(scatter)))


@pytest.mark.parametrize("axes", [(-1, 0), (-2, -1), (0, -1)])
def test_axes_that_count_from_the_end(axes):
    def run(prepare):
        return trained(prepare, Apply(lambda layer, x: x + ops.reshape(x.permute(axes), (-1,))[:6]))

    assert not both(run)


def test_numbers_that_are_read_as_of_another_type():
    assert not both(lambda prepare: trained(prepare, Apply(lambda layer, x: x + ops.view(x.detach(), "int32") % 2)))


SHAPES_IN_PLACE = {
    "a map over samples": lambda layer, x: ops.vectorized_map(lambda row: ops.tanh(row) @ ops.eye(6), x),
    "squeeze_": lambda layer, x: (x * 2)[None].squeeze_(0) @ ops.eye(6),
    "t_": lambda layer, x: (ops.eye(6) @ (x * 2).t_()).t(),
}


@pytest.mark.parametrize("function", SHAPES_IN_PLACE.values(), ids=SHAPES_IN_PLACE.keys())
def test_a_shape_that_is_changed_in_place(function):
    assert not both(lambda prepare: trained(prepare, Apply(function)))


@pytest.mark.parametrize("initializer", ["glorot_uniform", "zeros"])
def test_spectral_normalization(initializer):
    def run(prepare):
        layer = layers.SpectralNormalization(layers.Dense(5, kernel_initializer=initializer), power_iterations=2)
        return trained(prepare, layer)

    assert not both(run)


def test_a_function_of_keras_that_is_replaced(monkeypatch):
    monkeypatch.setattr(keras.src.backend.core, "scatter", lambda indices, values, shape: ops.ones(shape))
    assert not both(lambda prepare: trained(prepare, Apply(lambda layer, x: x + ops.scatter([[0]], x[:1, 0], (6,)))))


def test_the_warning_names_layer_function_and_line():
    model = compiled(small(Apply(LEAVES["numpy"])), accelerated=True)
    with pytest.warns(UserWarning, match="not accelerated") as caught:
        fit(model)
    (warning,) = [warning for warning in caught if "not accelerated" in str(warning.message)]
    text, line = str(warning.message), LEAVES["numpy"].__code__.co_firstlineno
    assert re.search(rf"through numpy, in apply\S* \(Apply\), in <lambda> at test_other_models.py:{line}", text), text
    assert warning.filename == __file__


FACTOR, NUMBER = argparse.Namespace(k=1.0), contextvars.ContextVar("number")


theirs = sys.modules["number_of_theirs"] = types.ModuleType("number_of_theirs")
theirs.__file__ = __file__


class Meta(type):
    k = 1.0


class Holder:
    __slots__ = "k"

    def factor(self):
        return self.k


class Named(metaclass=Meta):
    k = 1.0


class Heir(Named):
    pass


class Dictionary(dict):
    pass


class Storied(layers.Layer):
    history = 1.0

    def call(self, x):
        return x * self.history


def factor():
    return FACTOR.k


def factor_of_theirs():
    return theirs.k


def wrapping(function):
    return lambda: function()


@contextlib.contextmanager
def factor_within():
    yield FACTOR.k


def read_within(layer, x):
    with factor_within() as k:
        return x * k


def read_imported(layer, x):
    from number_of_theirs import k

    return x * k


def holders():
    """Where a layer may read a number from: how to read it, how to set it, and attributes of the layer."""
    values, array_of, holder, keys, sub = {"k": 1.0}, np.ones(400_000, "float32"), Holder(), {1.0: ""}, Dictionary()
    options, event, numbers = types.SimpleNamespace(k=1.0), threading.Event(), array.array("d", [1.0])
    number = 1.0
    holder.k = 1.0

    def attribute(x):
        return x * attribute.k

    def set_global(k):
        FACTOR.k = k

    def set_number(k):
        nonlocal number
        number = k

    def set_key(k):
        keys.clear()
        keys[k] = ""

    attribute.k = 1.0
    calling = lambda layer, x: x * layer.held()  # noqa: E731
    return {
        "a dict around it": (lambda layer, x: x * values["k"], lambda k: values.update(k=k)),
        "a name around it": (lambda layer, x: x * number, set_number),
        "a global": (lambda layer, x: x * FACTOR.k, set_global),
        "an array": (lambda layer, x: x * torch.from_numpy(array_of).mean(), array_of.fill),
        "a slot": (lambda layer, x: x * holder.factor(), lambda k: setattr(holder, "k", k)),
        "a function's attribute": (lambda layer, x: attribute(x), lambda k: setattr(attribute, "k", k)),
        "a function that is an attribute": (calling, set_global, {"held": factor}),
        "a function in a container": (lambda layer, x: x * layer.held["f"](), set_global, {"held": {"f": factor}}),
        "a partial": (calling, set_global, {"held": functools.partial(factor)}),
        "a decorator": (calling, set_global, {"held": wrapping(factor)}),
        "a decorator of torch's": (calling, set_global, {"held": torch.no_grad()(factor)}),
        "a context manager": (read_within, set_global),
        "a method of a dict": (
            lambda layer, x: x * layer.held("k"),
            lambda k: values.update(k=k),
            {"held": values.get},
        ),
        "a weak reference": (lambda layer, x: x * layer.held().k, set_global, {"held": weakref.ref(FACTOR)}),
        "a namespace": (lambda layer, x: x * options.k, lambda k: setattr(options, "k", k)),
        "an event": (lambda layer, x: x * (1 + event.is_set()), lambda k: event.set() if k > 1 else event.clear()),
        "an array of Python's": (lambda layer, x: x * numbers[0], lambda k: numbers.__setitem__(0, k)),
        "a context variable": (lambda layer, x: x * NUMBER.get(), NUMBER.set),
        "a dict's key": (lambda layer, x: x * next(iter(keys)), set_key),
        "a dict's attribute": (lambda layer, x: x * sub.k, lambda k: setattr(sub, "k", k)),
        "a base class": (lambda layer, x: x * Heir.k, lambda k: setattr(Named, "k", k)),
        "a class of classes": (lambda layer, x: x * type(Named).k, lambda k: setattr(Meta, "k", k)),
        "a module imported late": (read_imported, lambda k: setattr(theirs, "k", k)),
        "a module that a function reads": (lambda layer, x: x * factor_of_theirs(), lambda k: setattr(theirs, "k", k)),
        "a text that is a name": (lambda layer, x: x * globals()["FACTOR"].k, set_global),
        "the environment": (
            lambda layer, x: x * float(os.environ["FACTOR"]),
            lambda k: os.environ.update(FACTOR=str(k)),
        ),
    }


@pytest.mark.parametrize("place", holders())
def test_a_number_that_a_callback_changes_between_epochs(place):
    def run(prepare):
        read, change, *attributes = holders()[place]
        change(1.0)
        return trained(prepare, Apply(read, **dict(*attributes)), callbacks=[each_epoch(change)])

    assert not both(run)


class ThirdBatch(keras.callbacks.Callback):
    """Doubles a layer's factor before or after the third batch of an epoch."""

    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self.act)

    def act(self, batch, logs=None):
        if batch == 2:
            self.model.layers[0].factor *= 2


HOOKS = "on_batch_begin on_batch_end on_train_batch_begin on_train_batch_end on_test_batch_begin".split()


@pytest.mark.parametrize("hook", HOOKS)
def test_a_number_that_a_callback_changes_between_batches(hook):
    def run(prepare):
        model = prepare(compiled(small(Apply(lambda layer, x: x * layer.factor, factor=1.0)), "sgd"))
        callback = ThirdBatch(hook)
        return fit(model, callbacks=[callback]), model.evaluate(X, Y, 16, 0, callbacks=[callback]), state(model)

    assert not both(run)


def test_a_number_that_a_function_given_to_a_callback_changes_between_batches():
    def run(prepare):
        layer = Apply(lambda layer, x: x * layer.factor, factor=1.0)
        change = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: setattr(layer, "factor", batch))
        return trained(prepare, layer, callbacks=[change])

    assert not both(run)


def test_an_attribute_that_is_called_as_one_of_keras_models():
    def run(prepare):
        layer = Storied()
        return trained(prepare, layer, callbacks=[each_epoch(lambda k: setattr(layer, "history", k))])

    assert not both(run)


def test_code_that_comes_from_standard_input():
    code = textwrap.dedent("""
        import keras, numpy as np
        from keras_examples.acceleration import accelerate

        strength = 1.0

        def factor():
            return strength

        model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x * factor())])
        model.compile("sgd", "mse")
        accelerate(model)
        for strength in (1.0, 1.0, 1.0, 3.0):
            print(model.predict(np.ones((1, 2)), verbose=0)[0, 0])
    """)
    run = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True)
    assert run.stdout.split() == ["1.0", "1.0", "1.0", "3.0"], run.stderr


@pytest.mark.parametrize("kind", [keras.optimizers.SGD, keras.optimizers.Adam])
def test_a_learning_rate_that_the_step_assigns(kind):
    def halve(layer, x):
        optimizers[-1].learning_rate.assign(optimizers[-1].learning_rate * 0.5)
        return x

    def run(prepare):
        optimizers.append(kind(0.5))
        return fit(prepare(compiled(small(dense(), Apply(halve)), optimizers[-1])))

    optimizers = []
    assert not both(run)


class Counted(keras.optimizers.schedules.LearningRateSchedule):
    asked = 0

    def __call__(self, step):
        self.asked += 1
        return 0.5 / self.asked


def test_a_schedule_that_counts_is_asked_once_a_step():
    def run(prepare):
        schedule = Counted()
        return fit(prepare(compiled(small(), keras.optimizers.SGD(schedule)))), schedule.asked

    assert both(run)


def test_a_parameter_of_torchs_that_is_replaced():
    def run(prepare):
        torch.manual_seed(0)
        linear = torch.nn.Linear(8, 8)
        model, predictions = prepare(compiled(small(dense(), layers.TorchModuleWrapper(linear)), "sgd")), []
        for k in (1.0, 1.0, 2.0):
            linear.load_state_dict({"weight": torch.eye(8) * k, "bias": torch.zeros(8)}, assign=True)
            predictions.append(model.predict(X, verbose=0))
        return predictions

    assert not both(run)


class Drawn(keras.utils.PyDataset):
    """Batches that other threads prepare, with random numbers of NumPy's."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        np.random.normal(size=10_000)
        return X[:16], Y[:16]


def test_what_other_threads_draw_is_no_reason():
    assert not both(lambda prepare: fit(prepare(compiled(small(), "sgd")), Drawn(workers=2), None, batch_size=None))


class Halved(layers.Dense):
    def call(self, x, training=None):
        return super().call(x, training) / 2


CHANGES = {
    "class": lambda model: setattr(model.layers[0], "__class__", Halved),
    "freeze": lambda model: setattr(model.layers[0], "trainable", False),
    "activation": lambda model: setattr(model.layers[0], "activation", keras.activations.tanh),
    "regularizer": lambda model: setattr(model.layers[0], "kernel_regularizer", keras.regularizers.L2(0.1)),
    "constraint": lambda model: setattr(model.layers[0].kernel, "constraint", keras.constraints.NonNeg()),
    "the type of all variables": lambda model: model.to(torch.float64),
    "the tensor of a variable": lambda model: setattr(model.layers[0].kernel.value, "data", ops.ones((6, 8))),
    "clipping": lambda model: setattr(model.optimizer, "clipnorm", 0.01),
    "momentum": lambda model: setattr(model.optimizer, "momentum", 0.5),
    "a gradient that is wanted no more": lambda model: model.layers[0].kernel.value.requires_grad_(False),
    "a hook on a variable": lambda model: model.layers[0].kernel.value.register_hook(lambda gradient: gradient * 0),
    "the learning rate's memory": lambda model: model.optimizer.learning_rate.value.data.fill_(0.01),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("unbuilt", [pytest.param(False, marks=pytest.mark.slow), True], ids=["built", "built by fit"])
def test_changes_between_two_fits(change, unbuilt):
    def run(prepare):
        hidden = [dense(), layers.Dense(3)]
        model = keras.Sequential(hidden) if unbuilt else small(dense())
        prepare(compiled(model, keras.optimizers.SGD(0.1, momentum=0.9)))
        before = fit(model), model.predict(X, verbose=0)
        change(model)
        return before, fit(model), model.evaluate(X, Y, verbose=0), model.predict(X, verbose=0)

    assert not both(run)


def test_a_method_of_keras_that_is_replaced(monkeypatch):
    def run(prepare):
        model = prepare(compiled(small(dense()), "sgd"))
        before = [model.predict(X, verbose=0) for _ in range(3)]
        with monkeypatch.context() as patched:
            patched.setattr(layers.Dense, "call", lambda self, x, training=None: ops.matmul(x, self.kernel) * 2)
            return before, model.predict(X, verbose=0)

    assert not both(run)


@pytest.mark.parametrize("hook", [lambda *_: None, lambda module, inputs, output: output * 2], ids=["looks", "doubles"])
def test_hooks_on_all_modules(hook):
    def run(prepare):
        model = prepare(compiled(small(dense()), "sgd"))
        before = [model.predict(X, verbose=0) for _ in range(3)]
        handle = torch.nn.modules.module.register_module_forward_hook(hook)
        during = model.predict(X, verbose=0)
        handle.remove()
        return before, during, model.predict(X, verbose=0)

    assert not both(run)


@pytest.mark.parametrize("first", [False, True])
def test_variables_that_stand_for_other_values(first):
    def run(prepare):
        model = prepare(compiled(small(dense()), "sgd"))
        pairs = [(variable, ops.ones(variable.shape)) for variable in model.variables]
        results = [] if first else [model.predict_on_batch(X) for _ in range(3)]
        with keras.StatelessScope(pairs):
            results += [model.predict_on_batch(X) for _ in range(3)]
        return results, model.predict_on_batch(X)

    assert not both(run)


def test_anomalies_are_looked_for():
    def run(prepare):
        model = prepare(compiled(small(dense(), Apply(lambda layer, x: ops.sqrt(x) * 0)), "sgd"))
        model.train_on_batch(X, Y)
        with torch.autograd.set_detect_anomaly(True), pytest.raises(RuntimeError, match="returned nan values"):
            model.train_on_batch(X, Y)
        return 0

    both(run)


@pytest.mark.parametrize("method", ["train_on_batch", "test_on_batch", "predict_on_batch"])
def test_a_batch_after_compiling_anew(method):
    def run(prepare):
        model, arrays = prepare(compiled(small(dense()), "sgd")), (X,) if method == "predict_on_batch" else (X, Y)
        before = [getattr(model, method)(*arrays) for _ in range(3)]
        return before, getattr(compiled(model, "adam"), method)(*arrays)

    assert not both(run)


@pytest.mark.parametrize("method", ["train_on_batch", "test_on_batch"])
def test_a_batch_within_fit_has_its_logs(method):
    def run(prepare):
        model, logs = prepare(compiled(small(dense()), "sgd", metrics=["accuracy"])), []
        ask = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, _: logs.append(getattr(model, method)(X, Y, return_dict=True))
        )
        return fit(model, callbacks=[ask]), logs

    assert not both(run)


def pooled(change):
    def call(layer, x):
        hidden = torch.nn.functional.relu(before := x.reshape(-1, 2, 2, 2) - 0.5)
        change(hidden, before)
        return torch.nn.functional.max_pool2d(hidden, 2).reshape(-1, 2) + hidden.sum((2, 3))

    return Apply(call, compute_output_shape=lambda shape: (shape[0], 2))


@pytest.mark.parametrize(
    "change",
    [
        lambda hidden, before: before.detach().add_(1.0),
        lambda hidden, before: hidden.requires_grad and hidden.register_hook(lambda gradient: gradient * 3),
    ],
    ids=["changed in place", "hooked"],
)
def test_a_pooling_of_what_was_rectified(change):
    assert not both(lambda prepare: trained(prepare, dense(), pooled(change)))


def test_classes_that_are_counted_in_each_batch():
    def run(prepare):
        count = Apply(lambda layer, x: x / torch.nn.functional.one_hot(x.long()).shape[-1])
        model = keras.Sequential([keras.Input((4,)), count])
        prepare(compiled(model, "sgd"))
        return [model.predict_on_batch(np.full((2, 4), largest)) for largest in (3, 3, 3, 5)]

    assert "one_hot returns depends on values" in both(run)[0]


def test_changes_to_and_fro_are_recorded_once_each():
    """As in the usual loop of a GAN, where one of two parts is frozen."""

    def run(prepare):
        layer, losses = dense(), []
        model = compiled(small(layer), "sgd")
        model.optimizer.build(model.trainable_variables)
        prepare(model)
        for step in range(20):
            layer.trainable = step % 2 == 0
            losses.append(model.train_on_batch(X[:16], Y[:16]))
        if hasattr(model.train_function, "budget"):
            assert model.train_function.budget.recorded == 2
        return losses, state(model)

    assert not both(run)


def test_layers_that_come_and_go_and_int8():
    def run(prepare):
        model = prepare(compiled(small(dense(), dense())))
        found = [model.predict(X, verbose=0)]
        for change in (model.pop, lambda: model.add(layers.Dense(2)), lambda: model.quantize("int8")):
            change()
            found += [model.predict(X, verbose=0), model.predict(X, verbose=0)]
        return found

    assert not both(run)


@pytest.mark.parametrize("kind", [dict, list])
def test_inputs_go_where_they_belong(kind):
    def run(prepare):
        names = ["query", "key", "anchor"]  # in another order than that of the alphabet
        inputs = {name: keras.Input((2,), name=name) for name in names}
        difference = inputs["query"] - 2 * inputs["key"] + 3 * inputs["anchor"]
        outputs = {"sum": layers.Dense(1, name="sum")(difference), "first": difference}
        x = {name: X[:, 2 * i : 2 * i + 2] for i, name in enumerate(names)}
        if kind is list:
            inputs, x = list(inputs.values()), list(x.values())
        model = keras.Model(inputs, outputs)
        model.compile("sgd", {"sum": "mse"})
        prepare(model)
        return fit(model, x, {"sum": X[:, :1]}), model.predict(x, verbose=0)

    assert not both(run)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_variables_that_do_not_lie_row_by_row(optimizer):
    def run(prepare):
        sequence = [keras.Input((5, 3)), layers.SimpleRNN(4), layers.Dense(2, kernel_initializer="orthogonal")]
        model = prepare(compiled(keras.Sequential([*sequence, layers.Dense(3)]), optimizer))
        return fit(model, SEQUENCES), state(model)

    assert not both(run)


class Module(torch.nn.Module):
    """A module of torch's with a parameter, a buffer that it changes itself, and an attribute."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm, self.drop = torch.nn.Linear(6, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.5)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return self.drop(self.norm(self.linear(x))) * self.count / 10


def test_modules_of_torch():
    def run(prepare):
        module = Module()
        model = prepare(compiled(small(layers.TorchModuleWrapper(module, output_shape=(None, 6))), "sgd"))
        before = fit(model)
        module.drop.p = 0.0
        return before, fit(model), [ops.convert_to_numpy(value) for value in module.state_dict().values()]

    both(run)


def test_tensors_around_a_layer():
    def run(prepare):
        tensor = ops.ones(6)
        return trained(prepare, Apply(lambda layer, x: x * add_in_place(tensor))), ops.convert_to_numpy(tensor)

    both(run)


def test_states_that_predict_leaves():
    def run(prepare):
        model = keras.Sequential([keras.Input((1, 3), batch_size=1), layers.LSTM(4, stateful=True), layers.Dense(2)])
        model.compile("sgd", "mse")
        prepare(model)
        return [model.predict(SEQUENCES[:1, i : i + 1], verbose=0) for i in range(5)]

    assert not both(run)


def own(**methods):
    inputs = keras.Input((6,))
    return type("Own", (keras.Model,), methods)(inputs, layers.Dense(3)(inputs))


def spread(self, x, y, y_pred, sample_weight=None):
    return keras.Model.compute_metrics(self, x, y, y_pred, sample_weight) | {"spread": ops.std(y_pred)}


def counted(self):
    self.results = getattr(self, "results", 0) + 1
    return keras.Model.get_metrics_result(self) | {"results": self.results}


def twice_what_is_large(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
    loss = torch.nn.functional.cross_entropy(y_pred, y.long().flatten())
    return loss * 2 if loss.item() > 1 else loss


OWN = {
    "logs": {"compute_metrics": spread},
    "logs with state": {"get_metrics_result": counted},
    "loss": {"compute_loss": twice_what_is_large},
    "fit": {"fit": lambda self, *args, **options: keras.Model.fit(self, *args, **options)},
    "predict": {"predict": lambda self, *args, **options: keras.Model.predict(self, *args, **options) + 1},
    "train_step": {"train_step": lambda self, data: keras.Model.train_step(self, data) | {"two": torch.tensor(2.0)}},
}


@pytest.mark.parametrize("methods", OWN.values(), ids=OWN.keys())
def test_methods_of_ones_own(methods):
    def run(prepare):
        model = prepare(compiled(own(**methods), "sgd"))
        return fit(model), fit(model, Pairs(), None, batch_size=None), model.predict(X, verbose=0)

    both(run)


class Pairs(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[index * 16 : index * 16 + 16], Y[index * 16 : index * 16 + 16]


def test_a_step_that_an_instance_gets_later():
    def run(prepare):
        model = prepare(compiled(small(dense())))
        before, step = fit(model), model.train_step
        model.train_step = lambda data: step(data) | {"two": torch.tensor(2.0)}
        return before, fit(model)

    assert "train_step of its own" in both(run)[0]


@pytest.mark.parametrize(
    ("layer", "wrong"),
    [
        (layers.CategoryEncoding(5, output_mode="multi_hot"), 9),
        (layers.Embedding(5, 3), 9),
        (Apply(lambda layer, x: ops.one_hot(x, 5)), 7),
    ],
    ids=["CategoryEncoding", "Embedding", "one_hot"],
)
@on_cpu
def test_numbers_out_of_range_are_errors_as_in_stock_keras(layer, wrong):
    ids = np.random.default_rng(1).integers(0, 5, (64, 3)).astype("int32")
    ids[40, 1] = wrong
    model = keras.Sequential([keras.Input((3,), dtype="int32"), layer, layers.Flatten(), layers.Dense(3)])
    accelerate(compiled(model))
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        model.predict(ids, batch_size=16, verbose=0)


@on_cpu
def test_labels_that_torch_ignores():
    labels = Y.copy()
    labels[40] = -100
    both(lambda prepare: fit(prepare(compiled(small(dense()), "sgd")), y=labels))


def test_an_optional_input_that_is_not_there():
    class Add(layers.Layer):
        def call(self, x, y):
            return y if x is None else x + y

        def compute_output_shape(self, x_shape, y_shape):
            return y_shape

    def run(prepare):
        first, second = keras.Input((6,), optional=True), keras.Input((6,))
        model = keras.Model([first, second], layers.Dense(1)(Add()(first, second)))
        model.compile("sgd", "mse")
        prepare(model)
        return [float(model.train_on_batch([None, X], X[:, :1])) for _ in range(4)]

    assert not both(run)


def test_batches_of_ever_new_lengths_are_recorded_only_while_it_pays():
    def run(prepare):
        tokens = [keras.Input((None,), dtype="int32"), layers.Embedding(50, 4), layers.GlobalMaxPooling1D()]
        model = prepare(compiled(keras.Sequential([*tokens, layers.Dense(3)])))
        for length in range(5, 105):
            model.train_on_batch(np.full((8, length), length % 50), Y[:8])
        if prepare is accelerate:
            assert len(model.train_function.recordings) < 20
        return state(model)

    assert not both(run)


def test_validation_after_each_epoch_is_no_reason_to_record_anew():
    model = compiled(small(dense()), accelerated=True)
    model.fit(X, Y, len(X), 4, 0, validation_data=(X, Y))
    assert (model.train_function.budget.recorded, model.test_function.budget.recorded) == (1, 1)


def test_threads_that_predict_at_once():
    threads = torch.get_num_threads()
    model = compiled(small(dense()), accelerated=True)
    copy, results = compiled(keras.models.clone_model(model)), {}
    copy.set_weights(model.get_weights())
    stock = [copy.predict(X + i, verbose=0) for i in range(4)]

    def predict(i):
        results[i] = [model.predict(X + i, verbose=0) for _ in range(5)]

    workers = [threading.Thread(target=predict, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i in range(4):
        for found in results[i]:
            np.testing.assert_allclose(found, stock[i], rtol=1e-4, atol=1e-5)
    found = []
    fresh = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    assert [torch.get_num_threads(), *found] == [threads, threads]


def test_stacked_convolutions_are_accelerated():
    def run(prepare):
        between = [layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling1D(2), layers.Dropout(0.1)]
        stack = [keras.Input((12, 1)), layers.Conv1D(4, 3), *between, layers.Conv1D(4, 2), layers.Flatten()]
        model = prepare(compiled(keras.Sequential([*stack, layers.Dense(3)]), "sgd"))
        return fit(model, np.repeat(X, 2, axis=1)[..., None]), state(model)

    assert not both(run)


NORMALIZATIONS = {
    "plain": {},
    "no scale": {"scale": False},
    "no offset": {"center": False},
    "another axis": {"axis": 1},
    "renorm": {"renorm": True},
    "bfloat16": {"dtype": "mixed_bfloat16"},
    "float64": {"dtype": "float64"},
    "frozen": {"trainable": False},
}


@pytest.mark.parametrize("options", NORMALIZATIONS.values(), ids=NORMALIZATIONS.keys())
@pytest.mark.parametrize("shape", [(6,), (4, 3), (4, 3, 2), (2, 2, 3, 2)], ids=str)
def test_batch_normalization(options, shape):
    def run(prepare):
        stack = [layers.Dense(4), layers.BatchNormalization(**options), layers.ReLU(), layers.Flatten()]
        model = prepare(compiled(keras.Sequential([keras.Input(shape), *stack, layers.Dense(3)]), "sgd"))
        x = np.random.default_rng(0).normal(2, 1, (50, *shape)).astype("float32")
        return fit(model, x), state(model), model.predict(x, verbose=0)

    assert not both(run)


def test_batch_normalization_twice_in_a_step():
    def run(prepare):
        x = keras.Input((6,))
        shared, across = layers.BatchNormalization(momentum=0.5), layers.TimeDistributed(layers.BatchNormalization())
        y = layers.Reshape((3, 2))(shared(layers.Dense(6)(shared(x))))
        model = prepare(compiled(keras.Model(x, layers.Dense(3)(layers.Flatten()(across(y)))), "sgd"))
        return fit(model), state(model)

    assert not both(run)


class GradientPenalty(layers.Layer):
    """Penalises the gradients of a normalised part by its inputs, as in WGAN-GP."""

    def build(self, shape):
        self.part = keras.Sequential([keras.Input(shape[1:]), layers.BatchNormalization(), dense()])

    def call(self, x, training=False):
        if training:
            inputs = x.detach().requires_grad_()
            outputs = self.part(inputs, training=True)
            (gradients,) = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
            self.add_loss(ops.mean(ops.square(gradients)))
        return self.part(x, training=False)


def test_batch_normalization_in_a_gradient_penalty():
    assert not both(lambda prepare: trained(prepare, GradientPenalty()))


def test_batch_normalization_of_what_a_mask_leaves():
    def run(prepare):
        stack = [keras.Input((5, 3)), layers.Masking(), layers.BatchNormalization(), layers.LSTM(4), layers.Dense(3)]
        model = prepare(compiled(keras.Sequential(stack), "sgd"))
        return fit(model, SEQUENCES * (np.arange(5) < 3)[:, None]), state(model)

    assert not both(run)


LOOPS = {
    "plain": {},
    "backwards": {"go_backwards": True},
    "dropout": {"dropout": 0.3},
    "recurrent dropout": {"recurrent_dropout": 0.2},
    "no bias": {"use_bias": False},
    "relu": {"activation": "relu"},
}
KINDS = {"LSTM": layers.LSTM, "GRU": layers.GRU, "SimpleRNN": layers.SimpleRNN}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("options", LOOPS.values(), ids=LOOPS.keys())
@pytest.mark.slow
def test_recurrent_layers(kind, options):
    def run(prepare):
        tokens = [keras.Input((7,), dtype="int32"), layers.Embedding(9, 4, mask_zero=options != LOOPS["plain"])]
        loops = [layers.Bidirectional(kind(4, return_sequences=True)), kind(5, **options)]
        model = prepare(compiled(keras.Sequential([*tokens, *loops, layers.Dense(3)]), "sgd"))
        x = np.random.default_rng(0).integers(1, 9, (50, 7))
        x[:20, 4:] = x[3] = x[30:, 2] = 0  # behind, everywhere and between
        return fit(model, x), state(model), model.predict(x, verbose=0)

    assert not both(run)
