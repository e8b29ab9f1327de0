"""What a step reads besides the values of tensors: which tensors, and plain attributes of all that it goes through."""

import array
import functools
import gc
import io
import operator
import random
import sys
import threading
import time
import types
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
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
    "_losses _loss_ids _called _call_context_args _inbound_nodes _outbound_nodes _lock training _accelerated "
    "_compiled_trainable_state _compile_config _torch_params _auto_config _tracker _call_signature _nodes "
    "_nodes_by_depth _operations_by_depth _exclude_from_weight_decay_cache".split()
)
PASSING_OF_MODELS = PASSING.union(
    "history stop_training stop_evaluating stop_predicting _eval_epoch_iterator _initial_epoch reset_metrics compile "
    "fit evaluate train_function test_function predict_function make_train_function make_test_function "
    "make_predict_function".split()
)
CONTAINERS = dict, types.MappingProxyType, list, tuple, set, frozenset, deque
MADE_ANEW = {"_torch_params"}  # of `_modules`: in each validation

# What calls something else, and the attributes under which it does; the last is that of `functools.cache`.
CALLING: tuple[type, ...] = types.MethodType, types.BuiltinMethodType, property, staticmethod, classmethod
CALLING += functools.partial, functools.partialmethod, functools.cached_property, type(functools.cache(len))
CALLED = "__self__ __func__ __wrapped__ fget func args keywords".split()


class Watch:
    """Tells whether something that a model's step reads has changed; it is found by walking from the model, once.

    Attributes:
        begun: How often `fit`, an epoch of it, `evaluate`, `predict` or a step on one batch has begun.
        version: How often a change was found.
        users: The code of users' functions that a step runs.
    """

    def __init__(self, model: keras.Model):
        self.model, self.lock = model, threading.RLock()
        self.begun = self.version = 0
        self.codes: set[types.CodeType] = set()  # of functions that a step runs: what users' read around them counts
        self.lost: dict[types.CodeType, list[Any]] = {}  # those functions to which no attribute leads
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
        while known != len(self.codes):  # a function that is found may call one that was passed by
            known = len(self.codes)
            self.names = set().union(*map(_names, self.codes))
            self.found: list[tuple[list[str], Callable[[], Iterable[Any]], list[Any]]] = []
            seen: dict[int, Any] = {}
            settings = self._note("Keras", ["a setting"] * len(_settings()), _settings)
            self._walk_from([("the model", self.model), *settings], seen)
            codes = {thing.__code__ for thing in seen.values() if isinstance(thing, types.FunctionType)}
            inner = {part for code in self.codes for part in code.co_consts if isinstance(part, types.CodeType)}
            self.users = {code for code in self.codes if not is_library(code.co_filename)}
            if missing := self.users - codes - inner - self.lost.keys():
                functions = [thing for thing in gc.get_referrers(*missing) if isinstance(thing, types.FunctionType)]
                self.lost |= {code: [one for one in functions if one.__code__ is code] for code in missing}
            self._walk_from([(one.__name__, one) for functions in self.lost.values() for one in functions], seen)

    def _walk_from(self, beginning: Iterable[tuple[str, Any]], seen: dict[int, Any]) -> None:
        queue = deque(beginning)
        while queue and len(seen) < MOST:
            name, thing = queue.popleft()
            if not isinstance(thing, PLAIN) and id(thing) not in seen:
                seen[id(thing)] = thing
                queue.extend(self._look_into(name, thing))

    def _look_into(self, name: str, thing: Any) -> Iterable[tuple[str, Any]]:
        """Notes what a thing holds, and returns what there is to look into."""
        if isinstance(thing, CONTAINERS) and not _is_users(type(thing)):
            return self._items(name, thing)
        if state := _state_of(thing):
            return self._note(name, ["the state"], state)
        if isinstance(thing, weakref.ref):
            return [*self._note(name, ["what is referred to"], lambda: [id(thing())]), (name, thing())]
        if isinstance(thing, types.ModuleType):
            if is_library(getattr(thing, "__file__", None) or "<frozen"):
                return ()
            chosen = sorted(self.names & vars(thing).keys())
            return self._note(name, chosen, lambda: map(vars(thing).get, chosen))
        if isinstance(thing, types.FunctionType):
            if is_library(thing.__code__.co_filename):  # which may call one of users', as `torch.no_grad()` does
                return [(name, _inside(cell)) for cell in thing.__closure__ or ()]
            return self._surroundings(thing)
        if isinstance(thing, CALLING):
            return [(name, getattr(thing, called, None)) for called in CALLED]
        if isinstance(thing, type):
            return self._class(thing) if _is_users(thing) else ()
        items = self._items(name, thing) if isinstance(thing, CONTAINERS) else ()
        return [*items, *self._attributes(name, thing)]

    def _items(self, name: str, thing: Any) -> Iterable[tuple[str, Any]]:
        if len(thing) > LONG:
            return ()
        if not isinstance(thing, CONTAINERS[:2]):
            return self._note(name, range(len(thing)), thing.__iter__)
        keys = [key for key in thing if not (isinstance(key, str) and key in MADE_ANEW)]
        names = [*("a key" for _ in keys), *keys]
        if len(keys) < len(thing):
            return self._note(name, names, lambda: [*(own := _but(thing, MADE_ANEW)), *own.values()])
        return self._note(name, names, lambda: [*thing, *thing.values()])

    def _attributes(self, name: str, thing: Any) -> Iterator[tuple[str, Any]]:
        kind = thing.__class__  # also of what a `weakref.proxy` stands for
        if not (_is_users(kind) or _is_part(thing)):
            if _is_standard(kind):
                yield from self._note(name, ["a part"] * len(_as_pickled(thing)), lambda: _as_pickled(thing))
            return
        own = getattr(thing, "__dict__", {})
        label = own.get("name") or own.get("_name")
        name = f"{label} ({kind.__name__})" if isinstance(label, str) else kind.__name__
        but = PASSING_OF_MODELS if isinstance(thing, keras.Model) else PASSING if _is_part(thing) else set[str]()
        if but.isdisjoint(own):
            yield from self._note(name, own.keys(), own.values)
        else:
            yield from self._note(name, _but(own, but), lambda: _but(own, but).values())
        users = [base for base in kind.__mro__ if _is_users(base)]
        members = [(base, *item) for base in users for item in vars(base).items()]
        if slots := [slot for _, slot, member in members if isinstance(member, types.MemberDescriptorType)]:
            yield from self._note(name, slots, lambda: [getattr(thing, slot, None) for slot in slots])
        yield (kind.__name__, kind)

    def _class(self, thing: type) -> Iterator[tuple[str, Any]]:
        self._note(thing.__name__, vars(thing).keys(), vars(thing).values)
        for name, member in [*vars(thing).items()]:
            special = name.startswith("__") and name != "__init__"
            named = special or name in self.names
            if named or not isinstance(member, types.FunctionType) or member.__code__ in self.codes:
                yield f"{name} of {thing.__name__}", member
        yield from ((base.__name__, base) for base in (*thing.__mro__[1:], type(thing)))

    def _surroundings(self, function: types.FunctionType) -> Iterable[tuple[str, Any]]:
        """What a function of users' reads from around it, modules that it imports included."""
        around, cells = function.__globals__, function.__closure__ or ()
        names = sorted(_names(function.__code__))
        package = around.get("__package__")
        imported = {name for name in names for name in (name, f"{package}.{name}") if name in sys.modules}

        def read() -> list[Any]:
            own = function.__defaults__, function.__kwdefaults__, function.__dict__
            return [*map(around.get, names), *map(_inside, cells), *own]

        keys = [*names, *function.__code__.co_freevars, "defaults", "defaults", "attributes"]
        modules = [(name, sys.modules[name]) for name in imported]
        return [*self._note(f"{function.__name__}()", keys, read), *modules]

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
    if isinstance(thing, array.array):
        return _state_of(np.asarray(thing))
    if isinstance(thing, np.random.Generator):
        return lambda: [repr(thing.bit_generator.state)]
    if isinstance(thing, np.random.RandomState):
        return lambda: [part.tobytes() if isinstance(part, np.ndarray) else part for part in thing.get_state()]
    if isinstance(thing, random.Random) and not isinstance(thing, random.SystemRandom):
        return lambda: [repr(thing.getstate())]
    if isinstance(thing, torch.Generator):
        return lambda: [thing.get_state().numpy().tobytes()]
    if isinstance(thing, ContextVar):
        return lambda: [thing.get(None)]
    if isinstance(thing, (Iterator, random.SystemRandom)) and not isinstance(thing, io.IOBase):
        return None if type(thing) in weakref.ProxyTypes else lambda: [time.perf_counter()]  # nobody knows what is next
    return None


