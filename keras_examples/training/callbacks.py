"""What happens around the steps of a run: the lines for a person, checkpoints, and how it stops and goes on."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_examples.data.batches import Batches
from keras_examples.data.vocabulary import Vocabulary
from keras_examples.show.reports import has_progress_bar
from keras_examples.training import processes as distributed
from keras_examples.training.checkpoints import Checkpoints, set_random_state, weights_of
from keras_examples.training.tasks import Task


class Stopped(Exception):
    """Ends `model.fit` between two steps."""


class Progress(keras.callbacks.Callback):
    """Follows a run from where it stands: `epoch` completed epochs and `step` steps of the one after.

    Args:
        task: What is learned.
        batches: Training batches.
        vocabulary: The characters that the model knows, if it reads text.
        run: What its checkpoints say of it, see `checkpoints.RUN`.
        checkpoints: Where they go, or None.
        restored: What `checkpoints.restore` returned, if the run goes on from a checkpoint.
        patience: Epochs without a lower validation loss that end the run, whose best weights are kept, or None.
        echo: Takes each line.

    Attributes:
        best: The best epoch's weights so far, see `checkpoints.weights_of`; empty without patience.
    """

    def __init__(
        self,
        task: Task,
        batches: Batches,
        vocabulary: Vocabulary | None,
        run: dict[str, Any],
        checkpoints: Checkpoints | None,
        restored: dict[str, np.ndarray] | None,
        patience: int | None,
        echo: Callable[[str], None],
    ):
        super().__init__()
        self.task, self.batches, self.vocabulary = task, batches, vocabulary
        self.given, self.checkpoints, self.random, self.echo = run, checkpoints, restored, echo
        self.patience = patience
        self.best = {name: array for name, array in (restored or {}).items() if name.startswith("best")}
        self.epoch, self.step, self.history = run["epoch"], run["step"], run["history"]
        self.stopped = self.diverged = False
        self.steps_here, self.seconds_training = 0, 0.0
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """What the run took so far, its parts before an interruption included."""
        return self.given["seconds"] + time.perf_counter() - self.began

    @property
    def best_epoch(self) -> int:
        """The epoch, from 1, whose weights are kept: that of the least validation loss, without patience the last."""
        losses = self.history.get("val_loss", [])
        return losses.index(min(losses)) + 1 if self.patience and losses else self.epoch

    @property
    def stopped_early(self) -> bool:
        return bool(self.patience) and self.epoch - self.best_epoch >= self.patience

    def run(self) -> dict[str, Any]:
        """What a checkpoint written now says of the run."""
        metrics = [float(keras.ops.convert_to_numpy(v)) for v in self.model.metrics_variables] if self.step else []
        now = {"epoch": self.epoch, "step": self.step, "history": self.history, "metrics": metrics}
        return self.given | now | {"seconds": self.seconds}

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch:
            self.show_preview()
        self.batches.set_epoch(epoch)
        if self.random is not None:
            set_random_state(self.model, self.random)
            if self.step:
                self.skip_steps(self.random)
            self.random = None
        self.start = time.perf_counter()

    def skip_steps(self, random: dict[str, np.ndarray]) -> None:
        """Has the steps that were taken before do nothing, and the first one after them find all as it was left."""
        model = self.model  # asked for between steps, Keras would put JAX's state back into the variables
        model._symbolic_build(data_batch=self.batches[0])  # TensorFlow has no metrics before the first step
        for variable, value in zip(model.metrics_variables, self.given["metrics"], strict=True):
            variable.assign(value)
        take_step = model.train_function

        def step(*given: Any) -> Any:
            if self.steps_here:
                set_random_state(model, random)  # Keras's data loader draws from it
                model.train_function = take_step
                return take_step(*given)
            *state, data = given  # a batch on torch, an iterator on TensorFlow, a state and an iterator on JAX
            if isinstance(data, Iterator):
                next(data)
            return ({}, *state) if state else {}

        model.train_function = step

    # At the beginning of a step, since Keras reads the metrics off the device for whoever listens at its end.
    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if batch < self.step:
            return  # taken before the interruption
        self.step = batch
        # Before the first step the random state is not yet where this step will find it.
        if distributed.agreed(self.stopped) and batch and self.steps_here:
            self.seconds_training += time.perf_counter() - self.start
            if has_progress_bar():
                self.echo("")  # Keras ends the bar's line only with the epoch
            raise Stopped
        self.steps_here += 1

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        self.seconds_training += time.perf_counter() - self.start

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = {} if logs is None else logs
        self.task.derive(logs)  # in place, so that the progress bar has it too
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        self.epoch, self.step = epoch + 1, 0
        self.diverged = not all(map(math.isfinite, logs.values()))
        if not has_progress_bar():
            seconds = time.perf_counter() - self.start
            line = "  ".join(f"{name} {float(value):.4f}" for name, value in logs.items())
            self.echo(f"epoch {epoch + 1}/{self.params['epochs']}  {line}  {seconds:.1f} s")
        if self.patience and self.best_epoch == self.epoch:
            self.best = weights_of(self.model)
        # A signal that comes meanwhile is for the next step.
        stopped = any(distributed.gathered(self.stopped))
        self.model.stop_training = stopped or self.diverged or self.stopped_early
        if self.checkpoints and self.epoch < self.params["epochs"] and not self.model.stop_training:
            self.checkpoints.write_if_due(self.model, self.run(), self.best)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self.show_preview()

    def show_preview(self) -> None:
        if has_progress_bar() and not self.diverged and (preview := self.task.preview(self.model, self.vocabulary)):
            self.echo(f"{preview}\n")


@contextlib.contextmanager
def stop_on_signals(progress: Progress) -> Iterator[None]:
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
