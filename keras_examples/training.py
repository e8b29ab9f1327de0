"""Fit and evaluate, for any recipe."""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from keras_examples import weights
from keras_examples.batches import Batches
from keras_examples.devices import device_of
from keras_examples.recipes import RECIPES, build, optimizer
from keras_examples.tasks import Task
from keras_examples.vocabulary import Vocabulary


def fit(
    example: str,
    *,
    data: str = "auto",
    data_dir: str | Path = "datasets",
    sizes: dict[str, Any] | None = None,
    precision: str = "float32",
    seed: int = 0,
    limit: int | None = None,
    dry_run: bool = False,
    accelerated: bool = True,
    load: str | Path | None = None,
    save: str | Path | None = None,
    echo: Callable[[str], None] = print,
    **changes: Any,
) -> dict[str, Any]:
    """Trains an example by its recipe, measures it on the test data and saves its weights.

    SIGINT or SIGTERM ends training after the step under way; what was trained until then is measured and saved.

    Args:
        example: Example id, such as `mnist-cnn`.
        data: `auto`, `real` or `synthetic`.
        data_dir: Folder of the data files.
        sizes: Arguments for the builder.
        precision: `float32` or `bfloat16` (float32 variables and logits, bfloat16 between them).
        seed: Seed of everything drawn at random, at least 0.
        limit: Number of training samples to use, at least 1, or None for all.
        dry_run: Whether to train and measure one batch only; nothing is saved unless `save` says where.
        accelerated: Whether to replay captured steps on torch, instead of running stock Keras.
        load: Weights to start from.
        save: Where the weights go instead of `weights/<example>.weights.h5`.
        echo: Takes each line of the report.
        **changes: Fields of the recipe that differ, such as `epochs=3`.

    Returns:
        A report: `example`, `data`, `loss`, `accuracy` and the task's other figures, `samples` (training samples an
        epoch), `epochs` (completed), `seconds`, `device`, `backend`, `weights` (path or None), `history`,
        `interrupted`.

    Raises:
        ValueError: an argument that does not fit the example or its data, or weights of another architecture.
        OSError: data that cannot be had, or weights that cannot be written.
    """
    recipe = replace(RECIPES[example], **changes)
    keras.utils.set_random_seed(seed)
    dataset = recipe.dataset(data=data, data_dir=data_dir)
    path = None if dry_run and not save else Path(save or weights.default_path(example, dataset.source))
    if path:
        weights.check_target(path)
    train, validation, test = recipe.task.split(dataset, recipe.validation_split)
    if limit:
        train = recipe.task.first(train, limit)
    if dry_run:
        train, validation, test = (recipe.task.first(arrays, recipe.batch_size) for arrays in (train, validation, test))
        recipe = replace(recipe, epochs=1)
    shift, flip = (recipe.shift, recipe.flip) if recipe.augment else (0, False)
    batches = recipe.task.batches(train, recipe.batch_size, seed, shift, flip)
    if recipe.batch_size > batches.num_samples:
        raise ValueError(
            f"The batch is larger than the training set of {batches.num_samples} samples. Received: --batch-size "
            f"{recipe.batch_size}. Choose a smaller batch."
        )

    vocabulary = recipe.task.vocabulary(dataset)
    metadata = {
        "example": example,
        "sizes": {**recipe.sizes, **(sizes or {}), **({"vocabulary_size": len(vocabulary)} if vocabulary else {})},
        "vocabulary": vocabulary.characters if vocabulary else None,
        "data": dataset.source,
        "dataset": dataset.name,
        "classes": getattr(dataset, "class_names", None),
        "seed": seed,
        "precision": precision,
    }
    with _precision(precision):
        model = build(example, metadata["sizes"])
    if load:
        if vocabulary:
            weights.check_vocabulary(load, vocabulary)
        weights.read(load, model)
    model.compile(
        optimizer=optimizer(
            recipe.optimizer, recipe.learning_rate, len(batches) * recipe.epochs, recipe.clip_norm, recipe.centre
        ),
        loss=recipe.task.loss,
        metrics=list(recipe.task.metrics),
    )
    if accelerated and keras.backend.backend() == "torch":
        from keras_examples.acceleration import accelerate

        accelerate(model)
    echo(
        f"{example} on {dataset.name} ({dataset.source} data), {device_of(model)}: {model.count_params():,} "
        f"parameters, {batches.num_samples:,} training samples, {recipe.epochs} epochs of {len(batches):,} steps"
    )
    progress = _Progress(recipe.task, batches, vocabulary, echo)
    start = time.perf_counter()
    with _stop_on_signals(progress):
        history = model.fit(
            batches,
            validation_data=recipe.task.batches(validation, recipe.batch_size),
            epochs=recipe.epochs,
            shuffle=False,
            callbacks=[progress],
            verbose=int(_has_progress_bar()),
        ).history
        seconds = time.perf_counter() - start
        if progress.diverged:
            raise ValueError(
                "Training diverged: the loss is no longer finite. Received: learning rate "
                f"{recipe.learning_rate}, optimizer {recipe.optimizer}. Nothing was saved: choose a smaller one."
            )
        metadata["epochs"] = progress.epochs
        if path:
            weights.write(path, model, metadata)  # before measuring, so that nothing is lost if that fails
    figures = recipe.task.measure(model, test)
    if path:
        weights.write(path, model, metadata | {"test": figures})
    return {
        **_report(example, dataset.source, figures, model, path),
        "samples": batches.num_samples,
        "epochs": progress.epochs,
        "seconds": seconds,
        "samples_per_second": progress.steps * recipe.batch_size / seconds,
        "history": history,
        "interrupted": progress.stopped,
    }


