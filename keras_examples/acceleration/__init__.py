"""The captured training step: Keras's own `fit`, `evaluate` and `predict` at the speed of hand-written PyTorch.

Most of a small model's step in stock Keras is Python, and much of a convolutional one's is copying between memory
layouts. So the first batch of each shape is run once while torch records what Keras asks of it (forward, loss,
gradients, metrics), and every later batch replays the recording. Variables are inputs of the recording and are
updated in place, the Keras optimizer's own included, so saving, resuming and callbacks see what they would see in
stock Keras.

Read once, when recording, and frozen from then on: the Python attributes of layers, losses and metrics.
"""

import ctypes
import functools
import inspect
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import torch
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

from keras_examples.acceleration.optimizers import updater
from keras_examples.acceleration.recording import Substitutions, cuda_graph, on_one_thread, record

LOGS_INTERVAL = 0.1  # seconds between two readings of the metrics while only a progress bar wants them


def accelerate(
    model: keras.Model,
    *,
    exchange: Callable[..., Any] | None = None,
    around_update: Callable[..., None] | None = None,
    cuda_graph: bool = False,
) -> keras.Model:
    """Makes `fit`, `evaluate` and `predict` of a compiled model replay captured steps.

    A model that cannot be captured stays stock Keras, and a warning says why. `compile()` makes a model stock Keras
    again: accelerate it anew afterwards.

    Args:
        model: A compiled model.
        exchange: Where several processes train together, what makes their gradients and metrics those of one process:
            from `gradients, states, before, count` to gradients and states.
        around_update: What a subclass of SGD or Adam does around its base class's step: called with that step,
            gradients and variables.
        cuda_graph: Whether to launch a step on an NVIDIA GPU as one CUDA graph; not measured yet, so not the default.

    Returns:
        The model.

    Raises:
        ValueError: If the model is not compiled.
    """
    if not model.compiled:
        raise ValueError(f"Call `compile()` before `accelerate()`. Received: model={model.name}")
    if reason := _unsupported(model):
        _stay_stock(exchange, f"{model.name} is not accelerated: {reason}.", stacklevel=3)
        return model
    _keep_freed_memory()
    pace = _Pace()
    for mode in ("train", "test", "predict"):
        setattr(model, f"{mode}_function", _Replay(model, mode, pace, exchange, around_update, cuda_graph))
    for method in ("fit", "evaluate"):
        setattr(model, method, _paced(model, method, pace))
    return model


def _stay_stock(exchange: Any, message: str, stacklevel: int) -> None:
    """Warns that a model runs as stock Keras, unless each of several processes would train a model of its own."""
    if exchange:
        raise ValueError(f"Several processes need a step that can be captured. Received: {message}")
    warnings.warn(message, stacklevel=stacklevel)


def _unsupported(model: keras.Model) -> str | None:
    if keras.backend.backend() != "torch":
        return f"the backend is {keras.backend.backend()}, not torch"
    for method in ("train_step", "test_step", "predict_step"):
        if getattr(type(model), method) is not getattr(keras.Model, method):
            return f"it has a {method} of its own"
    if model.run_eagerly or model.jit_compile:
        return "it is compiled with run_eagerly or jit_compile"
    if model.steps_per_execution != 1:
        return f"it is compiled with steps_per_execution={model.steps_per_execution}"
    if model.optimizer is None or isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        return "it has no optimizer, or one that scales the loss by a factor that varies"
    return None


