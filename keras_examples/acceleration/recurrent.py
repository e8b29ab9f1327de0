"""torch's LSTM kernel on CPU, with the batch in parts and the parts on threads.

The kernel shares out each of its small matrix products among all threads, which wait for each other hundreds of times a
step. A few samples on a thread of their own never wait, and what they compute stays in a core's own cache.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from keras_examples.acceleration.internals import lstm_backward_kernel, lstm_kernel, set_threads

PART = 32  # bytes of a state over the samples of a part: 8 of float32, 16 of bfloat16
WIDEST = 256  # units, above which the weights alone fill the cache, and parts gain nothing
# Steps of time and numbers in a layer's outputs, below which the whole is faster, up to twice.
LONG, LARGE = 100, 1_400_000


def in_parts(graph: torch.fx.Graph, written: set[torch.fx.Node]) -> None:
    """Has the LSTM layers of a recorded step take their batch in parts: 0.7 to 0.9 of the time."""
    for kernel, of_parts in ((lstm_kernel, _lstm), (lstm_backward_kernel, _lstm_backward)):
        for node in graph.find_nodes(op="call_function", target=kernel):
            inputs, hidden = node.args[0].meta["val"], node.args[5].meta["val"]
            (steps, samples, _), units = inputs.shape, hidden.shape[-1]
            large = steps >= LONG and steps * samples * units >= LARGE
            if large and samples > _samples(inputs) and units <= WIDEST:
                node.target = of_parts


def _samples(x: torch.Tensor) -> int:
    return PART // x.element_size()


def _lstm(x: torch.Tensor, *others: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]:
    """The kernel's arguments and results; the last is a tuple of what it notes for the backward one, part by part."""
    weights, states, settings = others[:4], others[4:6], others[6:]

    def run(x: torch.Tensor, *states: torch.Tensor) -> Any:
        return lstm_kernel(x, *weights, *states, *settings)

    outputs, hidden, carry, notes = zip(*_on_threads(run, _split(x, *states)))
    return _joined(outputs), _joined(hidden), _joined(carry), notes


def _lstm_backward(x: torch.Tensor, *others: Any) -> list[torch.Tensor]:
    """The backward kernel's arguments and results."""
    weights, tensors, settings, notes = others[:4], others[4:12], others[12:-1], others[-1]

    def run(x: torch.Tensor, *tensors: Any) -> Any:
        return lstm_backward_kernel(x, *weights, *tensors[:-1], *settings, tensors[-1])

    shares = ((*part, note) for part, note in zip(_split(x, *tensors), notes))
    inputs, *of_weights, hidden, carry = zip(*_on_threads(run, shares))
    # Gradients of inputs and states belong to their samples, those of weights and biases add up.
    sums = [functools.reduce(torch.Tensor.add_, parts) for parts in of_weights]
    return [_joined(inputs), *sums, _joined(hidden), _joined(carry)]


def _split(*tensors: torch.Tensor | None) -> Iterable[tuple[Any, ...]]:
    """The tensors of each part: all have the batch as the last axis but one."""
    samples = _samples(next(tensor for tensor in tensors if tensor is not None))
    return zip(*(itertools.repeat(None) if tensor is None else tensor.split(samples, -2) for tensor in tensors))


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(tuple(parts), -2)


def _on_threads(function: Callable[..., Any], parts: Iterable[tuple[Any, ...]]) -> list[Any]:
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()

    def run(part: tuple[Any, ...]) -> Any:
        set_threads(1)
        with torch.set_grad_enabled(gradients):
            return function(*(value if value is None else value.contiguous() for value in part))

    try:
        return list(_pool(threads).map(run, parts))
    finally:
        set_threads(threads)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "lstm")
