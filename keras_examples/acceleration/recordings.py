"""A recorded step that can be replayed, and whether it comes to what stock Keras's step does."""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import torch

from keras_examples.acceleration.internals import set_threads
from keras_examples.acceleration.recording import Recorder
from keras_examples.acceleration.rewrites import finished

SMALL = 1e7  # floating-point operations, for which it takes longer to wake threads than to do them
CLOSE = {torch.float64: 1e-5, torch.float32: 2e-3}  # of a tensor's largest number
ROUGHLY = 0.1  # for types of lower precision, and what was computed with them
FREE, COST = 2, 12  # recordings that need not pay, and the stock steps that one takes, more or less
OFTEN, KINDS = 3, 3200  # batches of a kind, after which it is worth recording; kinds that are counted
NOISE = 1e-5  # of the largest gradient: one that is no more should be zero


class Options(NamedTuple):
    """See `accelerate`."""

    exchange: Callable[..., Any] | None
    around_update: Callable[..., None] | None
    cuda_graph: bool


class Budget:
    """Whether to record: recordings may take no longer than their replays have saved.

    Attributes:
        replays: Steps that were replayed.
        recorded: Recordings that were made.
    """

    def __init__(self) -> None:
        self.replays = self.recorded = self.asked = 0
        self.uses: dict[Any, int] = {}

    def pays(self, key: Any, recordings: dict[Any, Any]) -> bool:
        """Whether to record a step on this kind of batch, which has no recording yet."""
        self.asked += 1
        if len(self.uses) > KINDS:
            self.uses.clear()
        self.uses[key] = uses = self.uses.get(key, 0) + 1
        if (self.recorded - FREE) * COST >= self.replays / 2 + self.asked / 20:
            return False
        last_batch = any(_without_size(key) == _without_size(other) for other in recordings)
        return not recordings or last_batch or uses >= OFTEN


class StockStep(NamedTuple):
    """What a step of stock Keras's came to, but for the update of the weights."""

    returned: Any
    outputs: list[Any] | None  # of the model, or logs; None where the metrics tell the logs
    gradients: list[Any]
    variables: list[keras.Variable]


