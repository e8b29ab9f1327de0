"""A step runs once, as stock Keras runs it, while every operation that reaches torch's kernels is written down.

Nothing is refused on the way: the step goes on to its end, and what a recording cannot follow stands in its `reason`.
"""

import contextlib
import functools
import gc
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import CodeType
from typing import Any

import keras
import torch

from keras_examples.acceleration.internals import (
    TorchDispatchMode,
    WeakTensorKeyDictionary,
    aten,
    flop_registry,
    without_function_modes,
)
from keras_examples.acceleration.reasons import frames, whereabouts

Node = torch.fx.Node
Tag = torch.Tag
SEED = 0xFFFFFFFF  # of what Keras's seeds add up to so many bits count
KEPT = 1 << 20  # bytes of a tensor, up to which it is computed once and kept if it depends on literals alone

# What these return depends on the shapes of their arguments alone.
BY_SHAPE = set(
    "empty_like full_like new_empty new_empty_strided new_full new_ones new_zeros ones_like zeros_like".split()
)
NORMS = {"native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"}  # change running statistics, undeclared
READS_MEMORY = {"_pack_padded_sequence", "set_", "resize_"}  # or changes what a tensor is


class Tape:
    """What a function that is written down as one operation keeps for its gradients."""

    def __init__(self, *things: Any):
        self.things = things


