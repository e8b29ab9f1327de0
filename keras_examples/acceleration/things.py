"""What one thing holds that a step may read: its state, its attributes as `pickle` would write them, its names."""

import array
import functools
import io
import random
import sys
import time
import types
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
import torch

from keras_examples.acceleration.internals import hooks
from keras_examples.acceleration.reasons import is_library

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, np.generic, np.dtype, slice)
LARGE = 1 << 20  # bytes of an array that are looked at; of a larger one so many, evenly spread


def state_of(thing: Any) -> Callable[[], list[Any]] | None:
    """What reads the state of a thing that is changed in place, in plain numbers and texts."""
    if isinstance(thing, torch.Tensor):
        if thing.layout is not torch.strided:
            return lambda: [thing._version, thing.requires_grad]
        return lambda: [thing.data_ptr(), thing.requires_grad, *thing.stride(), *hooks(thing)]
    if isinstance(thing, np.ndarray) and thing.dtype != object:
        step = -(-thing.nbytes // LARGE) or 1
        return lambda: [zlib.crc32(thing.reshape(-1)[::step].tobytes())]
    if isinstance(thing, array.array):
        return state_of(np.asarray(thing))
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


def as_pickled(thing: Any) -> list[Any]:
    """What an object of the standard library's holds, as `pickle` would write it down."""
    try:
        _, arguments, *rest = thing.__reduce_ex__(4)
        return [*_flat((arguments, *rest[:1]))]
    except Exception:  # it cannot be, as a lock or a file
        return [*getattr(thing, "__dict__", {}).values()]


def _flat(thing: Any) -> Iterator[Any]:
    parts = [*thing, *thing.values()] if type(thing) is dict else thing if type(thing) is tuple else None
    yield from (thing,) if parts is None else (leaf for part in parts for leaf in _flat(part))


def is_part(thing: Any) -> bool:
    """Whether an object is Keras's or torch's, or of a class that derives from theirs, and a step goes through it."""
    if isinstance(thing, (keras.KerasTensor, keras.callbacks.Callback)):
        return False
    return isinstance(thing, torch.nn.Module) or is_keras(thing.__class__)


@functools.cache
def is_keras(kind: type) -> bool:
    return any(base.__module__.startswith("keras.") for base in kind.__mro__)


@functools.cache
def is_users(kind: type) -> bool:
    module = str(kind.__module__)
    for name in (module, module.partition(".")[0]):
        if file := getattr(sys.modules.get(name), "__file__", None):
            return not is_library(file)
    return not is_standard(kind)


@functools.cache
def is_standard(kind: type) -> bool:
    return str(kind.__module__).partition(".")[0] in sys.stdlib_module_names


def names_in(code: types.CodeType) -> set[str]:
    """The names that a function reads, and texts in it that may be some."""
    texts = {part for part in code.co_consts if isinstance(part, str) and part.isidentifier()}
    parts = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return texts.union(code.co_names, *map(names_in, parts))


def without(items: Any, names: set[str]) -> dict[Any, Any]:
    return {key: value for key, value in items.items() if key not in names}


def inside(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, PLAIN) and type(a) is type(b) and (a == b or a != a))