def _as_pickled(thing: Any) -> list[Any]:
    """What an object of the standard library's holds, as `pickle` would write it down."""
    try:
        _, arguments, *rest = thing.__reduce_ex__(4)
        return [*_flat((arguments, *rest[:1]))]
    except Exception:  # it cannot be, as a lock or a file
        return [*getattr(thing, "__dict__", {}).values()]


def _flat(thing: Any) -> Iterator[Any]:
    parts = [*thing, *thing.values()] if type(thing) is dict else thing if type(thing) is tuple else None
    yield from (thing,) if parts is None else (leaf for part in parts for leaf in _flat(part))


def _is_part(thing: Any) -> bool:
    """Whether an object is Keras's or torch's, or of a class that derives from theirs, and a step goes through it."""
    if isinstance(thing, (keras.KerasTensor, keras.callbacks.Callback)):
        return False
    return isinstance(thing, torch.nn.Module) or _is_keras(thing.__class__)


@functools.cache
def _is_keras(kind: type) -> bool:
    return any(base.__module__.startswith("keras.") for base in kind.__mro__)


@functools.cache
def _is_users(kind: type) -> bool:
    module = str(kind.__module__)
    for name in (module, module.partition(".")[0]):
        if file := getattr(sys.modules.get(name), "__file__", None):
            return not is_library(file)
    return not _is_standard(kind)


@functools.cache
def _is_standard(kind: type) -> bool:
    return str(kind.__module__).partition(".")[0] in sys.stdlib_module_names


def _names(code: types.CodeType) -> set[str]:
    """The names that a function reads, and texts in it that may be some."""
    texts = {part for part in code.co_consts if isinstance(part, str) and part.isidentifier()}
    parts = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return texts.union(code.co_names, *map(_names, parts))


def _but(items: Any, names: set[str]) -> dict[Any, Any]:
    return {key: value for key, value in items.items() if key not in names}


def _inside(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, PLAIN) and type(a) is type(b) and (a == b or a != a))