class Recording:
    """A recorded step on batches of one kind."""

    def __init__(self, recorder: Recorder, step: StockStep, batch: list[torch.Tensor], options: Options):
        outputs = step.outputs or []
        if strange := [output for output in outputs if not isinstance(output, torch.Tensor)]:
            raise TypeError(f"it returns a {type(strange[0]).__name__}, which is no tensor")
        self.variables, self.only_metrics, self.rough = step.variables, step.outputs is None, recorder.rough
        self.structure = None if self.only_metrics else keras.tree.map_structure(lambda _: None, step.returned)
        self.exists = [gradient is not None for gradient in step.gradients]
        results = [*(gradient for gradient in step.gradients if gradient is not None), *outputs]
        self.function, self.held, self.assigned = finished(recorder, results)
        self.ends = sum(self.exists), len(results)
        self.changed = [held for held, _, is_input in recorder.before if not is_input]
        assigned = {*map(id, self.assigned)}
        self.in_place = [tensor for tensor in self.changed if id(tensor) not in assigned]
        self.changes_batch = len(self.changed) < len(recorder.before)  # as Keras does to the weights of samples
        self.unproven, self.doubts = 2, 0  # replays until it is trusted, and those that came to something else
        self.update: Callable[[list[Any]], None] | None = None  # see `updater`
        if options.cuda_graph and not (recorder.on_cpu or outputs):
            self.function = cuda_graph(self.function, self.held, batch)
        self.small = recorder.on_cpu and recorder.work < SMALL

    def run(self, batch: list[torch.Tensor], training: bool) -> tuple[list[Any], list[Any], list[Any]]:
        """Takes the step but for the last of it; returns gradients, outputs and what has to be assigned."""
        with torch.set_grad_enabled(training):  # not for autograd: torch's LSTM kernel asks
            results = self.function(*batch, *self.held)
        first, second = self.ends
        gradients, rest = results[:first], iter(results[:first])
        if first < len(self.exists):
            gradients = [next(rest) if exists else None for exists in self.exists]
        return gradients, results[first:second], results[second:]

    def others(self, model: keras.Model) -> int:
        """How many variables a step assigns that several processes cannot add up."""
        metrics = {v.value.data_ptr() for metric in model.metrics for v in metric.variables}
        return sum(tensor.data_ptr() not in metrics for tensor in self.changed) + len(self.in_place)

    def on_threads(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function on as many threads as the step deserves."""
        if not self.small:
            return function(*arguments)
        threads = torch.get_num_threads()
        set_threads(1)
        try:
            return function(*arguments)
        finally:
            set_threads(threads)


def cuda_graph(function: Callable[..., Any], held: list[torch.Tensor], batch: list[torch.Tensor]) -> Callable[..., Any]:
    """Records a step's kernels on an NVIDIA GPU, so that a replay is a single launch, which overwrites the last."""
    inputs, recording = [tensor.clone() for tensor in batch], torch.cuda.CUDAGraph()
    with torch.cuda.graph(recording):
        outputs = function(*inputs, *held)

    def replay(*arguments: torch.Tensor) -> Any:
        torch._foreach_copy_(inputs, list(arguments[: len(inputs)]))
        recording.replay()
        return outputs

    return replay


def kind_of(batch: Any, on_cpu: bool) -> tuple[list[torch.Tensor | None], Any]:
    """A batch's tensors, and what has to be the same for a recording to hold."""
    if on_cpu and type(batch) is tuple and all(type(leaf) is torch.Tensor for leaf in batch):
        leaves, structure = list(batch), None  # as nearly always; the rest is slower than a small step's Python
    else:
        leaves = [leaf if leaf is None else keras.ops.convert_to_tensor(leaf) for leaf in keras.tree.flatten(batch)]
        structure = repr(keras.tree.map_structure(lambda leaf: leaf is None, batch))
    return leaves, (
        structure,
        *(leaf if leaf is None else (leaf.shape, leaf.dtype, leaf.stride()) for leaf in leaves),
    )


def called(model: keras.Model, place: int, step: StockStep, states: Sequence[torch.Tensor]) -> str:
    """What of a step, its gradients, outputs and states in this order, stands at a place."""
    if place < len(step.variables):
        return f"gradient of {step.variables[place].path}"
    if (place := place - len(step.variables) - len(step.outputs or ())) < 0:
        return "output"
    variables = [*model.variables, *(v for metric in model.metrics for v in metric.variables)]
    return {v.value.data_ptr(): v.path for v in variables}.get(states[place].data_ptr(), "state")


def difference(ours: Sequence[Any], theirs: Sequence[Any], rough: bool) -> int | None:
    """The place of the first tensor that differs from stock Keras's by more than rounding, or None."""
    largest = [float(t.abs().max()) for t in theirs if t is not None and t.is_floating_point() and t.numel()]
    noise = NOISE * max(filter(math.isfinite, largest), default=0.0)
    for place, (a, b) in enumerate(zip(ours, theirs)):
        if a is not b and (a is None or b is None or not _is_close(a, b, noise, rough)):
            return place
    return None


def _is_close(a: torch.Tensor, b: torch.Tensor, noise: float, rough: bool) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or not b.is_floating_point():
        return a.shape == b.shape and a.dtype == b.dtype and (rough or torch.equal(a, b))
    largest = float(b.abs().nan_to_num(0.0, 0.0, 0.0).max()) if b.numel() else 0.0
    atol = max((ROUGHLY if rough else CLOSE.get(b.dtype, ROUGHLY)) * largest, noise)
    return torch.allclose(a, b, rtol=0.0, atol=atol, equal_nan=True)


def random_states() -> tuple[list[torch.Tensor], Any]:
    """The states of torch's random numbers, and of Python's and NumPy's."""
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    of_numpy: Any = np.random.get_state()
    return [torch.get_rng_state(), *of_gpus], (random.getstate(), of_numpy[1].tobytes(), of_numpy[2:])


def set_random_states(states: tuple[list[torch.Tensor], Any]) -> None:
    """Sets torch's random numbers back to an earlier state."""
    of_cpu, *of_gpus = states[0]
    torch.set_rng_state(of_cpu)
    if of_gpus:
        torch.cuda.set_rng_state_all(of_gpus)


def assign(pairs: Iterable[tuple[Any, ...]]) -> None:
    """Copies into the first tensor of each tuple its second."""
    with torch.no_grad():
        for tensor, value, *_ in pairs:
            tensor.copy_(value)


def _without_size(key: Any) -> Any:
    """A kind of batch, however many samples it has."""
    (structure, *shapes), training = key
    return structure, training, [shape and (shape[0][1:], shape[1]) for shape in shapes]
