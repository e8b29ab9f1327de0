"""Keras through its public `fit`: as installed on any backend, or with our LSTM and captured step on torch."""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import keras

from benchmarks.workloads import Workload
from keras_examples import models
from keras_examples.data.batches import ImageBatches, TextBatches


def epoch(workload: Workload, precision: str, accelerated: bool, cuda_graph: bool = False) -> Callable[..., None]:
    """Builds the model; returns a function that trains an epoch, or several in one `fit`, `mark` called after each."""
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else precision)
    text = workload.builder == "char_lstm"
    with nullcontext() if accelerated else patch.object(models, "LSTM", _stock_lstm):
        model = getattr(models, workload.builder)(**({"vocabulary_size": workload.classes} if text else {}))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if workload.classes else "mse"
    metrics = ["accuracy"] if workload.classes else ["mae"]
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss, metrics=metrics)
    if accelerated:
        from keras_examples.acceleration import accelerate

        accelerate(model, cuda_graph=cuda_graph)
    x, y = workload.data()
    batches = (
        TextBatches(x, workload.input_shape[0], workload.batch_size, seed=0)
        if text
        else ImageBatches(x, y, workload.batch_size, seed=0)
    )
    number = itertools.count()

    def run(epochs: int = 1, mark: Callable[[], None] = lambda: None) -> None:
        batches.set_epoch(next(number))
        marker = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: mark())
        model.fit(batches, epochs=epochs, shuffle=False, verbose=0, callbacks=[marker])

    return run


def _stock_lstm(units: int, weight_dropout: float, **arguments: Any) -> keras.layers.LSTM:
    return keras.layers.LSTM(units, **arguments)
