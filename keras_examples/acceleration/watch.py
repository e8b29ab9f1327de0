"""What a step reads besides the values of tensors: which tensors, and plain attributes of all that it goes through."""

import functools
import operator
import random
import sys
import threading
import time
import types
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import torch

from keras_examples.acceleration.internals import get_global_attribute
from keras_examples.acceleration.reasons import is_library

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, np.generic, np.dtype, slice)
LONG = 20_000  # items of a container, above which nobody looks into it
LARGE = 1 << 20  # bytes of an array that are looked at; of a larger one so many, evenly spread
MOST = 50_000  # things that are looked at

# Attributes that Keras's own steps, loops and bookkeeping change, or that only describe a finished model.
PASSING = set(
    "_losses _loss_ids _called _call_context_args _inbound_nodes _outbound_nodes _lock history stop_training training "
    "stop_evaluating stop_predicting _eval_epoch_iterator train_function test_function predict_function _accelerated "
    "make_train_function make_test_function make_predict_function reset_metrics compile fit evaluate _initial_epoch "
    "_compiled_trainable_state _compile_config _torch_params _auto_config _tracker _nodes _nodes_by_depth "
    "_operations_by_depth _parameters _exclude_from_weight_decay_cache".split()
)

MADE_ANEW = {"_torch_params"}  # of `_modules`: in each validation


class Watch:
    """Tells whether something that a model's step reads has changed; it is found by walking from the model, once.

    Attributes:
        begun: How often `fit`, an epoch of it, `evaluate`, `predict` or a step on one batch has begun.
        version: How often a change was found.
    """

    def __init__(self, model: keras.Model):
        self.model, self.lock = model, threading.RLock()
        self.begun = self.version = 0
        self.codes: set[types.CodeType] = set()  # of functions that a step runs: what they read around them counts
        self._walk()

    def know(self, codes: set[types.CodeType]) -> None:
        """Adds functions that a step runs."""
        if not codes <= self.codes:
            self.codes |= codes
            self._walk()

    def look(self) -> str:
        """Looks again, and says what has changed, or "" if nothing has."""
        with self.lock:
            for names, read, were in self.found:
                now = [*read()]
                if len(now) == len(were) and all(map(operator.is_, now, were)):
                    continue  # as nearly always
                differs = [name for name, *pair in zip(names, now, were) if not _same(*pair)]
                if differs or len(now) != len(were):
                    self.version += 1
                    self._walk()
                    return (
                        differs[0] if differs else f"the number of things like {names[0]}" if names else "a container"
                    )
            return ""

    def _walk(self) -> None:
        known = None
        while known != len(self.codes):  # a function that is found to run may call one that was passed by
            known = len(self.codes)
            self.names = set().union(*map(_names, self.codes))
            self.found: list[tuple[list[str], Callable[[], Iterable[Any]], list[Any]]] = []
            seen: dict[int, Any] = {}
            queue = deque(
                [("the model", self.model), *self._note("Keras", ["a setting"] * len(_settings()), _settings)]
            )
            while queue and len(seen) < MOST:
                name, thing = queue.popleft()
                if not isinstance(thing, PLAIN) and id(thing) not in seen:
                    seen[id(thing)] = thing
                    queue.extend(self._look_into(name, thing))

    def _look_into(self, name: str, thing: Any) -> Iterable[tuple[str, Any]]:
        """Notes what a thing holds, and returns what there is to look into."""
        if state := _state_of(thing):
            return self._note(name, ["the state"], state)
        if isinstance(thing, dict):
            return self._note_items(name, thing, MADE_ANEW) if len(thing) <= LONG else ()
        if isinstance(thing, (list, tuple, set, frozenset, deque)):
            return self._note(name, range(len(thing)), thing.__iter__) if len(thing) <= LONG else ()
        if isinstance(thing, types.MethodType):
            return [(name, thing.__self__), (name, thing.__func__)]
        if isinstance(thing, functools.partial):
            return [(name, thing.func), (name, thing.args), (name, thing.keywords)]
        if isinstance(thing, (property, staticmethod, classmethod)):
            return [(name, getattr(thing, "fget", None) or getattr(thing, "__func__", None))]
        if isinstance(thing, types.ModuleType):
            if is_library(getattr(thing, "__file__", None) or "<"):
                return ()
            chosen = sorted(self.names & vars(thing).keys())
            return self._note(name, chosen, lambda: map(vars(thing).get, chosen))
        if isinstance(thing, types.FunctionType):
            return self._surroundings(thing) if self._runs(thing) else ()
        if isinstance(thing, type):
            return self._note(thing.__name__, vars(thing).keys(), vars(thing).values) if _is_users(thing) else ()
        return self._attributes(thing) if _is_users(thing.__class__) or _is_part(thing) else ()

    def _runs(self, function: types.FunctionType) -> bool:
        """Whether a step seems to run a function of the user's; one that reaches no tensor is told by its name."""
        code = function.__code__
        named = code.co_name in self.names or (code.co_name.startswith("__") and code.co_name != "__init__")
        return not is_library(code.co_filename) and (code in self.codes or named)

    def _attributes(self, thing: Any) -> Iterator[tuple[str, Any]]:
        own, kind = getattr(thing, "__dict__", {}), type(thing)
        label = own.get("name") or own.get("_name")
        name = f"{label} ({kind.__name__})" if isinstance(label, str) else kind.__name__
        yield from self._note_items(name, own, PASSING)
        users = [base for base in kind.__mro__ if _is_users(base)]
        if slots := [slot for base in users for slot in vars(base).get("__slots__", ())]:
            yield from self._note(name, slots, lambda: [getattr(thing, slot, None) for slot in slots])
        yield from ((base.__name__, base) for base in users)

    def _surroundings(self, function: types.FunctionType) -> Iterable[tuple[str, Any]]:
        """What a function of the user's reads from around it, and the functions that it calls by name."""
        around, cells = function.__globals__, function.__closure__ or ()
        names = [name for name in sorted(_names(function.__code__)) if name in around]

        def read() -> list[Any]:
            own = function.__defaults__, function.__kwdefaults__, function.__dict__
            return [*map(around.get, names), *map(_inside, cells), *own]

        self.codes.add(function.__code__)
        self.codes.update(thing.__code__ for thing in read() if isinstance(thing, types.FunctionType))
        keys = [*names, *function.__code__.co_freevars, "defaults", "defaults", "attributes"]
        return self._note(f"{function.__name__}()", keys, read)

    def _note_items(self, name: str, items: dict[Any, Any], but: set[str]) -> Iterable[tuple[str, Any]]:
        """Notes the values of a dictionary but for some keys."""
        if but.isdisjoint(items):  # as nearly always
            return self._note(name, items.keys(), items.values)
        keys = [key for key in items if key not in but]
        return self._note(name, keys, lambda: [value for key, value in items.items() if key not in but])

    def _note(self, name: str, keys: Iterable[Any], read: Callable[[], Iterable[Any]]) -> Iterable[tuple[str, Any]]:
        names, were = [f"{key} of {name}" for key in keys], [*read()]
        self.found.append((names, read, were))
        return zip(names, were)