def evaluate(
    example: str,
    *,
    data: str = "auto",
    data_dir: str | Path = "datasets",
    path: str | Path | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Measures trained weights on the test data.

    Args:
        example: Example id, such as `mnist-cnn`.
        data: `auto`, `real` or `synthetic`.
        data_dir: Folder of the data files.
        path: Weights file, or None for what was last trained on this data.
        **changes: Fields of the recipe that differ, such as `dataset`.

    Returns:
        A report: `example`, `data`, `loss`, `accuracy` and the task's other figures, `samples` (test samples),
        `epochs` (of training), `seconds`, `device`, `backend`, `weights`.

    Raises:
        ValueError: weights of another architecture or vocabulary.
        OSError: no such weights, or data that cannot be had.
    """
    recipe = replace(RECIPES[example], **changes)
    dataset = recipe.dataset(data=data, data_dir=data_dir)
    path = weights.find(example, path, dataset.source)
    model, metadata = weights.restore(path, example)
    if vocabulary := recipe.task.vocabulary(dataset):
        weights.check_vocabulary(path, vocabulary)
    test = recipe.task.split(dataset, 0)[2]
    start = time.perf_counter()
    figures = recipe.task.measure(model, test)
    return {
        **_report(example, dataset.source, figures, model, path),
        "samples": len(test[0] if isinstance(test, tuple) else test),
        "epochs": metadata.get("epochs"),
        "seconds": time.perf_counter() - start,
        "classes": getattr(dataset, "class_names", None),
    }


def _report(
    example: str, source: str, figures: dict[str, Any], model: keras.Model, path: Path | None
) -> dict[str, Any]:
    return {
        "example": example,
        "data": source,
        "accuracy": None,
        **figures,
        "device": device_of(model),
        "backend": keras.backend.backend(),
        "weights": str(path) if path else None,
    }


class _Progress(keras.callbacks.Callback):
    """Sets the epoch's draw, counts, stops when told, and prints what Keras's progress bar does not."""

    def __init__(self, task: Task, batches: Batches, vocabulary: Vocabulary | None, echo: Callable[[str], None]):
        super().__init__()
        self.task = task
        self.batches = batches
        self.vocabulary = vocabulary
        self.echo = echo
        self.steps = 0
        self.stopped = self.diverged = False

    @property
    def epochs(self) -> int:
        """Epochs completed."""
        return self.steps // len(self.batches)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch:
            self.show_preview()
        self.batches.set_epoch(epoch)
        self.start = time.perf_counter()

    # At the beginning of a step, since Keras reads the metrics off the device for whoever listens at its end.
    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.steps += 1
        self.model.stop_training = self.stopped

    def on_test_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.model.stop_evaluating = self.stopped

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = {} if logs is None else logs
        self.task.derive(logs)  # in place, so that progress bar and history have it too
        self.diverged = not all(map(math.isfinite, logs.values()))
        self.model.stop_training = self.stopped or self.diverged
        if not _has_progress_bar():
            seconds = time.perf_counter() - self.start
            line = "  ".join(f"{name} {float(value):.4f}" for name, value in logs.items())
            self.echo(f"epoch {epoch + 1}/{self.params['epochs']}  {line}  {seconds:.1f} s")

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self.show_preview()

    def show_preview(self) -> None:
        if _has_progress_bar() and not self.diverged and (preview := self.task.preview(self.model, self.vocabulary)):
            self.echo(f"{preview}\n")


def _has_progress_bar() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")  # Keras's bar is coloured


@contextlib.contextmanager
def _stop_on_signals(progress: _Progress) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends training after the step under way; a second one acts at once, as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: object) -> None:
        progress.stopped = True
        restore()

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if name == "bfloat16" else name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
