"""Keras's recurrent layers by torch's own kernels while a step is recorded, instead of a Python loop over time."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import torch
from torch.autograd.function import once_differentiable

from keras_examples.acceleration.recording import Recorder, Tape

tanh, sigmoid, relu = keras.activations.tanh, keras.activations.sigmoid, keras.activations.relu
layers = keras.layers
CELLS: dict[Any, type] = {
    layers.LSTM: layers.LSTMCell,
    layers.GRU: layers.GRUCell,
    layers.SimpleRNN: layers.SimpleRNNCell,
}


def recurrent_layers(model: keras.Model) -> Iterator[Any]:
    """The layers of a model that run Keras's own loop over Keras's own cells."""
    for layer in model._flatten_layers():
        kind = next((kind for kind in CELLS if isinstance(layer, kind)), None)
        if kind and type(layer).inner_loop is kind.inner_loop and type(layer.cell) is CELLS[kind]:
            yield layer


def by_kernel(
    recorder: Recorder, layer: Any, sequences: torch.Tensor, initial_state: Any, mask: Any, training: bool = False
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """What `layer.inner_loop` does, by a kernel wherever that is the same function."""
    mask = mask[0] if isinstance(mask, (list, tuple)) else mask
    if not _suits(layer, sequences, mask, training):
        return type(layer).inner_loop(layer, sequences, initial_state, mask, training)
    states = keras.tree.flatten(initial_state)
    if training and layer.dropout:
        sequences = sequences * layer.cell.get_dropout_mask(sequences[:, 0, :])[:, None]
    if layer.stateful:
        states = [state.clone() for state in states]  # which are assigned before the backward pass reads them
    sequences = sequences.to(layer.cell.kernel.value.dtype)
    if layer.go_backwards:
        sequences, mask = sequences.flip(1), mask if mask is None else mask.flip(1)
    if mask is not None:  # the steps that count move to the front, which changes nothing for them
        order = torch.argsort(mask.logical_not().to(torch.int8), dim=1, stable=True)
        sequences = sequences.gather(1, order[..., None].expand_as(sequences))
    outputs, *states = _kernel(recorder, layer, sequences, states)
    if mask is not None:  # and a step that does not count repeats the last that did
        places = mask.cumsum(1)[..., None] - 1
        repeated = outputs.gather(1, places.clamp(min=0).expand_as(outputs))
        counts = mask[..., None] if layer.zero_output_for_mask else places >= 0
        outputs = torch.where(counts, repeated, torch.zeros_like(repeated))
    last = outputs[:, -1]
    return last, outputs if layer.return_sequences else last[:, None], states


def _suits(layer: Any, sequences: torch.Tensor, mask: Any, training: bool) -> bool:
    gates = getattr(layer, "recurrent_activation", sigmoid)
    return (
        sequences.device.type == "cpu"  # elsewhere Keras has torch's kernels itself
        and sequences.shape[1] > 0
        and layer.activation in ((tanh, relu) if isinstance(layer, layers.SimpleRNN) else (tanh,))
        and gates is sigmoid
        and getattr(layer.cell, "reset_after", True)
        and not (training and layer.recurrent_dropout)
        and not (mask is not None and (layer.stateful or layer.return_state))
    )


def _kernel(recorder: Recorder, layer: Any, sequences: torch.Tensor, states: Sequence[torch.Tensor]) -> Any:
    """Outputs, (samples, steps, units), and the last states, (samples, units)."""
    cell, bias = layer.cell, layer.cell.bias
    weights = [cell.kernel.value.T, cell.recurrent_kernel.value.T]
    if isinstance(layer, layers.LSTM):  # both order the gates i, f, c, o; torch has two biases, which it adds up
        biases = [] if bias is None else [bias.value, torch.zeros_like(bias.value)]
        return _flat(torch.lstm(sequences, *_settings(states, [*weights, *biases])))
    if isinstance(layer, layers.GRU):  # Keras orders the gates z, r, h, torch r, z, h
        weights += [] if bias is None else [*bias.value]
        weights = [torch.cat([part.chunk(3)[gate] for gate in (1, 0, 2)]) for part in weights]
        name = "gru"
    else:
        weights += [] if bias is None else [bias.value, torch.zeros_like(bias.value)]
        name = "rnn_tanh" if layer.activation is tanh else "rnn_relu"
    recorder.work += 6 * sequences.shape[0] * sequences.shape[1] * sum(map(torch.numel, weights[:2]))
    return _Whole.apply(recorder, name, sequences, *states, *(weight.contiguous() for weight in weights))


def _settings(states: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> Sequence[Any]:
    """What torch's recurrent functions take after the sequences."""
    first = tuple(state[None] for state in states)
    has_biases, train = len(weights) > 2, torch.is_grad_enabled()
    state = first if len(first) > 1 else first[0]
    return state, [weight.contiguous() for weight in weights], has_biases, 1, 0.0, train, False, True


def _flat(results: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    outputs, *states = results
    return [outputs, *(state[0] for state in states)]


class _Whole(torch.autograd.Function):
    """One of torch's recurrent functions, written down as one operation, and its gradients as another."""

    @staticmethod
    def forward(ctx: Any, recorder: Recorder, name: str, *tensors: torch.Tensor) -> Any:
        ctx.recorder = recorder
        results, ctx.tape = recorder.call(_forwards, (name, ctx.needs_input_grad[2:], *tensors), {})
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return None, None, *ctx.recorder.call(_backwards, (ctx.tape, *gradients), {})


def _forwards(
    name: str, needed: Sequence[bool], sequences: torch.Tensor, state: torch.Tensor, *weights: torch.Tensor
) -> tuple[Any, Tape]:
    given = [tensor.detach().requires_grad_(need) for tensor, need in zip((sequences, state, *weights), needed)]
    with torch.set_grad_enabled(any(needed)):
        results = _flat(getattr(torch, name)(given[0], *_settings(given[1:2], given[2:])))
    return [result.detach() for result in results], Tape(given, results)


def _backwards(tape: Tape, *gradients: torch.Tensor) -> list[torch.Tensor | None]:
    given, results = tape.things
    wanted = [tensor for tensor in given if tensor.requires_grad]
    found = iter(torch.autograd.grad(results, wanted, gradients, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in given]