class Recorder(TorchDispatchMode):
    """Writes down what happens inside it.

    A node's `meta` tells of its tensor: `val`, shape, type and strides; `root`, the node whose memory it shares;
    `literal`, whether it depends on nothing but literals, and then `value`. A placeholder is an input or `held`, a
    tensor from outside: a variable, a buffer or a literal.

    Args:
        inputs: The tensors of a batch.

    Attributes:
        reason: Why the recording cannot stand for the step, or "".
        written: Roots that are changed in place.
        before: Tensors from outside that are changed in place, each with a copy from before and whether it is an input.
        codes: The code of all functions that run, but for those that only compute with Python's numbers.
        work: Floating-point operations.
        rough: Whether numbers of low precision occur.
    """

    def __init__(self, inputs: Sequence[torch.Tensor]):
        super().__init__()
        self.graph, self.nodes = torch.fx.Graph(), WeakTensorKeyDictionary()
        self.outside: dict[int, list[Node]] = {}  # by storage
        self.written: set[Node] = set()
        self.before: list[tuple[torch.Tensor, torch.Tensor, bool]] = []
        self.codes: dict[int, CodeType] = {}  # by id, since to hash code takes longer than to run it
        self.reason, self.work, self.rough, self.paused = "", 0, False, False
        self.update: Callable[[], None] | None = None  # what the optimizer was called for, until the step is over
        self.updated: set[int] = set()  # storages that it will change
        self.opaque: set[Node] = set()  # nodes of tensors that nobody can make again
        self.seeds: dict[int, Node] = {}  # nodes of the seeds that Keras read out of a tensor
        self.objects: dict[Any, Node] = {}  # nodes of what is no tensor: generators that it made of them, and tapes
        self.on_cpu = all(tensor.device.type == "cpu" for tensor in inputs)
        for tensor in inputs:
            self._hold(tensor, is_input=True)

    def fail(self, reason: str) -> None:
        """Notes the first reason for which the recording cannot stand for the step; the rest of it is stock Keras's."""
        if not self.reason:
            self.reason = reason + whereabouts(frames(sys._getframe(1)))
            if self.update:
                self.update()

    def delay(self, update: Callable[[], None], variables: Iterable[keras.Variable]) -> None:
        """Keeps an update of variables until the step is over; reading one earlier is a reason to fail."""
        with without_function_modes():
            self.updated = {variable.value.untyped_storage()._cdata for variable in variables}
        self.update = update

    def call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls a function and writes it down as one operation, whatever it does; its results have no gradients."""
        self.paused = True
        result = function(*args, **kwargs)
        self._name(result, self.graph.call_function(function, *self._named((args, kwargs))), None, False)
        self.paused = False
        return result

    def is_literal(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor depends on nothing but literals."""
        return self._is_literal(self.node(tensor))

    def node(self, tensor: torch.Tensor) -> Node:
        """The node that stands for a tensor."""
        node = self.nodes.get(tensor)
        return self._hold(tensor) if node is None else node

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused or self.reason:
            return operation(*args, **kwargs)
        with without_function_modes():
            return self._write_down(operation, args, kwargs)

    def _write_down(self, operation: Any, args: Any, kwargs: Any) -> Any:
        if operation is aten.lift_fresh.default:
            return self._lift(operation(*args))
        if operation is aten.set_.source_Storage:
            return self._look(operation(*args))
        self.codes.update((id(frame.f_code), frame.f_code) for frame, _ in frames(sys._getframe(2)))
        tensors = list(flat((args, kwargs)))
        nodes = [self.node(tensor) for tensor in tensors]
        name, tags = operation._schema.name.partition("::")[2], operation.tags
        random = Tag.nondeterministic_seeded in tags
        literal = name in BY_SHAPE or (not random and all(map(self._is_literal, nodes)))
        if self.updated and any(node.meta["root"].meta.get("storage") in self.updated for node in nodes):
            self.fail("it reads weights after they were updated")
        elif not self.opaque.isdisjoint(nodes):
            self.fail("it computes with memory that was no tensor before")
        elif name in READS_MEMORY or (Tag.data_dependent_output in tags and not literal):
            self.fail("Python reads the values of a tensor")
        elif Tag.dynamic_output_shape in tags and not literal and _is_shaped_by_values(operation, args):
            self.fail(f"the shape that torch's {name} returns depends on values")
        if operation is aten._cudnn_rnn.default and args[3] is None and len(args[1]) == args[2]:
            args = (*args[:3], self._side_by_side(args[1]), *args[4:])
        written, shares = _effects(operation, name in NORMS and args[5])
        for place in written:
            for tensor in flat(args[place] if isinstance(place, int) else kwargs.get(place)):
                self._write(self.node(tensor).meta["root"])
        result = operation(*args, **kwargs)
        if self.reason or Tag.data_dependent_output in tags:
            return result
        if formula := flop_registry.get(operation.overloadpacket):
            self.work += formula(*args, **kwargs, out_val=result)
        node = self.graph.call_function(operation, *self._named((args, kwargs)))
        node.meta["impure"] = bool(written) or random or result is None  # what returns nothing checks something
        self._name(result, node, nodes[0].meta["root"] if shares and nodes else None, literal, tensors)
        return result

    def _is_literal(self, node: Node) -> bool:
        return node.meta["literal"] and node.meta["root"] not in self.written

    def _hold(self, tensor: torch.Tensor, is_input: bool = False) -> Node:
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout is not torch.strided:
            self.fail(f"it computes with a {type(tensor).__name__} of layout {tensor.layout}")
        with without_function_modes():
            node, storage = self.graph.placeholder(f"held_{len(self.graph.nodes)}"), tensor.untyped_storage()._cdata
            sharing = self.outside.setdefault(storage, [])
            sharing.append(node)
            held = tensor.detach() if tensor.requires_grad else tensor  # one made here counts its own changes
            node.meta |= {"held": held, "val": described(tensor), "storage": storage}
        node.meta |= {"root": sharing[0], "literal": False, "input": is_input}
        self.nodes[tensor] = node
        if sharing[0] in self.written:
            self.fail("it changes a tensor in place that shares its memory with another")
        return node

    def _lift(self, tensor: torch.Tensor) -> torch.Tensor:
        """Takes note of a literal, which becomes a tensor anew at each step."""
        if tensor not in self.nodes:
            literal = self._hold(tensor)
            literal.meta["literal"] = True
            if tensor.nbytes <= KEPT:  # it may be changed in place
                literal.meta["held"] = tensor.clone()
            self._name(tensor, self.graph.call_function(aten.clone.default, (literal,)), None, True)
        return tensor

    def _look(self, tensor: torch.Tensor) -> torch.Tensor:
        """Takes note of a tensor made of bare memory, as cuDNN does to see whether weights lie side by side."""
        if tensor.untyped_storage()._cdata in self.outside:
            self._hold(tensor)
        else:
            self.opaque.add(self.node(tensor))
        return tensor

    def _side_by_side(self, weights: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """Joins one layer's weights, as cuDNN would itself, with a warning each time."""
        if not all(map(torch.Tensor.is_contiguous, weights)):
            return None
        vectors = [self._write_down(aten.view.default, (weight, [-1]), {}) for weight in weights]
        return self._write_down(aten.cat.default, (vectors,), {})

    def _write(self, root: Node) -> None:
        if root.op == "placeholder" and root not in self.written:
            if len(self.outside[root.meta["storage"]]) > 1:
                self.fail("it changes a tensor in place that shares its memory with another")
            self.before.append((root.meta["held"], root.meta["held"].clone(), root.meta["input"]))
        self.written.add(root)

    def _named(self, argument: Any) -> Any:
        """Arguments with nodes in the place of tensors."""
        if isinstance(argument, torch.Tensor):
            return self.node(argument)
        if isinstance(argument, (tuple, list)):
            return type(argument)([self._named(part) for part in argument]) if argument else argument
        if isinstance(argument, dict):
            return {name: self._named(part) for name, part in argument.items()}
        if isinstance(argument, torch.Generator) and argument is not torch.default_generator:
            return self._generator(argument)
        return self.objects[argument] if isinstance(argument, Tape) else argument

    def read_seed(self, seed: torch.Tensor) -> int:
        """Reads a seed that Keras is about to make a generator of, as each replay will."""
        self.paused = True
        number = int(seed)
        self.paused = False
        self.seeds[number & SEED] = self.node(seed)
        return number

    def _generator(self, generator: torch.Generator) -> Node | None:
        if generator not in self.objects:
            if generator.initial_seed() not in self.seeds:
                self.fail("it draws from a torch.Generator of its own")
                return None
            seed = self.seeds[generator.initial_seed()]
            self.objects[generator] = self.graph.call_function(seeded, (seed, generator.device))
        return self.objects[generator]

    def _name(self, result: Any, node: Node, root: Node | None, literal: bool, old: Sequence[Any] = ()) -> None:
        """Notes which nodes stand for results; those that were changed in place have theirs."""
        if isinstance(result, torch.Tensor) and not any(result is tensor for tensor in old):
            node.meta |= {"val": described(result), "root": root or node, "literal": literal}
            self.rough = self.rough or result.dtype in (torch.float16, torch.bfloat16)
            if literal and result.untyped_storage().nbytes() <= KEPT:
                node.meta["value"] = result.detach()
            self.nodes[result] = node
        elif isinstance(result, (tuple, list)):
            node.meta |= {"val": None, "root": root or node, "literal": literal}
            for i, part in enumerate(result):
                if isinstance(part, (torch.Tensor, tuple, list)):
                    self._name(part, self.graph.call_function(operator.getitem, (node, i)), root, literal, old)
                elif isinstance(part, Tape):
                    self.objects[part] = self.graph.call_function(operator.getitem, (node, i))


@contextlib.contextmanager
def sparing_the_collector() -> Iterator[None]:
    """Has the garbage collector look through what is made meanwhile, and not each time through all of Keras and torch.

    A large model's first step, where thousands of operations are written down, takes a seventh less.
    """
    if gc.get_freeze_count():  # somebody did so already
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@functools.cache
def _effects(operation: Any, changes_statistics: bool) -> tuple[list[int | str], bool]:
    """Which arguments an operation changes in place, and whether its results share the memory of the first."""
    written: list[int | str] = [3, 4] if changes_statistics else []
    for place, argument in enumerate(operation._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written.append(argument.name if argument.kwarg_only else place)
    views = any(r.alias_info is not None and not r.alias_info.is_write for r in operation._schema.returns)
    return written, views or operation is aten._unsafe_view.default


def seeded(seed: torch.Tensor, device: torch.device) -> torch.Generator:
    """The generator that Keras makes of a seed, of shape ()."""
    return torch.Generator(device).manual_seed(int(seed) & SEED)


def _is_shaped_by_values(operation: Any, args: Any) -> bool:
    if operation is aten.index.Tensor:
        return any(index.dtype in (torch.bool, torch.uint8) for index in flat(args[1]))
    return operation is not aten._ctc_loss.Tensor  # its loss is not, only what its gradient takes


def flat(argument: Any) -> Iterator[torch.Tensor]:
    """The tensors among nested arguments."""
    if isinstance(argument, torch.Tensor):
        yield argument
    elif isinstance(argument, (tuple, list, dict)):
        for part in argument.values() if isinstance(argument, dict) else argument:
            yield from flat(part)


def described(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape, type and strides, without memory."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