def _settings() -> list[Any]:
    casts = [
        setting
        for kind in ("cpu", "cuda")
        for setting in (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
    ]
    of_keras = keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format()
    return [get_global_attribute("global_seed_generator"), *of_keras, *casts]


def _state_of(thing: Any) -> Callable[[], list[Any]] | None:
    """What reads the state of a thing that is changed in place, in plain numbers and texts."""
    if isinstance(thing, torch.Tensor):
        if thing.layout is not torch.strided:
            return lambda: [thing._version, thing.requires_grad]
        return lambda: [thing.data_ptr(), thing.requires_grad, *thing.stride()]
    if isinstance(thing, np.ndarray) and thing.dtype != object:
        step = -(-thing.nbytes // LARGE) or 1
        return lambda: [zlib.crc32(thing.reshape(-1)[::step].tobytes())]
    if isinstance(thing, np.random.Generator):
        return lambda: [repr(thing.bit_generator.state)]
    if isinstance(thing, np.random.RandomState):
        return lambda: [part.tobytes() if isinstance(part, np.ndarray) else part for part in thing.get_state()]
    if isinstance(thing, random.Random) and not isinstance(thing, random.SystemRandom):
        return lambda: [repr(thing.getstate())]
    if isinstance(thing, torch.Generator):
        return lambda: [thing.get_state().numpy().tobytes()]
    if isinstance(thing, (Iterator, random.SystemRandom)):  # nobody knows what comes next
        return lambda: [time.perf_counter()]
    return None


def _is_part(thing: Any) -> bool:
    """Whether an object of a library's is one that a step goes through."""
    if isinstance(thing, (keras.KerasTensor, keras.callbacks.Callback)):
        return False
    return isinstance(thing, (torch.nn.Module, types.SimpleNamespace)) or type(thing).__module__.startswith("keras.")


@functools.cache
def _is_users(kind: Any) -> bool:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return kind.__module__ == "__main__" or bool(file and not is_library(file))


def _names(code: types.CodeType) -> set[str]:
    return set(code.co_names).union(*(_names(part) for part in code.co_consts if isinstance(part, types.CodeType)))


def _inside(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, PLAIN) and type(a) is type(b) and (a == b or a != a))
