"""Which tensors of a file belong to which layer, and the sizes of the model that follow from their shapes.

Names differ from program to program. Where they are none of those known, a file is read if its shapes leave one
assignment of its tensors to the layers, or if the numbers in the names leave one of several.
"""

import functools
import inspect
import os
import random
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np

from keras_examples import models
from keras_examples.examples import EXAMPLES
from keras_examples.weights.layouts import Layer, channels_last, from_foreign, layers_of, names_of

MOST = 32  # layers that repeat
PRIMES = [number for number in range(101, 360) if all(number % divisor for divisor in range(2, 19))]
TRIES = 1000  # steps of a search, which takes one a layer where names give the order
# The last word of a name that says which of its layer's tensors one is.
WORD = re.compile(r"^(.*)(?<![a-z])(?:weights?|bias(?:es)?|kernels?|w|b)(?:_ih|_hh)?(?![a-z])", re.IGNORECASE)
NUMBER = re.compile(r"_*([0-9]{1,18})")
REPEATED = re.compile(r"^(.*?)(?:__([0-9]{1,18}))?$")  # tch-rs puts a number behind a name that is taken
REMEDY = "Number the names in the order of the layers."

Known = Mapping[Any, int]  # sizes by name, or by name and place where there are several
Way = tuple[list[int], Known]  # which group of tensors each layer is, and the sizes then


class Open(NamedTuple):
    """A dimension that is `factor` times a size, under the key that it has in `Known`."""

    size: Any
    factor: int

    def __repr__(self) -> str:
        return "?"


class Group(NamedTuple):
    """The tensors of a layer, kernels first, with the words and the numbers that their names have in common."""

    words: str
    numbers: tuple[int, ...]
    names: list[str]


