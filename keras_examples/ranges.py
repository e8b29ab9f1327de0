"""What the options of `fit` may be: `fit` and the command line refuse anything else.

Nothing heavy is imported.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin

from keras_examples.examples import EXAMPLES, Options


class Range(NamedTuple):
    """Numbers from `least` to `most`, as Click's ranges take them."""

    least: Any
    most: Any
    without_least: bool = False
    without_most: bool = False

    def __contains__(self, value: Any) -> bool:
        above = value > self.least if self.without_least else value >= self.least
        return above and (value < self.most if self.without_most else value <= self.most)

    def __str__(self) -> str:
        return f"{self.least}{'<' * self.without_least or '<='}x{'<' * self.without_most or '<='}{self.most}"


COUNT, SEED = Range(1, 10**9), Range(0, 2**32 - 1)
RANGES = dict.fromkeys(("epochs", "batch_size", "limit", "early_stopping"), COUNT) | {
    "seed": SEED,
    "learning_rate": Range(0, math.inf, True, True),
    "weight_decay": Range(0, math.inf, without_most=True),
    "clip_norm": Range(0, math.inf, without_most=True),
    "centre": Range(0, 1),
    "shift": Range(0, 16),
    "validation_split": Range(0, 1, without_most=True),
}
OF_SIZES = {int: Range(1, 65536), float: Range(0, 1, without_most=True)}  # arguments of builders, by their type
CHOICES = {
    "optimizer": ["sgd", "adam", "muon"],
    "data": ["auto", "real", "synthetic"],
    "precision": ["float32", "bfloat16"],
}
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
WORDS |= {tuple: "a list of whole numbers", list: "a list of whole numbers", dict: "a dictionary"}


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """The types that an annotation names, without what they contain: `(int, NoneType)` for `int | None`."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    return tuple(get_origin(one) or one for one in kinds)


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type, to which whole numbers are numbers too, but true and false are none."""
    return type(value) in _alternatives(kind) or (type(value) is int and float in _alternatives(kind))


def plain(value: Any) -> Any:
    """The same with Python's numbers and lists instead of NumPy's, which JSON does not take."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    return value.tolist() if hasattr(value, "tolist") else value


def check(options: Mapping[str, Any]) -> None:
    """Raises ValueError if options are of another type than the fields of `Options`, or out of their range.

    Sizes that no builder has are left to the builder.
    """
    for item in fields(Options):
        if item.name in options:
            allowed = RANGES.get(item.name) or CHOICES.get(item.name)
            _check(item.name, options[item.name], item.type, allowed)
    defaults = {name: size.default for row in EXAMPLES.values() for name, size in row.sizes.items()}
    for name, value in options.get("sizes", {}).items():
        if isinstance(default := defaults.get(name), tuple):
            _check(name, value, list | tuple, None)
            for part in value:
                _check(name, part, int, OF_SIZES[int])
        elif default is not None:
            _check(name, value, type(default), OF_SIZES[type(default)])


def _check(name: str, value: Any, kind: Any, allowed: Range | list[str] | None) -> None:
    if not fits(value, kind) or not (value is None or allowed is None or value in allowed):
        known = f"one of {', '.join(allowed)}" if isinstance(allowed, list) else WORDS[_alternatives(kind)[0]]
        limits = f", {allowed}" if isinstance(allowed, Range) else ""
        raise ValueError(f"Not a value of {name}. Received: {name}={value!r}. Give {known}{limits}.")
