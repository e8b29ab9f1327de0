"""Keras's own loops: whether a model keeps to them, and `fit` and `evaluate` with less between two steps."""

import functools
import inspect
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import torch

from keras_examples.acceleration.internals import ArrayDataAdapter, PyDatasetAdapter
from keras_examples.acceleration.reasons import is_library, is_ours

ARRAYS = "x", "y", "sample_weight"
PLAIN = "bool uint8 int8 int16 int32 int64 float16 float32 float64".split()
KINDS = "", "train_", "test_"  # of the hooks that callbacks have around batches
INTERVAL = 0.1  # seconds between two readings of the metrics while only a progress bar wants them


def unsupported(model: keras.Model, mode: str) -> str:
    """Why a mode of a model stays stock Keras from the outset, or ""."""
    if model.run_eagerly or model.jit_compile:
        return "it is compiled with run_eagerly or jit_compile"
    if model.steps_per_execution != 1:
        return f"it is compiled with steps_per_execution={model.steps_per_execution}"
    if overridden(model, f"{mode}_step") or getattr(type(model), f"make_{mode}_function") is not getattr(
        keras.Model, f"make_{mode}_function"
    ):
        code = getattr(inspect.unwrap(getattr(model, f"{mode}_step")), "__code__", None)
        place = f", at {os.path.basename(code.co_filename)}:{code.co_firstlineno}" if code else ""
        return f"it has a {mode}_step of its own{place}"
    return ""


def overridden(model: keras.Model, *methods: str) -> bool:
    """Whether a model has one of these methods of its own."""
    return any(name in vars(model) or getattr(type(model), name) is not getattr(keras.Model, name) for name in methods)


class Logs:
    """The logs of a step, which Keras takes from the metrics and which cost more than a small step.

    Attributes:
        every_step: Whether to read the metrics at every step, because somebody looks at every step's logs.
    """

    def __init__(self) -> None:
        self.every_step = True
        self.last = 0.0
        self.skipped = _Skipped()

    @contextmanager
    def read_at(self, every_step: bool) -> Iterator[None]:
        """Reads the metrics at every step, or not, until the block ends."""
        before, self.every_step = self.every_step, every_step
        try:
            yield
        finally:
            self.every_step = before

    def read(self, model: keras.Model) -> dict[str, Any]:
        """The logs, or what stands for them if nobody looks."""
        now = time.monotonic()
        if not (self.every_step or now - self.last > INTERVAL):
            return self.skipped
        self.last = now
        logs = model.get_metrics_result()
        self.skipped = _Skipped(logs)
        return logs


class _Skipped(dict):
    """The names of logs that nobody looks at; at an epoch's end Keras takes the values from the metrics."""

    def __bool__(self) -> bool:
        return False


class _Batches(PyDatasetAdapter):
    """The batches of a `PyDataset` as Keras would hand them on, without the `DataLoader` that it puts around them."""

    def get_torch_dataloader(self) -> Iterator[Any]:
        if not is_ours(self.py_dataset):  # which never had a `DataLoader`
            _draw()
        return map(_as_tensors, self._get_iterator())


class _Arrays(ArrayDataAdapter):
    """The batches of arrays as Keras would hand them on, gathered by torch: a quarter of the time."""

    def get_torch_dataloader(self) -> Iterator[Any]:
        loader = super().get_torch_dataloader()
        tensors = _mapped(lambda part: torch.as_tensor(part.array), loader.dataset.array)

        def gather(places: list[int]) -> Any:
            chosen = torch.tensor(places)
            return _mapped(lambda tensor: keras.ops.convert_to_tensor(tensor.index_select(0, chosen)), tensors)

        _draw()
        return map(gather, loader.batch_sampler)


def _draw() -> None:
    """Draws a random number, as a `DataLoader` does each time it begins."""
    torch.empty((), dtype=torch.int64).random_()