class _Replay:
    """A model's train, test or predict function: records the step on each new kind of batch, and replays it."""

    def __init__(self, model: keras.Model, mode: str, pace: "_Pace", exchange: Any, around: Any, cuda_graph: bool):
        self.model, self.mode, self.pace, self.cuda_graph = model, mode, pace, cuda_graph
        self.exchange, self.around = exchange, around
        self.weights = [variable.value for variable in model.weights]
        self.steps: dict[Any, Callable[..., Any]] = {}

    def __call__(self, data: Sequence[Any]) -> Any:
        leaves = _leaves(data[0])
        count = next(len(leaf) for leaf in leaves if leaf is not None)
        if not count and self.exchange:  # zeros keep this process in step, and count for nothing
            leaves = [leaf if leaf is None else leaf.new_zeros((1, *leaf.shape[1:])) for leaf in leaves]
        batch = [leaf for leaf in leaves if leaf is not None]
        kinds = [leaf if leaf is None else (leaf.shape, leaf.dtype, leaf.stride()) for leaf in leaves]
        key = (*kinds, *[weight.requires_grad for weight in self.weights])
        if key not in self.steps:
            try:
                step = _Step(self, data[0], batch)
                self.steps[key] = on_one_thread(step) if step.small else step
            except Exception as error:
                return self.stock(data, error)
        outputs = self.steps[key](batch, count)
        return outputs if self.mode == "predict" else self.pace.logs(self.model)

    def stock(self, data: Sequence[Any], error: Exception) -> Any:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        _stay_stock(self.exchange, f"{self.model.name} is not accelerated, {self.mode} mode: {reason}", stacklevel=4)
        name = f"{self.mode}_function"
        setattr(self.model, name, None)
        getattr(self.model, f"make_{name}")()
        return getattr(self.model, name)(data)


def _leaves(batch: Any) -> list[torch.Tensor | None]:
    if isinstance(batch, tuple) and all(isinstance(leaf, torch.Tensor) for leaf in batch):
        return list(batch)  # as nearly always; flattening is slower than the rest of a small step's Python
    return [leaf if leaf is None else keras.ops.convert_to_tensor(leaf) for leaf in keras.tree.flatten(batch)]


