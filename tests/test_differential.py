"""Seeded random models, trained by stock Keras and accelerated from the same seed: every number has to agree.

python tests/test_differential.py 2000          # so many seeds, from 0 on; prints what differs, and why some fell back
python tests/test_differential.py 1000 2000     # the 1,000 after the first 2,000
"""

import collections
import os
import sys
import warnings

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pytest
import torch
from random_models import Draw, Penalty

from keras_examples.acceleration import accelerate

BATCH = 8


class Batches(keras.utils.PyDataset):
    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return -(-len(keras.tree.flatten(self.arrays)[0]) // BATCH)

    def __getitem__(self, index):
        part = slice(index * BATCH, index * BATCH + BATCH)
        return keras.tree.map_structure(lambda array: array[part], self.arrays)


def train(seed, prepare):
    """Builds a random model and does random things with it; returns all numbers that come of it."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    draw = Draw(seed)
    model = draw.model()
    draw.compile(model)
    prepare(model)
    x, y = draw.arrays(draw.one_of([16, 20, 24]))
    numbers = []
    for _ in range(draw.random.randint(1, 3)):
        numbers.append(fit(draw, model, x, y))
        numbers.append(between(draw, model, x, y, prepare))
    numbers += [model.evaluate(x, y, batch_size=BATCH, verbose=0), model.predict(x, batch_size=BATCH, verbose=0)]
    variables = [*model.weights, *model.optimizer.variables]
    return numbers, [variable.numpy() for variable in variables], model


def fit(draw, model, x, y):
    form = draw.one_of(
        ["arrays"] * 4 + ["data set", "data set", "generator", "loader", "tensors", "on batch", "weights", "split"]
    )
    options = {"epochs": draw.random.randint(1, 2), "batch_size": BATCH, "shuffle": draw.likely(0.3), "verbose": 0}
    options["callbacks"] = callbacks(draw, model)
    if draw.likely(0.3):
        options["validation_data"] = (x, y)
    single = isinstance(y, np.ndarray)
    if form == "weights" and single:
        return model.fit(x, y, sample_weight=np.linspace(0.5, 1.5, len(y)), **options).history
    if form == "split" and single and isinstance(x, np.ndarray):
        return model.fit(x, y, validation_split=0.4, **(options | {"validation_data": None})).history
    if form == "on batch":
        numbers = [model.train_on_batch(*Batches(x, y)[i], return_dict=True) for i in (0, 1, 0)]
        return [numbers, model.test_on_batch(x, y, return_dict=True), model.predict_on_batch(x)]
    if form == "tensors":
        return model.fit(*keras.tree.map_structure(torch.from_numpy, (x, y)), **options).history
    del options["batch_size"], options["shuffle"]
    if form == "data set":
        return model.fit(Batches(x, y), shuffle=False, **options).history
    if form == "generator":
        batches = Batches(x, y)
        endless = (batches[i % len(batches)] for i in range(1000))
        return model.fit(endless, steps_per_epoch=4, **options).history
    if form == "loader":
        batches = Batches(x, y)
        whole = [keras.tree.map_structure(torch.from_numpy, batches[i]) for i in range(len(batches))]
        return model.fit(torch.utils.data.DataLoader(whole, batch_size=None), **options).history
    return model.fit(x, y, batch_size=BATCH, shuffle=False, **options).history


def callbacks(draw, model):
    penalties = [layer for layer in model._flatten_layers() if isinstance(layer, Penalty)]

    def change(epoch, logs=None):
        for layer in penalties:
            layer.strength *= 2

    chosen = [keras.callbacks.LambdaCallback(on_epoch_begin=change)] * bool(penalties)
    if draw.likely(0.1) and isinstance(model.optimizer._learning_rate, keras.Variable):
        chosen.append(keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.7))
    if draw.likely(0.1):
        chosen.append(keras.callbacks.EarlyStopping("loss", patience=0, restore_best_weights=True))
    return chosen


def between(draw, model, x, y, prepare):
    """Something that people do between two fits."""
    action = draw.one_of(
        ["nothing"] * 3
        + ["freeze", "freeze", "compile", "weights", "rate", "regularizer", "attribute", "save", "evaluate"]
    )
    trained = [layer for layer in model.layers if layer.trainable_weights]
    if action == "freeze" and len(trained) > 1:
        layer = draw.one_of(trained)
        layer.trainable = False
        if draw.likely(0.7):
            draw.compile(model)
            prepare(model)
    elif action == "compile":
        draw.compile(model)
        prepare(model)
    elif action == "weights":
        model.set_weights([weights * 0.9 for weights in model.get_weights()])
    elif action == "rate" and isinstance(model.optimizer._learning_rate, keras.Variable):
        model.optimizer.learning_rate = 1e-3
    elif action == "regularizer":
        for layer in trained:
            if isinstance(getattr(layer, "kernel_regularizer", None), keras.regularizers.L2):
                layer.kernel_regularizer.l2 *= 3
    elif action == "attribute":
        for layer in model.layers:
            if hasattr(layer, "epsilon"):
                layer.epsilon *= 10
    elif action == "save":
        weights = [weight.numpy() for weight in model.weights]
        for variable, weight in zip(model.weights, weights):
            variable.assign(weight[::-1].copy() if weight.ndim == 1 else weight)
    elif action == "evaluate":
        return model.evaluate(x, y, batch_size=5, verbose=0)
    return None


def outcome(seed, prepare):
    """The numbers, or the error; and the warnings that say why a model is not accelerated."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            numbers = train(seed, prepare)
        except Exception as error:
            numbers = type(error), str(error), None
    return numbers, [str(w.message) for w in caught if "not accelerated" in str(w.message)]


def differences(seed):
    """What differs for a seed, and why it was not accelerated, if it was not."""
    stock, _ = outcome(seed, lambda model: model)
    ours, reasons = outcome(seed, accelerate)
    if stock[2] is None or ours[2] is None:
        return [] if stock[:2] == ours[:2] else [f"stock: {stock[:2]}, ours: {ours[:2]}"], reasons, stock[2] is None
    found = []
    pairs = zip(keras.tree.flatten(stock[:2]), keras.tree.flatten(ours[:2]), strict=True)
    for place, (a, b) in enumerate(pairs):
        if a is None:
            continue
        a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
        close = np.allclose(a, b, rtol=2e-3, atol=2e-3 * min(1, np.abs(a).max(initial=1e-3)), equal_nan=True)
        if a.shape != b.shape or not close:
            off = f"of {np.abs(a).max()}, off {np.abs(a - b).max()}" if a.shape == b.shape else ""
            found.append(f"number {place}: stock {a.ravel()[:3]}, ours {b.ravel()[:3]}, {off}")
    return found, reasons, False


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 36))])
def test_a_random_model_trains_and_predicts_as_in_stock_keras(seed):
    assert not differences(seed)[0]


def main(count, first=0):
    reasons, accelerated, errors = collections.Counter(), 0, 0
    for seed in range(first, first + count):
        found, why, failed = differences(seed)
        errors += failed
        accelerated += not why and not failed
        reasons.update({reason.split("mode: ")[-1].split(", in")[0] for reason in why})
        if found:
            print(f"seed {seed}:", *found[:3], *why, sep="\n    ", flush=True)
        done = seed + 1 - first
        if done % 100 == 0 or done == count:
            print(f"{done} models, {accelerated} accelerated, {errors} that stock Keras refuses", flush=True)
    for reason, number in reasons.most_common():
        print(f"{number:5} {reason}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
