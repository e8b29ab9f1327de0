"""A model's train, test and predict functions, which record a step on each kind of batch and replay it.

A recording is made of a step of stock Keras's. Its first replay is of that same step, its second beside another one of
stock Keras's: what they come to has to agree to rounding, or stock Keras's result stands and the model stays as it was.
Of the first step ours counts too, so that a run that goes on from a checkpoint and records anew comes to the same bits.
"""

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import keras
import torch

from keras_examples.acceleration.internals import in_stateless_scope, return_freed_memory
from keras_examples.acceleration.kernels import by_kernel, recurrent_layers
from keras_examples.acceleration.loops import Logs, overridden, unsupported
from keras_examples.acceleration.normalization import normalizations, normalized
from keras_examples.acceleration.optimizers import updater
from keras_examples.acceleration.reasons import explained, user_level
from keras_examples.acceleration.recording import Recorder, sparing_the_collector
from keras_examples.acceleration.recordings import (
    Budget,
    Options,
    Recording,
    StockStep,
    assign,
    called,
    difference,
    kind_of,
    random_states,
    set_random_states,
)
from keras_examples.acceleration.substitutions import Substitutions, asking_nothing, in_place_of
from keras_examples.acceleration.watch import Watch

TRIES = 3  # steps that may change what they read, as those do that build something when they first run
DOUBTS = 2  # steps in which stock Keras's result stood, before a recording is given up
MOST, VERSIONS = 32, 4  # recordings that a mode keeps of a version of what it reads, and versions


