"""Keras's `BatchNormalization` by torch's own kernels while a step is recorded, instead of autograd."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import torch

from keras_examples.acceleration.recording import Recorder

BatchNormalization = keras.layers.BatchNormalization
METHODS = ("call", "_moments")


def normalizations(model: keras.Model) -> Iterator[Any]:
    """The layers of a model that normalise by batches as Keras does."""
    for layer in model._flatten_layers():
        theirs = isinstance(layer, BatchNormalization) and "call" not in vars(layer)
        if theirs and all(getattr(type(layer), name) is getattr(BatchNormalization, name) for name in METHODS):
            yield layer


def normalized(
    recorder: Recorder, layer: Any, inputs: torch.Tensor, training: bool | None = None, mask: Any = None
) -> torch.Tensor:
    """What `layer.call` does, its gradients by a kernel wherever that is the same function."""
    last = layer.axis in (-1, inputs.ndim - 1)
    plain = mask is None and not (layer.renorm or layer.synchronized)
    if not (training and layer.trainable and last and plain):
        return type(layer).call(layer, inputs, training=training, mask=mask)
    x = keras.ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    scale, offset, *moving = (
        None if variable is None else keras.ops.cast(variable, x.dtype)
        for variable in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    )
    y, mean, variance = _Normalized.apply(recorder, x, scale, offset, moving, layer.epsilon, layer.momentum)
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    return keras.ops.cast(y, layer.compute_dtype)


def _channels_second(x: torch.Tensor) -> torch.Tensor:
    """Images in torch's channels-last format, which its kernels know, and anything else as a matrix."""
    return x.movedim(-1, 1) if x.ndim in (4, 5) else x.reshape(-1, x.shape[-1])


class _Normalized(torch.autograd.Function):
    """A batch `(N, …, channels)`, normalised, and the next moving mean and variance `(channels,)`.

    Written down as one operation, and its gradients as another.
    """

    @staticmethod
    def forward(ctx: Any, recorder: Recorder, x: torch.Tensor, scale: Any, *others: Any) -> Any:
        y, *moved, mean, inverse = recorder.call(_forwards, (x, scale, *others), {})
        ctx.recorder, ctx.epsilon = recorder, others[-2]
        ctx.save_for_backward(x, scale, mean, inverse)
        ctx.mark_non_differentiable(*moved)
        ctx.set_materialize_grads(False)
        return y, *moved

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, *_: Any) -> Any:
        wanted, nothing = ctx.needs_input_grad[1:4], [None] * 3
        if torch.is_grad_enabled():  # to be differentiated once more, as in a gradient penalty
            x, scale, *_ = ctx.saved_tensors
            offset = x.new_zeros(x.shape[-1], requires_grad=wanted[2])
            some = [each for each, want in zip((x, scale, offset), wanted) if want]
            y = _plainly(x, scale, offset, ctx.epsilon)
            found = iter(torch.autograd.grad(y, some, gradient, create_graph=True))
            return None, *(next(found) if want else None for want in wanted), *nothing
        return None, *ctx.recorder.call(_backwards, (gradient, *ctx.saved_tensors, ctx.epsilon, wanted), {}), *nothing


def _forwards(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    offset: torch.Tensor | None,
    moving: Sequence[torch.Tensor],
    epsilon: float,
    momentum: float,
) -> tuple[torch.Tensor, ...]:
    """What Keras computes, to the bit: a deep network makes much of a rounding. And what the gradients need of it."""
    axes = [*range(x.ndim - 1)]
    mean = x.mean(axes)
    variance = x.square().mean(axes) - mean.square()
    inverse = (variance + epsilon).rsqrt()
    y = (x - mean).mul_(inverse if scale is None else inverse * scale)
    moved = [old * momentum + new * (1.0 - momentum) for old, new in zip(moving, (mean, variance))]
    return y if offset is None else y.add_(offset), *moved, mean, inverse


def _plainly(x: torch.Tensor, scale: torch.Tensor | None, offset: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The same, but for rounding, by operations that autograd knows."""
    axes = [*range(x.ndim - 1)]
    normal = (x - x.mean(axes)) * (x.var(axes, correction=0) + epsilon).rsqrt()
    return (normal if scale is None else normal * scale) + offset


def _backwards(
    gradient: torch.Tensor, x: torch.Tensor, scale: Any, mean: Any, inverse: Any, epsilon: float, wanted: Any
) -> list[torch.Tensor | None]:
    """The gradients of input, scale and offset."""
    gradients = torch.ops.aten.native_batch_norm_backward(
        _channels_second(gradient), _channels_second(x), scale, None, None, mean, inverse, True, epsilon, wanted
    )
    found: list[torch.Tensor | None] = [each if want else None for each, want in zip(gradients, wanted)]
    if found[0] is not None:
        found[0] = found[0].movedim(1, -1) if x.ndim in (4, 5) else found[0].reshape(x.shape)
    return found
