"""A run from its options to its report: `fit` and `evaluate`, for any example."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras

from keras_examples import weights
from keras_examples.data import check_present, load
from keras_examples.devices import device_of, set_seed
from keras_examples.examples import EXAMPLES
from keras_examples.models import build, default_sizes
from keras_examples.show.reports import counted, has_progress_bar
from keras_examples.training import checkpoints, processes
from keras_examples.training.callbacks import Progress, Stopped
from keras_examples.training.checkpoints import Checkpoints
from keras_examples.training.logs import Logs, draw_run, write_config
from keras_examples.training.optimizers import optimizer
from keras_examples.training.run import Run
from keras_examples.training.tasks import Data, task_of


def fit(example: str, *, resume: bool = False, echo: Callable[[str], None] = print, **options: Any) -> dict[str, Any]:
    """Trains an example by its recipe, measures it on the test data and saves its weights.

    A checkpoint is written beside the weights after each epoch, unless that takes more than a twentieth of the time,
    and when SIGINT or SIGTERM ends training after the step under way. A run that has finished removes it.

    Args:
        example: Example id, such as `mnist-cnn`.
        resume: Whether to go on with an interrupted run, to the weights that it would have had, to the bit. It keeps
            the options it was started with, see `checkpoints.resume`.
        echo: Takes each line of the report.
        **options: Fields of `examples.Options`, such as `epochs=3`; what is not given comes from the recipe.

    Returns:
        A report: `example`, `data`, `loss`, `accuracy` and the task's other figures, `samples` (an epoch), `epochs`
        (completed), `best_epoch` (whose weights were kept), `stopped_early`, `seconds`, `samples_per_second` (while
        training), `device`, `backend`, `weights` and `plot` (paths or None), `history`, `interrupted` (then nothing is
        measured and `loss` is None), `checkpoint` (path or None).

    Raises:
        ValueError: An option that does not fit the example or its data, weights of another architecture, a damaged
            checkpoint, or a loss that is no longer finite.
        OSError: Data that cannot be had, weights that cannot be written, or no checkpoint to go on from.
    """
    with processes.group():
        run = checkpoints.resume(example, options, echo) if resume else Run.begin(example, options)
        run.check()
        set_seed(run.options.seed)
        data = prepare(run)
        with checkpoints.claim(run) as kept:
            model = prepare_model(run, data)
            if run.options.save_config and not processes.rank:
                write_config(run)
            progress = train(model, data, run, kept, echo)
            figures = {"loss": None} if run.interrupted else finish(model, data, run, kept)
        path = kept.path if kept and not run.interrupted else None
        picture = draw_run(path, figures, model, data, run, echo)
        if progress.logs:
            progress.logs.finish(picture)
    return {
        **_report(example, data.dataset.source, figures, model, path),
        "plot": str(picture) if picture else None,
        "samples": data.batches.num_samples,
        "epochs": run.epoch,
        "best_epoch": run.best_epoch,
        "stopped_early": run.stopped_early,
        "seconds": run.seconds,
        "samples_per_second": progress.samples / progress.seconds_training,
        "history": run.history,
        "interrupted": run.interrupted,
        "checkpoint": str(kept.newest) if kept and run.interrupted else None,
    }


def prepare(run: Run) -> Data:
    """Loads what a run learns from, and cuts it into what trains, validates and tests."""
    options, task, name = run.options, task_of(run.example), EXAMPLES[run.example].dataset
    if run.checkpoint and options.data != "synthetic" and not options.text:
        check_present(name, options.data_dir)  # a checkpoint says where to read, not where to download to
    with processes.first_on_machine_goes_ahead():
        dataset = load(name, options.data, options.data_dir, options.text)
    train, validation, test = task.split(dataset, options.validation_split)
    if options.early_stopping and validation is test:
        raise ValueError(
            "Early stopping would choose by the test data. Received: --validation-split "
            f"{options.validation_split:g}. Give a larger one, such as 0.05."
        )
    if options.limit:
        train = task.first(train, options.limit)
    if options.dry_run:
        train, validation, test = (task.first(arrays, options.batch_size) for arrays in (train, validation, test))
    batches = task.batches(train, options, options.seed)
    if options.batch_size > batches.num_samples:
        raise ValueError(
            f"The batch is larger than the training set of {batches.num_samples} samples. Received: --batch-size "
            f"{options.batch_size}. Choose a smaller batch."
        )
    run.options = replace(options, data=dataset.source)
    held_out, sha256 = task.batches(validation, options), weights.digest(keras.tree.flatten(train))
    for part in (batches, held_out):
        part.rank, part.size = processes.rank, processes.size
    return Data(dataset, task, batches, held_out, test, sha256)


def prepare_model(run: Run, data: Data) -> keras.Sequential:
    """Builds the model of a run, or loads it, and compiles it; on torch it replays captured steps."""
    options, dataset = run.options, data.dataset
    with _precision(options.precision):
        if options.load and not run.checkpoint:
            model, loaded = weights.restore(options.load, run.example, options.sizes, dataset)
            sizes = loaded["sizes"]
        else:
            given = {"vocabulary_size": len(dataset.vocabulary)} if dataset.vocabulary else {}
            sizes = default_sizes(run.example) | given | options.sizes
            model = build(run.example, sizes)
    run.options = replace(options, sizes=sizes)
    update = optimizer(options, run.epochs * len(data.batches))
    model.compile(update, data.task.loss, metrics=[*data.task.metrics])
    backend, device = keras.backend.backend(), device_of(model)
    if options.accelerate and backend == "torch":
        from keras_examples.acceleration import accelerate

        exchange = processes.exchange if processes.size > 1 else None
        accelerate(model, exchange=exchange, around_update=partial(update.centred, known={}))
        # Builds the loss and metrics. Keras would on torch's meta device, whose import takes a third of a second.
        x, y = (array[:1] for array in data.validation[0])
        model.compute_loss(x, y, output := model(x))
        model.compute_metrics(x, y, output)
    learned = f"{dataset.name} ({dataset.source}), SHA-256 {data.sha256}"
    if len(found := {*processes.gathered(learned)}) > 1:
        raise ValueError(
            f"The processes have different data. Received: {' and '.join(sorted(found))}. Give all machines the same."
        )
    conditions = {"device": device, "backend": backend, "number of processes": str(processes.size), "data": learned}
    run.check_conditions(conditions)
    return model


def train(model: keras.Model, data: Data, run: Run, kept: Checkpoints | None, echo: Callable[[str], None]) -> Progress:
    """Trains a model to the end of its run or until it is interrupted; returns what came of it."""
    where = f"{run.conditions['backend']} on {run.conditions['device']}"
    steps = f"{counted(run.epochs, 'epoch')} of {counted(len(data.batches), 'step')}"
    echo(f"{run.example} on {data.dataset.name} ({data.dataset.source} data), {where}")
    echo(f"{model.count_params():,} parameters, {data.batches.num_samples:,} training samples, {steps}")
    restored = {}
    if run.checkpoint:
        model.optimizer.build(model.trainable_variables)
        restored = checkpoints.restore(run.checkpoint, model, best=bool(run.options.early_stopping and run.epoch))
        echo(f"going on from {run.checkpoint}:\n{counted(run.epoch, 'epoch')} and {counted(run.step, 'step')} are done")
    processes.seed_apart()
    progress = Progress(run, data, kept, restored, echo)
    progress.logs = Logs(run, data) if run.options.log_dir and not processes.rank else None
    with progress.stopping_on_signals(), contextlib.suppress(Stopped):
        while run.epoch < run.epochs and not progress.ended:
            # The rest of an epoch that was interrupted is a fit of its own.
            data.batches.set_epoch(run.epoch, run.step)
            model.fit(
                data.batches,
                validation_data=data.validation,
                initial_epoch=run.epoch,
                epochs=run.epoch + 1 if run.step else run.epochs,
                shuffle=False,
                callbacks=[progress, *filter(None, [progress.logs])],
                verbose=int(has_progress_bar()),
            )
    progress.clock()
    if progress.diverged:
        if kept:
            kept.remove()
        raise ValueError(
            "Training diverged: the loss is no longer finite. Received: learning rate "
            f"{run.options.learning_rate}, optimizer {run.options.optimizer}. Nothing was saved: choose a smaller one."
        )
    if run.interrupted:
        if run.step:
            run.metrics = [float(keras.ops.convert_to_numpy(variable)) for variable in model.metrics_variables]
        if kept:
            kept.write(model, run, progress.best)
    elif progress.best:
        model.set_weights([*progress.best.values()])
    return progress


def finish(model: keras.Model, data: Data, run: Run, kept: Checkpoints | None) -> dict[str, Any]:
    """Measures a trained model and writes its weights, which are kept also if measuring fails."""
    dataset, options, figures = data.dataset, run.options, None
    metadata = {
        "example": run.example,
        "sizes": options.sizes,
        "vocabulary": dataset.vocabulary.characters if dataset.vocabulary else None,
        "data": dataset.source,
        "dataset": dataset.name,
        "classes": dataset.class_names,
        "seed": options.seed,
        "data_sha256": data.sha256,
        "precision": options.precision,
        "options": run.remembered() | {name: run.conditions[name] for name in ("backend", "device")},
        "epochs": run.best_epoch,
        "seconds": round(run.seconds, 1),
    }
    try:
        if not processes.rank:
            figures = data.task.measure(model, data.test)
    finally:
        if kept and not processes.rank:
            weights.write(kept.path, model, metadata | {"test": figures})
            kept.remove()
    return processes.gathered(figures)[0]


def evaluate(
    example: str,
    *,
    data: str = "auto",
    data_dir: str | Path = "datasets",
    text: str | Path | None = None,
    path: str | Path | None = None,
) -> dict[str, Any]:
    """Measures trained weights on the test data; for the data see `data.load`, for the path `weights.find`.

    Returns a report: `example`, `data`, `loss`, `accuracy` and the task's other figures, `samples` (of the test),
    `epochs` (of training), `seconds`, `device`, `backend`, `weights`, `classes`. Raises ValueError for weights of
    another architecture or vocabulary, OSError where there are none or no data.
    """
    path = path and weights.find(example, path)  # before the data, which may take a while
    dataset = load(EXAMPLES[example].dataset, data, data_dir, text)
    path = path or weights.find(weights.run_name(example, text), source=dataset.source)
    model, metadata = weights.restore(path, example, dataset=dataset)
    task, start = task_of(example), time.perf_counter()
    test = task.split(dataset, 0)[2]
    figures = task.measure(model, test)
    return {
        **_report(example, dataset.source, figures, model, path),
        "samples": len(test[0] if isinstance(test, tuple) else test),
        "epochs": metadata.get("epochs"),
        "seconds": time.perf_counter() - start,
        "classes": dataset.class_names,
    }


def _report(example: str, source: str, figures: dict[str, Any], model: keras.Model, path: Any) -> dict[str, Any]:
    return {
        "example": example,
        "data": source,
        "accuracy": None,
        **figures,
        "device": device_of(model),
        "backend": keras.backend.backend(),
        "weights": str(path) if path else None,
    }


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if name == "bfloat16" else name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