class StepFunction:
    """A model's train, test or predict function."""

    def __init__(self, model: keras.Model, mode: str, options: Options, watch: Watch, logs: Logs):
        self.model, self.mode, self.options, self.watch, self.logs = model, mode, options, watch, logs
        self.training, self.on_cpu = mode == "train", keras.ops.zeros(()).device.type == "cpu"
        self.begun, self.changes_itself = -1, ""
        self.apart = False  # whether Keras updates the metrics after each replay
        self.budget = Budget()
        self.kept: dict[int, Any] = {}  # recordings by version of the watch
        self.stock_function: Any = None
        self._begin_anew()

    def __call__(self, data: Sequence[Any]) -> Any:
        if self.begun != self.watch.begun:
            self.begun = self.watch.begun
            self.watch.look()
            if self.version != self.watch.version:
                self._begin_anew()
        if self.reason or in_stateless_scope() or torch.is_anomaly_enabled():
            return self.stock(data)
        try:
            leaves, shapes = kind_of(data[0], self.on_cpu)
        except (TypeError, ValueError) as error:  # a batch of something else
            self._stay_stock(explained(error))
            return self.stock(data)
        count = next(len(leaf) for leaf in leaves if leaf is not None) if self.options.exchange else 1
        if not count:  # zeros keep this process in step with the others, and count for nothing
            leaves = [leaf if leaf is None else leaf.new_zeros((1, *leaf.shape[1:])) for leaf in leaves]
            data = [keras.tree.pack_sequence_as(data[0], leaves)]
            shapes = kind_of(data[0], self.on_cpu)[1]
        key = (shapes, self.model.training)
        recording = self.recordings.get(key)
        if recording is None or recording.unproven > 0:
            if recording is None and not (self.options.exchange or self.budget.pays(key, self.recordings)):
                return self.stock(data)
            with self.watch.lock, sparing_the_collector():
                return self._beside_stock(key, data, leaves, count)
        self.budget.replays += 1
        batch = [leaf for leaf in leaves if leaf is not None]
        return recording.on_threads(self._replay, recording, key, data, batch, count)

    def stock(self, data: Sequence[Any]) -> Any:
        """Stock Keras's step."""
        if self.stock_function is None:
            with self.watch.lock:
                name = f"{self.mode}_function"
                setattr(self.model, name, None)
                try:
                    getattr(type(self.model), f"make_{name}")(self.model)
                    self.stock_function = getattr(self.model, name)
                finally:
                    setattr(self.model, name, self)
        return self.stock_function(data)

    def _begin_anew(self) -> None:
        self.version = self.watch.version
        self.recordings: dict[Any, Any] = self.kept.setdefault(self.version, {})
        if len(self.kept) > VERSIONS:
            del self.kept[next(iter(self.kept))]
        self.tries = self.failures = 0
        self.reason = self.changes_itself
        self.stock_function = None
        if not self.reason and (reason := unsupported(self.model, self.mode)):
            self._stay_stock(reason)

    def _give_up(self, reason: str) -> None:
        """Stays stock Keras, or leaves the metrics to Keras, if that may help, as where they go through NumPy."""
        tried = self.apart or self.changes_itself or self.options.exchange
        if tried or self.mode == "predict" or self._has_own_metrics() or len(self.model.metrics) < 2:
            return self._stay_stock(reason)
        self.apart = True
        self.kept.clear()
        self.recordings = self.kept[self.version] = {}

    def _stay_stock(self, reason: str) -> None:
        """Warns that the model runs as stock Keras, unless each of several processes would train one of its own."""
        message = f"{self.model.name} is not accelerated, {self.mode} mode: {reason}."
        if self.options.exchange:
            raise ValueError(f"Several processes need a step that can be captured. Received: {message}")
        self.reason = reason
        self.recordings.clear()
        warnings.warn(message, stacklevel=user_level())

    def _replay(self, recording: Recording, key: Any, data: Sequence[Any], batch: Any, count: int) -> Any:
        try:
            results = recording.run(batch, self.training)
        except Exception as error:  # as for a label that it has not seen before
            result = self.stock(data)  # or raise its own error
            self.failures += 1
            self.recordings.pop(key, None)
            if self.failures > DOUBTS or self.options.exchange:
                self._give_up(explained(error))
            return result
        return self._measured(self._finish(recording, *results, count), data)

    def _beside_stock(self, key: Any, data: Sequence[Any], leaves: list[Any], count: int) -> Any:
        """A step by stock Keras and by a recording, made of that step if there is none; ours counts if they agree."""
        recording: Any = self.recordings.get(key)
        states = random_states()
        recorder: Any = None
        if recording is None:
            self.budget.recorded += 1
            leaves = [leaf if leaf is None else leaf.detach() for leaf in leaves]  # two may be the same
            data = [keras.tree.pack_sequence_as(data[0], leaves)]
            recorder = Recorder([leaf for leaf in leaves if leaf is not None])
        batch = [leaf for leaf in leaves if leaf is not None]
        if recording and recording.changes_batch:
            batch = [tensor.clone() for tensor in batch]
        before = [(tensor, tensor.clone()) for tensor in recording.changed] if recording else recorder.before
        try:
            step = self._run_stock(data, recorder)
        except Exception as error:
            if recorder is None or (recorder.reason and recorder.update):
                raise
            assign(before)
            set_random_states(states)
            result = self.stock(data)  # or raise its own error
            self._give_up(recorder.reason or explained(error))
            return result
        after, problem = random_states(), recorder.reason if recorder else ""
        if changed := self.watch.look():
            self.version, self.tries = self.watch.version, self.tries + 1
            self.kept.clear()
            self.recordings = self.kept[self.version] = {}
            if self.tries < TRIES and not self.options.exchange:
                return self._finish_stock(step, data)
            problem = self.changes_itself = problem or f"its step changes {changed}"
        if recorder:
            self.watch.know({*recorder.codes.values()})
        # Without code of users' a step draws none: then another thread did, as one that prepares batches.
        if not problem and after[1] != states[1] and self.watch.users:
            problem = "it draws random numbers of Python's or NumPy's"
        if not problem:
            try:
                if recorder:
                    recording = Recording(recorder, step, batch, self.options)
                    if self.options.exchange and (others := recording.others(self.model)):
                        raise ValueError(f"its step assigns {others} variables that are no metric's")
                problem, results = self._compare(recording, step, batch, before, states, after)
            except Exception as error:
                problem = explained(error)
        if problem:
            result = self._finish_stock(step, data)
            self._give_up(problem)
            return result
        self.recordings[key] = recording
        if len(self.recordings) > MOST:
            del self.recordings[next(iter(self.recordings))]
        if self.training:
            self.model.zero_grad()
        del step
        return_freed_memory()
        return self._measured(recording.on_threads(self._finish, recording, *results, count), data)

    def _run_stock(self, data: Sequence[Any], recorder: Recorder | None) -> StockStep:
        """Stock Keras's step, but for the update of the weights."""
        updates: list[tuple[list[Any], list[keras.Variable]]] = []
        only_metrics = self.mode != "predict" and not (self.apart or self._has_own_metrics())
        optimizer: Any = self.model.optimizer if self.training else None
        update: Any = optimizer and optimizer.apply

        def apply(gradients: Sequence[Any], variables: Any = None) -> None:
            if recorder and recorder.reason:
                return update(gradients, variables)
            if updates:
                raise RuntimeError("it updates its weights twice")
            updates.append((list(gradients), list(variables)))
            if recorder:
                recorder.delay(lambda: update(*updates.pop()), [*variables, *optimizer.variables])
            return None

        with ExitStack() as stack:
            if only_metrics:
                stack.enter_context(in_place_of(self.model, "get_metrics_result", dict))
            if self.apart:
                stack.enter_context(in_place_of(self.model, "compute_metrics", partial(_outputs, recorder)))
            if optimizer:
                stack.enter_context(in_place_of(optimizer, "apply", apply))
            if recorder:
                stack.enter_context(recorder)
                stack.enter_context(Substitutions(recorder))
                stack.enter_context(asking_nothing())
                for layer in recurrent_layers(self.model):
                    stack.enter_context(in_place_of(layer, "inner_loop", partial(by_kernel, recorder, layer)))
                for layer in normalizations(self.model):
                    stack.enter_context(in_place_of(layer, "call", partial(normalized, recorder, layer)))
            returned = self.stock(data)
        return StockStep(returned, None if only_metrics else keras.tree.flatten(returned), *(updates or [([], [])])[0])

    def _finish_stock(self, step: StockStep, data: Sequence[Any]) -> Any:
        if step.variables:
            with torch.no_grad():
                self.model.optimizer.apply(step.gradients, step.variables)
        return self.model.get_metrics_result() if step.outputs is None else self._measured(step.returned, data)

    def _measured(self, returned: Any, data: Sequence[Any]) -> Any:
        """What a step returns, if that is the outputs by which Keras has to update metrics that are kept apart."""
        if not self.apart:
            return returned
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data[0])
        return self.model.compute_metrics(x, y, returned, sample_weight)

    def _has_own_metrics(self) -> bool:
        return overridden(self.model, "compute_metrics", "get_metrics_result")

    def _compare(
        self, recording: Recording, step: StockStep, batch: Any, before: Any, states: Any, after: Any
    ) -> tuple[str, tuple[list[Any], list[Any], list[Any]]]:
        """Replays a step that stock Keras took; says what differs, and returns what is right."""
        theirs = [(tensor, tensor.clone()) for tensor in recording.changed]
        new = {id(tensor): copy for tensor, copy in theirs}
        states_of = [*recording.assigned, *recording.in_place]
        expected = [*step.gradients, *(step.outputs or ()), *(new[id(tensor)] for tensor in states_of)]
        results = step.gradients, step.outputs or [], [new[id(tensor)] for tensor in recording.assigned]
        assign(before)
        set_random_states(states)
        try:
            ours = recording.on_threads(recording.run, batch, self.training)
            place = difference([*ours[0], *ours[1], *ours[2], *recording.in_place], expected, recording.rough)
            if place is None and all(map(torch.equal, random_states()[0], after[0])):
                recording.unproven -= 1
                return "", ours
            recording.doubts += 1
            differs = "random number" if place is None else called(self.model, place, step, states_of)
            problem = f"its recording computes another {differs} than stock Keras" if recording.doubts > DOUBTS else ""
        except Exception as error:
            problem = explained(error)
        assign(theirs)
        set_random_states(after)
        return problem, results

    def _finish(
        self, recording: Recording, gradients: list[Any], outputs: list[Any], values: list[Any], count: int
    ) -> Any:
        with torch.no_grad():
            if self.options.exchange and self.mode != "predict":
                gradients, values = self.options.exchange(gradients, values, recording.assigned, count)
            if values:  # before the update, which may change gradients and weights that they share memory with
                torch._foreach_copy_(recording.assigned, values)
            if recording.variables:
                if recording.update is None:
                    around = self.options.around_update
                    recording.update = updater(self.model.optimizer, recording.variables, gradients, around)
                recording.update(gradients)
        if recording.only_metrics:
            return self.logs.read(self.model)
        return outputs[0] if recording.structure is None else keras.tree.pack_sequence_as(recording.structure, outputs)


def _outputs(recorder: Recorder | None, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
    """What a model returned, by which its metrics are updated later; a replay returns it without a mask."""
    if recorder and any(hasattr(output, "_keras_mask") for output in keras.tree.flatten(y_pred)):
        recorder.fail("its metrics read a mask")
    return y_pred
