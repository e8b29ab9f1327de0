"""torch's LSTM kernel on CPU, with the batch in parts and the parts on threads.

The kernel shares out each of its small matrix products among all threads, which wait for each other hundreds of times a
step. A few samples on a thread of their own never wait, and what they compute stays in a core's own cache.
"""

import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

PART = 32  # bytes of a state over the samples of a part: 8 of float32, 16 of bfloat16
WIDEST = 256  # units, above which the weights alone fill the cache, and parts gain nothing

_kernel = torch.ops.aten.mkldnn_rnn_layer.default
_backward_kernel = torch.ops.aten.mkldnn_rnn_layer_backward.default


def in_parts(graph: torch.fx.Graph) -> None:
    """Has the LSTM layers of a recorded step take their batch in parts: 0.7 to 0.8 of the time."""
    for kernel, of_parts in ((_kernel, _lstm), (_backward_kernel, _lstm_backward)):
        for node in graph.find_nodes(op="call_function", target=kernel):
            inputs, hidden = node.args[0].meta["val"], node.args[5].meta["val"]
            if inputs.shape[1] > _samples(inputs) and hidden.shape[-1] <= WIDEST:
                node.target = of_parts


def _samples(x: torch.Tensor) -> int:
    return PART // x.element_size()


def _lstm(x: torch.Tensor, *others: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]:
    """The kernel's arguments and results; the last one is what `_lstm_backward` needs of each part."""
    weights, states, settings = others[:4], others[4:6], others[6:]
    samples = _samples(x)

    def run(x: torch.Tensor, *states: torch.Tensor) -> Any:
        x = x.contiguous()
        return x, states, _kernel(x, *weights, *states, *settings)

    parts = _on_threads(run, zip(x.split(samples, 1), *(state.split(samples) for state in states)))
    outputs, hidden, carry, _ = zip(*(results for _, _, results in parts))
    return torch.cat(outputs, 1), torch.cat(hidden), torch.cat(carry), parts


def _lstm_backward(*arguments: Any) -> list[torch.Tensor]:
    """The backward kernel's arguments and results."""
    weights, gradients, settings, parts = arguments[1:5], arguments[10:13], arguments[13:-1], arguments[-1]
    samples = _samples(arguments[0])

    def run(part: Any, *gradients: torch.Tensor | None) -> Any:
        x, states, (*results, workspace) = part
        given = [gradient if gradient is None else gradient.contiguous() for gradient in gradients]
        return _backward_kernel(x, *weights, *states, *results, *given, *settings, workspace)

    outputs, *states = gradients
    shares = [[None] * len(parts) if outputs is None else outputs.split(samples, 1)]
    shares += [[None] * len(parts) if state is None else state.split(samples) for state in states]
    results = list(zip(*_on_threads(run, zip(parts, *shares))))
    # Gradients of inputs and states belong to their samples, those of weights and biases add up.
    return [
        torch.cat(results[0], 1),
        *(functools.reduce(torch.Tensor.add_, shares) for shares in results[1:5]),
        *(torch.cat(shares) for shares in results[5:]),
    ]


def _on_threads(function: Callable[..., Any], parts: Iterable[tuple[Any, ...]]) -> list[Any]:
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()

    def run(part: tuple[Any, ...]) -> Any:
        with torch.set_grad_enabled(gradients):
            return function(*part)

    torch.set_num_threads(1)
    try:
        return list(_pool(threads).map(run, parts))
    finally:
        torch.set_num_threads(threads)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "lstm", initializer=torch.set_num_threads, initargs=(1,))