class _Step:
    """A model's step on one kind of batch: recorded when made, replayed when called.

    Args:
        replay: The function that it is a step of.
        example: A batch as Keras passes it: `x`, `(x, y)` or `(x, y, sample_weight)`, each perhaps nested.
        batch: Its tensors.
    """

    def __init__(self, replay: _Replay, example: Any, batch: list[torch.Tensor]):
        self.model, self.mode, self.exchange = replay.model, replay.mode, replay.exchange
        model, mode, self.training = replay.model, replay.mode, replay.mode == "train"
        self.structure = keras.tree.map_structure(lambda leaf: leaf is not None, example)
        self.trained = model.trainable_variables if self.training else []
        if self.training and not self.trained:
            raise ValueError("it has no trainable weights")
        metrics = [] if mode == "predict" else [v for metric in model.metrics for v in metric.variables]
        # A variable can be in several lists, and must be one input.
        self.variables = list({id(v): v for v in [*self.trained, *model.variables, *metrics]}.values())
        self.values = [variable.value.detach() for variable in self.variables]
        leaves = [value.detach().requires_grad_() for value in self.values[: len(self.trained)]]
        with torch.set_grad_enabled(self.training):
            self.graph, self.small = record(self.compute, [*leaves, *self.values[len(leaves) :], *batch])
        if replay.cuda_graph and self.values[0].is_cuda and mode != "predict":
            self.graph = cuda_graph(self.graph, self.values, batch)
        self.update = updater(model.optimizer, self.trained, replay.around) if self.training else None

    def compute(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """From all variables and a batch to the outputs (predict), or to gradients, then all that was assigned."""
        model, values = self.model, inputs[: len(self.variables)]
        tensors = iter(inputs[len(values) :])
        example = keras.tree.map_structure(lambda given: next(tensors) if given else None, self.structure)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(example)
        with keras.StatelessScope(list(zip(self.variables, values)), collect_losses=True) as scope:
            with Substitutions():
                y_pred = model(x, training=self.training) if model._call_has_training_arg else model(x)
                if self.mode == "predict":
                    self.outputs = keras.tree.map_structure(lambda _: None, y_pred)
                    return keras.tree.flatten(y_pred)
                loss = model._compute_loss(x, y, y_pred, sample_weight, training=self.training)
            gradients: Sequence[torch.Tensor] = []
            if self.training:
                gradients = torch.autograd.grad(model.optimizer.scale_loss(loss), values[: len(self.trained)])
            with torch.no_grad():
                model._loss_tracker.update_state(loss, sample_weight=keras.tree.flatten(x)[0].shape[0])
                model.compute_metrics(x, y, y_pred, sample_weight)
        if outside := scope.state_mapping.keys() - {id(variable) for variable in self.variables}:
            raise ValueError(f"its step assigns {len(outside)} variables outside of the model")
        states = [scope.get_current_value(variable) for variable in self.variables]
        changed = [i for i, value in enumerate(values) if states[i] is not value]
        self.assigned = [self.values[i] for i in changed]
        metrics = {id(variable) for metric in model.metrics for variable in metric.variables}
        if self.exchange and (others := [i for i in changed if id(self.variables[i]) not in metrics]):
            raise ValueError(f"its step assigns {len(others)} variables that are no metric's")
        return [gradient.contiguous() for gradient in gradients] + [states[i] for i in changed]

    def __call__(self, batch: list[torch.Tensor], count: int) -> Any:
        with torch.set_grad_enabled(self.training):  # not for autograd: torch's LSTM kernel asks
            results = self.graph(*self.values, *batch)
        if self.mode == "predict":
            return keras.tree.pack_sequence_as(self.outputs, results)
        with torch.no_grad():
            gradients, states = results[: len(self.trained)], results[len(self.trained) :]
            if self.exchange:
                gradients, states = self.exchange(gradients, states, self.assigned, count)
            if self.update:
                self.update(gradients)
            torch._foreach_copy_(self.assigned, states)
        return None


class _Unread(dict):
    """The names of the logs, for a step whose logs nobody reads; Keras takes the values from the metrics."""

    def __bool__(self) -> bool:
        return False


class _Pace:
    """How often steps report: always, unless `fit` or `evaluate` knows that only a progress bar listens."""

    def __init__(self) -> None:
        self.every_step = True
        self.last = 0.0
        self.unread = _Unread()

    def logs(self, model: keras.Model) -> dict[str, Any]:
        now = time.monotonic()
        if not (self.every_step or now - self.last > LOGS_INTERVAL):
            return self.unread
        self.last = now
        logs = model.get_metrics_result()
        self.unread = _Unread(logs)
        return logs


class _Unwrapped(PyDatasetAdapter):
    """Batches as the data set makes them; a torch DataLoader around it takes longer than a small step's arithmetic."""

    def get_torch_dataloader(self) -> Any:
        return self._get_iterator()


class _InLine(keras.callbacks.Callback):
    """Does nothing at the end of a batch: a list with such a callback is not handed to a thread pool every step."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        pass

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        pass


def _paced(model: keras.Model, name: str, pace: _Pace) -> Callable[..., Any]:
    """`fit` or `evaluate`, with logs for every batch if a callback asks for them."""
    method = getattr(type(model), name).__get__(model)

    @functools.wraps(method)
    def paced(*args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(method).bind(*args, **kwargs)
        callbacks = bound.arguments.get("callbacks")
        if isinstance(callbacks, keras.callbacks.CallbackList):
            return method(*args, **kwargs)
        callbacks = keras.tree.flatten(callbacks) if callbacks else []
        bound.apply_defaults()
        given = bound.arguments
        given["callbacks"] = [*callbacks, _InLine()]
        if isinstance(given["x"], keras.utils.PyDataset) and given["y"] is None and given["sample_weight"] is None:
            given["x"] = _Unwrapped(given["x"], given.get("class_weight"), given.get("shuffle", False))
        before = pace.every_step
        pace.every_step = any(_listens(callback) for callback in callbacks)
        try:
            return method(*bound.args, **bound.kwargs)
        finally:
            pace.every_step = before

    return paced


def _listens(callback: keras.callbacks.Callback) -> bool:
    hooks = ("on_batch_end", "on_train_batch_end", "on_test_batch_end")
    return not all(getattr(getattr(callback, hook), "_is_default", False) for hook in hooks)


def _keep_freed_memory() -> None:
    """Has glibc keep what a step frees for the next, which otherwise faults in every page of its images anew."""
    allocator = ctypes.CDLL(None) if sys.platform == "linux" else object()
    if isinstance(allocator, ctypes.CDLL) and hasattr(allocator, "mallopt"):
        allocator.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, at the most that glibc allows
        allocator.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