def _are_plain(arrays: Any) -> bool:
    """Whether all arrays are NumPy's or torch's on the CPU, as torch takes them."""
    leaves = [leaf for leaf in keras.tree.flatten(arrays) if leaf is not None]
    return leaves != [] and all(_is_plain(leaf) for leaf in leaves)


def _is_plain(array: Any) -> bool:
    if type(array) is torch.Tensor:
        return array.device.type == "cpu" and not array.requires_grad
    flags = array.flags if type(array) is np.ndarray and array.dtype.name in PLAIN else None
    return flags is not None and flags.c_contiguous and flags.writeable


def _mapped(function: Callable[[Any], Any], structure: Any) -> Any:
    return keras.tree.map_structure(function, structure, none_is_leaf=False)


def _as_tensors(batch: Any) -> Any:
    if type(batch) is tuple and all(type(leaf) is torch.Tensor for leaf in batch):
        return batch
    return _mapped(keras.ops.convert_to_tensor, batch)


class _InLine(keras.callbacks.Callback):
    """Does nothing at the end of a batch: a list with such a callback is not handed to a thread pool every step."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        pass

    on_test_batch_end = on_train_batch_end


class _Looking(_InLine):
    """Has each step look again at what it reads, since a callback before this one may have changed it."""

    def __init__(self, look: Callable[[], None]):
        super().__init__()
        self.look = look

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.look()

    on_test_batch_begin = on_train_batch_begin


def lean(model: keras.Model, name: str, logs: Logs, look: Callable[[], None]) -> Callable[..., Any]:
    """Makes a model's `fit` or `evaluate` that reads logs at every step only if a callback asks for them.

    Where users' callbacks act between batches, `look` is called before each step.
    """
    method = getattr(type(model), name).__get__(model)
    signature = inspect.signature(method)

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return method(*args, **kwargs)  # which says what is wrong
        bound.apply_defaults()
        arguments, callbacks = bound.arguments, bound.arguments["callbacks"]
        if isinstance(callbacks, keras.callbacks.CallbackList):
            return method(*args, **kwargs)
        callbacks = keras.tree.flatten(callbacks) if callbacks else []
        acting = any(_acts_between_batches(callback) for callback in callbacks)
        arguments["callbacks"] = [*callbacks, _Looking(look) if acting else _InLine()]
        alone = arguments["y"] is None and arguments["sample_weight"] is None
        if isinstance(arguments["x"], keras.utils.PyDataset) and alone:
            weights, shuffle = arguments.get("class_weight"), arguments.get("shuffle", False)
            arguments["x"] = _Batches(arguments["x"], weights, shuffle)
        elif not arguments.get("validation_split") and _are_plain([arguments[name] for name in ARRAYS]):
            given = {name: arguments[name] for name in (*ARRAYS, "class_weight") if name in arguments}
            steps, shuffle = arguments.get("steps_per_epoch", arguments.get("steps")), arguments.get("shuffle", False)
            arguments |= dict.fromkeys(given)
            arguments["x"] = _Arrays(**given, batch_size=arguments["batch_size"], steps=steps, shuffle=shuffle)
        with logs.read_at(every_step=any(_looks_at_batches(callback) for callback in callbacks)):
            return method(*bound.args, **bound.kwargs)

    return run


def _acts_between_batches(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback has code of a user's that runs between two batches."""
    hooks = [getattr(callback, f"on_{kind}batch_{end}") for kind in KINDS for end in ("begin", "end")]
    files = [getattr(getattr(hook, "__code__", None), "co_filename", "") for hook in hooks]
    return not (is_ours(callback) or all(map(is_library, files)))


def _looks_at_batches(callback: keras.callbacks.Callback) -> bool:
    return not all(getattr(getattr(callback, f"on_{kind}batch_end"), "_is_default", False) for kind in KINDS)


def with_logs(model: keras.Model, name: str, logs: Logs) -> Callable[..., Any]:
    """Makes a model's `train_on_batch` or `test_on_batch` that reads logs, even while `fit` does not."""
    method = getattr(type(model), name).__get__(model)

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        with logs.read_at(every_step=True):
            return method(*args, **kwargs)

    return run