def recognise(example: str, tensors: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], dict[str, Any], str]:
    """Finds out which tensors are which arrays of an example's model.

    Returns the arrays as Keras has them, in order, the arguments of the builder that follow from their shapes, and what
    was taken for what, if the names did not say so. ValueError says what is wrong and, unless that is another
    architecture, what to do about it.
    """
    builder, foreign = EXAMPLES[example].builder, not any(name.startswith("layers/") for name in tensors)
    namings = ("candle", "tch") if foreign else ("keras",)
    first, *others = names_of(outline(example), namings[0], builder) or [[""]]
    count = max(1 + (len(tensors) - len(first) - sum(map(len, others))) // len(first), "layers" in _defaults(example))
    if count > MOST:
        raise ValueError(f"it has more than {MOST} layers of a kind", "Use fewer.")
    layers = outline(example, count)
    prefix = len(os.path.commonprefix([name.split(".")[:-1] for name in tensors]))  # noqa: RUF071
    bare = {name.split(".", prefix)[-1]: name for name in tensors}
    known = [names_of(layers, naming, builder) for naming in namings]
    known = [names for names in known if sorted(chain(*names)) == sorted(bare)]
    groups = _grouped(tensors)
    if known:
        groups = [Group("", (place,), [bare[name] for name in names]) for place, names in enumerate(known[0])]
    arrays = [[tensors[name] for name in group.names] for group in groups]
    arrays = [*map(from_foreign, arrays)] if foreign else arrays
    order, sizes = _way(layers, groups, [[array.shape for array in group] for group in arrays])
    arrays = [arrays[group] for group in order]
    arrays = [*map(channels_last, layers, arrays)] if foreign else arrays
    folders = [names[0].split("/")[1] for names in names_of(layers, "keras", builder)]
    note = "" if known else _cut([f"{groups[group].names[0]} as {folder}" for group, folder in zip(order, folders)])
    return [*chain(*arrays)], _arguments(example, count, sizes), note


@functools.cache
def outline(example: str, count: int = 1) -> list[Layer]:
    """The layers of an example's model that have weights, with `count` of the first; what sizes decide is left open.

    The first layer repeats, once for each number in a tuple of sizes, or as often as an argument `layers` says. Where
    sizes turn up is seen by building the model with a prime for each.
    """
    keys: list[Any] = []
    for name, default in _defaults(example).items():
        if isinstance(default, tuple):
            keys += [(name, place) for place in range(count)]
        elif name != "layers" and (default is inspect.Parameter.empty or type(default) is int):
            keys.append(name)
    sizes = dict(zip(keys, PRIMES))

    def dimension(length: int) -> int | Open:
        return next((Open(key, length // prime) for key, prime in sizes.items() if length % prime == 0), length)

    state = random.getstate()
    layers = layers_of(models.build(example, _arguments(example, count, sizes)))
    random.setstate(state)  # Keras's initializers draw their seeds from it
    return [layer._replace(shapes=tuple(tuple(map(dimension, shape)) for shape in layer.shapes)) for layer in layers]


def _defaults(example: str) -> dict[str, Any]:
    """The arguments of an example's builder, with their defaults."""
    parameters = inspect.signature(getattr(models, EXAMPLES[example].builder)).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def _arguments(example: str, count: int, known: Known) -> dict[str, Any]:
    """Sizes as the builder takes them."""
    arguments: dict[str, Any] = {}
    for name, default in _defaults(example).items():
        if isinstance(default, tuple):
            arguments[name] = [known[name, place] for place in range(count)]
        elif name == "layers" or name in known:
            arguments[name] = known.get(name, count)
    return arguments


def _grouped(tensors: Mapping[str, np.ndarray]) -> list[Group]:
    """Puts the tensors together whose names differ in the last word only."""
    repeated, groups = defaultdict(list), defaultdict(list)
    for name in sorted(tensors, key=lambda name: (tensors[name].ndim == 1, "hh" in name)):
        base, number = REPEATED.findall(name)[0]
        repeated[base].append((int(number or -1), name))
    for base, names in repeated.items():
        for rank, (_, name) in enumerate(sorted(names)):
            numbers = (rank, *map(int, NUMBER.findall(base)))
            groups[NUMBER.sub("", WORD.sub(r"\1", base)), numbers].append(name)
    return [Group(*key, names) for key, names in groups.items()]


def _way(layers: Sequence[Layer], groups: Sequence[Group], shapes: Sequence[Any]) -> Way:
    """Takes groups of tensors of these shapes for layers, in the one way there is.

    Groups of the same words follow their numbers or, if that cannot be, those of them that also have the same shapes.
    """
    for alike in [group.words for group in groups], [f"{group.words} {shape}" for group, shape in zip(groups, shapes)]:
        queues = defaultdict(list)
        for place in sorted(range(len(groups)), key=lambda place: groups[place].numbers):
            queues[alike[place]].append(place)
        ways = [*islice(_ways(layers, shapes, queues.values()), 2)] if len(layers) == len(groups) else []
        if len(ways) > 1:
            one, other = next(pair for pair in zip(ways[0][0], ways[1][0]) if pair[0] != pair[1])
            raise ValueError(f"{groups[one].names[0]} and {groups[other].names[0]} could change places", REMEDY)
        if ways:
            return ways[0]
    expected = [f"{layer.kind} {' '.join(map(str, layer.shapes))}" for layer in layers]
    found = [f"{group.names[0]} {' '.join(map(str, shape))}" for group, shape in zip(groups, shapes)]
    raise ValueError(f"its layers are {_cut(expected)}, and in the file are {_cut(found)}")


def _ways(layers: Sequence[Layer], shapes: Sequence[Any], queues: Collection[Sequence[int]]) -> Iterator[Way]:
    """All ways, each queue of groups from its front."""
    begun: list[Way] = [([], {})]
    for _ in range(TRIES):
        if not begun:
            return
        taken, known = begun.pop()
        if len(taken) == len(layers):
            yield taken, known
            continue
        for queue in queues:
            group = next((group for group in queue if group not in taken), None)
            if group is not None and (more := _fitted(layers[len(taken)].shapes, shapes[group], known)) is not None:
                begun.append(([*taken, group], more))
    raise ValueError("there are too many ways to assign its tensors", REMEDY)


def _fitted(expected: Sequence[Sequence[int | Open]], found: Sequence[Sequence[int]], known: Known) -> Known | None:
    """The sizes that are known once a layer's arrays have these shapes; None if they cannot have them."""
    if [*map(len, expected)] != [*map(len, found)]:
        return None
    known = dict(known)
    for dimension, length in zip(chain(*expected), chain(*found)):
        if isinstance(dimension, Open):
            size, rest = divmod(length, dimension.factor)
            if rest or known.setdefault(dimension.size, size) != size:
                return None
        elif dimension != length:
            return None
    return known


def _cut(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "") or "nothing"
