"""What a step reads besides the values of tensors: which tensors, and plain attributes of all that it goes through."""

import functools
import gc
import operator
import os
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat, zip_longest
from typing import Any

import keras
import torch

from keras_examples.acceleration.internals import get_global_attribute, modes, module_hooks
from keras_examples.acceleration.reasons import is_library
from keras_examples.acceleration.things import (
    PLAIN,
    as_pickled,
    inside,
    is_keras,
    is_part,
    is_standard,
    is_users,
    names_in,
    same,
    state_of,
    without,
)

LONG = 20_000  # items of a container, above which nobody looks into it
MOST = 50_000  # things that are looked at
MANY = 10_000  # changes, in all states that are kept apart, after which it begins anew
MISSING = object()

# Attributes that Keras's own steps, loops and bookkeeping change, or that only describe a finished model.
PASSING = set(
    "_losses _loss_ids _called _call_context_args _inbound_nodes _outbound_nodes _lock training _accelerated "
    "_compiled_trainable_state _compile_config _torch_params _auto_config _tracker _call_signature _nodes "
    "_nodes_by_depth _operations_by_depth _exclude_from_weight_decay_cache".split()
)
PASSING_OF_MODELS = PASSING.union(
    "history stop_training stop_evaluating stop_predicting _eval_epoch_iterator _initial_epoch reset_metrics compile "
    "fit evaluate train_on_batch test_on_batch train_function test_function predict_function make_train_function "
    "make_test_function make_predict_function".split()
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
        version: The number of the state that was found; one that was there before may have its number again.
        users: The code of users' functions that a step runs.
        has_users: Whether the walk came by classes, functions or modules of users'.
    """

    def __init__(self, model: keras.Model):
        self.model, self.lock = model, threading.RLock()
        self.begun = self.version = self.versions = 0
        self.codes: set[types.CodeType] = set()  # of functions that a step runs: what users' read around them counts
        self.lost: dict[types.CodeType, list[Any]] = {}  # those functions to which no attribute leads
        self._walk()

    def know(self, codes: set[types.CodeType]) -> None:
        """Adds functions that a step runs."""
        new = codes - self.codes
        self.codes |= new
        if new and (self.has_users or not all(is_library(code.co_filename) for code in new)):
            self._walk()

    def look(self) -> str:
        """Looks again, and says what has changed, or "" if nothing has."""
        with self.lock:
            changed = ""
            for place, (names, read, were) in enumerate(self.found):
                now = [*read()]
                if len(now) == len(were) and all(map(operator.is_, now, were)):
                    continue  # as nearly always
                differs = [at for at, pair in enumerate(zip_longest(now, were, fillvalue=MISSING)) if not same(*pair)]
                things = [one for at in differs for some in (now, were) for one in some[at : at + 1]]
                if not all(isinstance(thing, PLAIN) for thing in things):
                    self.version = self.versions = self.versions + 1
                    self._walk()
                    return self._called(names, differs[0])
                for at in differs:
                    changed = changed or self._called(names, at)
                    self.first.setdefault((place, at), repr(were[at : at + 1]))
                    self.last[place, at] = repr(now[at : at + 1])
                were[:] = now
            if changed:
                state = frozenset(self.last.items() - self.first.items())
                self.versions += state not in self.states
                self.version = self.states.setdefault(state, self.versions)
                if len(self.states) * len(self.last) > MANY:
                    self._walk()
            return changed

    @staticmethod
    def _called(names: list[str], at: int) -> str:
        return names[at] if at < len(names) else f"the number of things like {names[0]}" if names else "a container"

    def _walk(self) -> None:
        known = None
        while known != len(self.codes):  # a function that is found may read what was passed by
            known = len(self.codes)
            self.names = set().union(*map(names_in, self.codes))
            self.found: list[tuple[list[str], Callable[[], Iterable[Any]], list[Any]]] = []
            self.first: dict[tuple[int, int], str] = {}  # plain things that have changed since: what they were
            self.last: dict[tuple[int, int], str] = {}  # and what they are
            self.states = {frozenset[Any](): self.version}
            seen: dict[int, Any] = {}
            self.has_users = False
            settings = self._note("Keras and torch", repeat("a setting"), _settings)
            environment = [("os.environ", os.environ)] * (not self.names.isdisjoint(("environ", "getenv")))
            self._walk_from([("the model", self.model), *settings, *environment], seen)
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
        if isinstance(thing, CONTAINERS) and not is_users(type(thing)):
            return self._items(name, thing)
        if state := state_of(thing):
            return self._note(name, ["the state"], state)
        if isinstance(thing, weakref.ref):
            return [*self._note(name, ["what is referred to"], lambda: [id(thing())]), (name, thing())]
        if isinstance(thing, types.ModuleType):
            if is_library(getattr(thing, "__file__", None) or "<frozen"):
                return ()
            chosen = sorted(self.names & vars(thing).keys())
            self.has_users = True
            return self._note(name, chosen, lambda: map(vars(thing).get, chosen))
        if isinstance(thing, types.FunctionType):
            if is_library(thing.__code__.co_filename):  # which may call one of users', as `torch.no_grad()` does
                return [(name, inside(cell)) for cell in thing.__closure__ or ()]
            return self._surroundings(thing)
        if isinstance(thing, CALLING):
            return [(name, getattr(thing, called, None)) for called in CALLED]
        if isinstance(thing, type):
            return self._class(thing) if is_users(thing) or is_keras(thing) else ()
        items = self._items(name, thing) if isinstance(thing, CONTAINERS) else ()
        return [*items, *self._attributes(name, thing)]

    def _items(self, name: str, thing: Any) -> Iterable[tuple[str, Any]]:
        if len(thing) > LONG:
            return ()
        if not isinstance(thing, CONTAINERS[:2]):
            return self._note(name, range(len(thing)), thing.__iter__)
        keys = [*without(thing, MADE_ANEW)]
        names = [*("a key" for _ in keys), *keys]
        if len(keys) < len(thing):
            return self._note(name, names, lambda: [*(own := without(thing, MADE_ANEW)), *own.values()])
        return self._note(name, names, lambda: [*thing, *thing.values()])

    def _attributes(self, name: str, thing: Any) -> Iterator[tuple[str, Any]]:
        kind = thing.__class__  # also of what a `weakref.proxy` stands for
        if not (is_users(kind) or is_part(thing)):
            if is_standard(kind):
                yield from self._note(name, (), lambda: as_pickled(thing))
            return
        own = getattr(thing, "__dict__", {})
        label = own.get("name") or own.get("_name")
        name = f"{label} ({kind.__name__})" if isinstance(label, str) else kind.__name__
        passing = PASSING_OF_MODELS if isinstance(thing, keras.Model) else PASSING if is_part(thing) else set[str]()
        if passing.isdisjoint(own):
            yield from self._note(name, ("class", *own), lambda: (thing.__class__, *own.values()))
        else:
            keys = ("class", *without(own, passing))
            yield from self._note(name, keys, lambda: (thing.__class__, *without(own, passing).values()))
        users = [base for base in kind.__mro__ if is_users(base)]
        members = [item for base in users for item in vars(base).items()]
        if slots := [name for name, member in members if isinstance(member, types.MemberDescriptorType)]:
            yield from self._note(name, slots, lambda: [getattr(thing, slot, None) for slot in slots])

    def _class(self, thing: type) -> Iterator[tuple[str, Any]]:
        self._note(thing.__name__, vars(thing).keys(), vars(thing).values)
        self.has_users = self.has_users or is_users(thing)
        for name, member in [*vars(thing).items()] if is_users(thing) else ():  # Keras's own are only looked at
            named = name in self.names or (name.startswith("__") and name != "__init__")
            if named or not isinstance(member, types.FunctionType) or member.__code__ in self.codes:
                yield f"{name} of {thing.__name__}", member
        yield from ((base.__name__, base) for base in (*thing.__mro__[1:], type(thing)))

    def _surroundings(self, function: types.FunctionType) -> Iterable[tuple[str, Any]]:
        """What a function of users' reads from around it, modules that it imports included."""
        around, cells = function.__globals__, function.__closure__ or ()
        names = sorted(names_in(function.__code__))
        package = around.get("__package__")
        imported = {full for name in names for full in (name, f"{package}.{name}") if full in sys.modules}
        self.codes.add(function.__code__)
        self.has_users = True

        def read() -> list[Any]:
            own = function.__defaults__, function.__kwdefaults__, function.__dict__
            return [*map(around.get, names), *map(inside, cells), *own]

        keys = [*names, *function.__code__.co_freevars, "defaults", "defaults", "attributes"]
        modules = [(name, sys.modules[name]) for name in imported]
        return [*self._note(f"{function.__name__}()", keys, read), *modules]

    def _note(self, name: str, keys: Iterable[Any], read: Callable[[], Iterable[Any]]) -> Iterable[tuple[str, Any]]:
        were = [*read()]
        names = [f"{key} of {name}" for key, _ in zip(chain(keys, repeat("a part")), were)]
        self.found.append((names, read, were))
        return zip(names, were)


def _settings() -> list[Any]:
    casts = [
        setting
        for kind in ("cpu", "cuda")
        for setting in (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
    ]
    of_keras = keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format()
    return [get_global_attribute("global_seed_generator"), *of_keras, *casts, *modes(), *module_hooks()]
