"""Fit and evaluate, for any recipe."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras

from keras_examples import weights
from keras_examples.devices import device_of, set_seed
from keras_examples.recipes import RECIPES, Recipe, build, default_sizes, optimizer
from keras_examples.show.reports import has_progress_bar
from keras_examples.training import configs, logs
from keras_examples.training import processes as distributed
from keras_examples.training.callbacks import Progress, Stopped, stop_on_signals
from keras_examples.training.checkpoints import Checkpoints, read_run, restore


def fit(
    example: str,
    *,
    data: str = "auto",
    data_dir: str | Path = "datasets",
    text: str | Path | None = None,
    sizes: dict[str, Any] | None = None,
    precision: str = "float32",
    seed: int = 0,
    limit: int | None = None,
    dry_run: bool = False,
    early_stopping: int | None = None,
    accelerated: bool = True,
    cuda_graph: bool = False,
    load: str | Path | None = None,
    save: str | Path | None = None,
    save_config: str | Path | None = None,
    plot: bool = False,
    log_dir: str | Path | None = None,
    checkpoint: Path | None = None,
    echo: Callable[[str], None] = print,
    **changes: Any,
) -> dict[str, Any]:
    """Trains an example by its recipe, measures it on the test data and saves its weights.

    A checkpoint is written beside the weights after each epoch, unless that takes more than a twentieth of the time,
    and when SIGINT or SIGTERM ends training after the step under way. A run that has finished removes it.

    Args:
        example: Example id, such as `mnist-cnn`.
        data: `auto`, `real` or `synthetic`.
        data_dir: Folder of the data files.
        text: UTF-8 file to learn instead of the data set, for an example that reads text.
        sizes: Arguments for the builder.
        precision: `float32` or `bfloat16` (float32 variables and logits, bfloat16 between them).
        seed: Seed of everything drawn at random, at least 0.
        limit: Number of training samples to use, at least 1, or None for all.
        dry_run: Whether to train and measure one batch only; nothing is saved unless `save` says where.
        early_stopping: Epochs without a lower validation loss after which to stop, at least 1, or None. The weights of
            the epoch with the least are kept, also of a run that goes through all its epochs.
        accelerated: Whether to replay captured steps on torch, instead of running stock Keras.
        cuda_graph: Whether to launch a captured step on an NVIDIA GPU as one, see `accelerate`.
        load: Weights to start from.
        save: Where the weights go instead of `weights/<example>.weights.h5`.
        save_config: TOML file to write the run's options to.
        plot: Whether to draw the run beside the weights, as `<example>.png`.
        log_dir: Folder for TensorBoard's event files and `history.csv`, see `Logs`.
        checkpoint: Checkpoint to go on from, of a run with these arguments; `resume` knows them.
        echo: Takes each line of the report.
        **changes: Fields of the recipe that differ, such as `epochs=3`.

    Returns:
        A report: `example`, `data`, `loss`, `accuracy` and the task's other figures, `samples` (training samples an
        epoch), `epochs` (completed), `best_epoch` (whose weights were kept), `stopped_early`, `seconds`,
        `samples_per_second` (while training, not while validating), `device`, `backend`, `weights` and `plot` (paths or
        None), `history`, `interrupted`, `checkpoint` (path or None). If interrupted, nothing is measured: `loss` is
        None.

    Raises:
        ValueError: an argument that does not fit the example or its data, or weights of another architecture.
        OSError: data that cannot be had, or weights that cannot be written.
    """
    recipe = replace(RECIPES[example], **changes)
    _check_processes(recipe, accelerated)
    name = weights.run_name(example, text)
    if save or not dry_run:  # before any data is fetched
        weights.check_target(save or weights.default_path(name, "real"))
    if load and not checkpoint:
        weights.describe(load)
    if log_dir:
        logs.check_tensorboard()
    set_seed(seed)
    with distributed.one_ahead():
        dataset = _dataset(recipe, text, data, data_dir)
    path = None if dry_run and not save else Path(save or weights.default_path(name, dataset.source))
    train, validation, test = _arrays(recipe, dataset, limit, dry_run, early_stopping)
    batches = _batches(example, recipe, train, seed)
    epochs = 1 if dry_run else recipe.epochs
    vocabulary = recipe.task.vocabulary(dataset)
    metadata = {
        "example": example,
        "sizes": {
            **default_sizes(example),
            **(sizes or {}),
            **({"vocabulary_size": len(vocabulary)} if vocabulary else {}),
        },
        "vocabulary": vocabulary.characters if vocabulary else None,
        "data": dataset.source,
        "dataset": dataset.name,
        "classes": getattr(dataset, "class_names", None),
        "seed": seed,
        "data_sha256": weights.digest(keras.tree.flatten(train)),
        "precision": precision,
    }
    with _precision(precision):
        if load and not checkpoint:
            model, loaded = weights.restore(load, example, sizes, vocabulary)
            metadata["sizes"] = loaded["sizes"]
        else:
            model = build(example, metadata["sizes"])
    _compile(model, recipe, len(batches) * epochs, accelerated, cuda_graph)
    backend, device = keras.backend.backend(), device_of(model)
    echo(
        f"{example} on {dataset.name} ({dataset.source} data), {backend} on {device}: {model.count_params():,} "
        f"parameters, {batches.num_samples:,} training samples, {epochs} epochs of {len(batches):,} steps"
    )
    kept = Checkpoints(path, checkpoint) if path and not dry_run else None
    conditions = {
        "device": device,
        "backend": backend,
        "number of processes": str(distributed.size),
        "data": f"{dataset.name} ({dataset.source}), SHA-256 {metadata['data_sha256']}",
    }
    if len(found := {*distributed.gathered(conditions["data"])}) > 1:
        raise ValueError(
            f"The processes have different data. Received: {' and '.join(sorted(found))}. Give all machines the same."
        )
    options = {
        "data": dataset.source,
        "data_dir": str(data_dir),
        "text": text and str(text),
        "sizes": metadata["sizes"],
        "precision": precision,
        "seed": seed,
        "limit": limit,
        "dry_run": dry_run,
        "early_stopping": early_stopping,
        "accelerated": accelerated,
        "cuda_graph": cuda_graph,
        "load": load and str(load),
    }
    options |= {
        name: value for name, value in vars(recipe).items() if name not in ("dataset", "build", "task", "sizes")
    }
    metadata["options"] = options | {"backend": backend, "device": device}
    if save_config and not distributed.rank:
        configs.write(
            save_config,
            example,
            metadata["options"] | {"save": save and str(save), "plot": plot, "log_dir": log_dir and str(log_dir)},
        )
    run = {"example": example, "options": options, "conditions": conditions, "epoch": 0, "step": 0}
    run |= {"seconds": 0.0, "history": {}, "metrics": []}
    restored = None
    if checkpoint:
        run = _same_conditions(checkpoint, conditions)
        model.optimizer.build(model.trainable_variables)
        restored = restore(checkpoint, model, best=bool(early_stopping and run["epoch"]))
        echo(f"going on from {checkpoint}: {run['epoch']} epochs and {run['step']} steps are done")
    elif kept:
        kept.previous.unlink(missing_ok=True)  # of another run
    distributed.draw_apart()
    progress = Progress(recipe.task, batches, vocabulary, run, kept, restored, early_stopping, echo)
    log = logs.Logs(log_dir, progress, options) if log_dir and not distributed.rank else None
    with stop_on_signals(progress):
        with contextlib.suppress(Stopped):
            model.fit(
                batches,
                validation_data=recipe.task.batches(validation, recipe.batch_size),
                epochs=epochs,
                initial_epoch=progress.epoch,
                shuffle=False,
                callbacks=[progress, *([log] if log else [])],
                verbose=int(has_progress_bar()),
            )
        seconds = progress.seconds
        if progress.diverged:
            if kept:
                kept.remove()
            raise ValueError(
                "Training diverged: the loss is no longer finite. Received: learning rate "
                f"{recipe.learning_rate}, optimizer {recipe.optimizer}. Nothing was saved: choose a smaller one."
            )
        metadata["epochs"] = progress.best_epoch
        interrupted = progress.epoch < epochs and not progress.stopped_early
        if interrupted:
            path = None
            if kept:
                kept.write(model, progress.run(), progress.best)
        elif progress.best:
            model.set_weights([*progress.best.values()])
        if path and not distributed.rank:
            weights.write(path, model, metadata)  # before measuring, so that nothing is lost if that fails
            if kept:
                kept.remove()
    figures = {"loss": None} if interrupted or distributed.rank else recipe.task.measure(model, test)
    figures = distributed.gathered(figures)[0]
    if path and not distributed.rank:
        weights.write(path, model, metadata | {"test": figures, "seconds": round(seconds, 1)})
    picture = None
    if plot and path and not distributed.rank:
        title = f"{example} on {dataset.name} ({dataset.source} data): test loss {figures['loss']:.4f}"
        title += f", accuracy {figures['accuracy']:.2%}" if "accuracy" in figures else ""
        names = vocabulary or getattr(dataset, "class_names", None)
        draw = partial(recipe.task.draw, model=model, arrays=test, names=names)
        picture = _picture(path, title, progress.history, recipe.task.curves, draw, echo)
    if log:
        log.finish(picture)
    return {
        **_report(example, dataset.source, figures, model, path),
        "plot": str(picture) if picture else None,
        "samples": batches.num_samples,
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "stopped_early": progress.stopped_early,
        "seconds": seconds,
        "samples_per_second": progress.steps_here * recipe.batch_size / progress.seconds_training,
        "history": progress.history,
        "interrupted": interrupted,
        "checkpoint": str(kept.newest) if interrupted and kept else None,
    }


def evaluate(
    example: str,
    *,
    data: str = "auto",
    data_dir: str | Path = "datasets",
    text: str | Path | None = None,
    path: str | Path | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Measures trained weights on the test data.

    Args:
        example: Example id, such as `mnist-cnn`.
        data: `auto`, `real` or `synthetic`.
        data_dir: Folder of the data files.
        text: UTF-8 file to measure on instead of the data set, for an example that reads text.
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
    dataset = _dataset(recipe, text, data, data_dir)
    path = weights.find(weights.run_name(example, text), path, dataset.source)
    model, metadata = weights.restore(path, example, vocabulary=recipe.task.vocabulary(dataset))
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


def _arrays(
    recipe: Recipe, dataset: Any, limit: int | None, dry_run: bool, early_stopping: int | None
) -> tuple[Any, Any, Any]:
    """What to train on, to validate on and to measure on."""
    train, validation, test = recipe.task.split(dataset, recipe.validation_split)
    if early_stopping and validation is test:
        raise ValueError(
            "Early stopping would choose by the test data. Received: --validation-split "
            f"{recipe.validation_split}. Give a larger one, such as 0.05."
        )
    if limit:
        train = recipe.task.first(train, limit)
    if dry_run:
        train, validation, test = (recipe.task.first(arrays, recipe.batch_size) for arrays in (train, validation, test))
    return train, validation, test


def _batches(example: str, recipe: Recipe, train: Any, seed: int) -> Any:
    if recipe.augment and not (recipe.shift or recipe.flip):
        raise ValueError(f"{example} has nothing to augment. Received: --augment. Leave it out.")
    shift, flip = (recipe.shift, recipe.flip) if recipe.augment else (0, False)
    batches = recipe.task.batches(train, recipe.batch_size, seed, shift, flip)
    if recipe.batch_size > batches.num_samples:
        raise ValueError(
            f"The batch is larger than the training set of {batches.num_samples} samples. Received: --batch-size "
            f"{recipe.batch_size}. Choose a smaller batch."
        )
    return batches


def _compile(model: keras.Model, recipe: Recipe, steps: int, accelerated: bool, cuda_graph: bool) -> None:
    model.compile(
        optimizer=optimizer(recipe.optimizer, recipe.learning_rate, steps, recipe.clip_norm, recipe.centre),
        loss=recipe.task.loss,
        metrics=list(recipe.task.metrics),
    )
    backend, device = keras.backend.backend(), device_of(model)
    if cuda_graph and (backend, device) != ("torch", "cuda"):
        raise ValueError(
            f"A CUDA graph needs torch and an NVIDIA GPU. Received: {backend} on {device}. Leave --cuda-graph out."
        )
    if accelerated and backend == "torch":
        from keras_examples.acceleration import accelerate

        accelerate(model, cuda_graph)


def _check_processes(recipe: Recipe, accelerated: bool) -> None:
    if recipe.batch_size < distributed.size:
        raise ValueError(
            f"Each of {distributed.size} processes needs a sample of a batch. Received: --batch-size "
            f"{recipe.batch_size}. Choose a larger batch."
        )
    if distributed.size > 1 and not accelerated:
        raise ValueError(
            "Stock Keras trains in one process. Received: --no-accelerate. Leave it out, or start without torchrun."
        )


def _picture(
    path: Path,
    title: str,
    history: dict[str, list[float]],
    curves: Any,
    draw: Callable[[Any], None],
    echo: Callable[[str], None],
) -> Path | None:
    """Draws a run beside its weights. Whatever goes wrong is said, and raises nothing: the run is worth more."""
    picture = Path(str(path.with_suffix("")).removesuffix(".weights") + ".png")
    try:
        from keras_examples import plots  # matplotlib is not needed before

        plots.save_run(picture, title, history, curves, draw)
    except Exception as error:
        echo(f"no picture of the run: {error}")
        return None
    return picture


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


def _dataset(recipe: Recipe, text: str | Path | None, data: str, data_dir: str | Path) -> Any:
    return recipe.dataset(data=data, data_dir=data_dir, **({"path": text} if text else {}))


def _same_conditions(checkpoint: Path, conditions: dict[str, str]) -> dict[str, Any]:
    """The run of a checkpoint, if it had these conditions. Raises ValueError if not."""
    run = read_run(checkpoint)
    for name, value in conditions.items():
        if (then := run["conditions"].get(name)) != value:
            raise ValueError(
                f"The run cannot go on as it began, its {name} is another. Received: {value}, was {then}. Give it "
                "back, or train anew without --resume."
            )
    return run


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if name == "bfloat16" else name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
