"""What happens around the steps of a run: lines for a person, checkpoints, logs, and how a run stops and goes on."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_examples.show.reports import epoch_line, has_progress_bar
from keras_examples.training import processes
from keras_examples.training.checkpoints import Checkpoints, set_random_state, weights_of
from keras_examples.training.run import Run
from keras_examples.training.tasks import Data


class Stopped(Exception):
    """Ends `model.fit` between two steps."""


class Progress(keras.callbacks.Callback):
    """Takes down how far a run has come, after each step and epoch, and has it stop when it should.

    It goes on with the random state and the best weights that were `restored` from a checkpoint, if there are any.

    Attributes:
        best: The best epoch's weights so far, see `checkpoints.weights_of`; empty without early stopping.
        samples, seconds_training: Training samples seen here, and what that took, without validation.
        logs: What writes the run's logs, or None.
    """

    def __init__(
        self,
        run: Run,
        data: Data,
        checkpoints: Checkpoints | None,
        restored: dict[str, np.ndarray],
        echo: Callable[[str], None],
    ):
        super().__init__()
        self.run, self.data, self.checkpoints, self.random, self.echo = run, data, checkpoints, restored, echo
        self.best = {name: array for name, array in restored.items() if name.startswith("best")}
        self.stopped = self.diverged = self.ended = False
        self.samples, self.seconds_training = 0, 0.0
        self.logs: Any = None
        self.began = time.perf_counter() - run.seconds

    def clock(self) -> None:
        """Takes down the run's seconds, its parts before an interruption included."""
        self.run.seconds = time.perf_counter() - self.began

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch and not self.run.step:
            self.show_preview()
        self.data.batches.set_epoch(epoch, self.run.step)
        if self.random and not self.run.step:
            set_random_state(self.model, self.random)
            self.random = {}
        if self.run.step:  # Keras has just reset the metrics
            self.model._symbolic_build(data_batch=self.data.batches[0])  # TensorFlow makes them at the first step
            for variable, value in zip(self.model.metrics_variables, self.run.metrics, strict=True):
                variable.assign(value)
        self.first = self.run.step
        self.start = time.perf_counter()

    # At the beginning of a step, since Keras reads the metrics off the device for whoever listens at its end.
    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self.random:  # not before, since stock Keras's data loader draws from it too
            set_random_state(self.model, self.random)
            self.random = {}
        self.run.step = self.first + batch
        # Before the first step the random state is not yet where this step will find it.
        if processes.should_stop(self.stopped) and batch:
            self.end_training()
            if has_progress_bar():
                self.echo("")  # Keras ends the bar's line only with the epoch
            raise Stopped

    def end_training(self) -> None:
        self.seconds_training += time.perf_counter() - self.start
        batches = self.data.batches
        self.samples += min(self.run.step * batches.batch_size, batches.num_samples) - self.first * batches.batch_size

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        self.run.step += 1
        self.end_training()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        run, logs = self.run, {} if logs is None else logs
        if not has_progress_bar():
            self.echo(epoch_line(epoch + 1, run.epochs, logs, time.perf_counter() - self.start))
        self.data.task.derive(logs)  # in place, so that the progress bar has it too
        for name, value in logs.items():
            run.history.setdefault(name, []).append(float(value))
        run.epoch, run.step = epoch + 1, 0
        self.diverged = not all(map(math.isfinite, logs.values()))
        if run.options.early_stopping and run.best_epoch == run.epoch:
            self.best = weights_of(self.model)
        # A signal that comes meanwhile is for the next step.
        stopped = any(processes.gathered(self.stopped))
        self.ended = self.model.stop_training = stopped or self.diverged or run.stopped_early
        if self.checkpoints and run.epoch < run.epochs and not self.ended:
            self.clock()
            self.checkpoints.write_if_due(self.model, run, self.best)

    def show_preview(self) -> None:
        task, vocabulary = self.data.task, self.data.dataset.vocabulary
        if has_progress_bar() and not self.diverged and (preview := task.preview(self.model, vocabulary)):
            self.echo(f"{preview}\n")

    @contextlib.contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM ends training after the step under way; a second one acts at once, as ever."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def stop(number: int, frame: object) -> None:
            self.stopped = True
            restore()

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            restore()
