"""Keras's `BatchNormalization` by torch's own kernels while a step is recorded, instead of autograd."""

from collections.abc import Iterator
from typing import Any

import keras
import torch
from torch.autograd.function import once_differentiable

BatchNormalization = keras.layers.BatchNormalization
METHODS = ("call", "_moments")


def normalizations(model: keras.Model) -> Iterator[Any]:
    """The layers of a model that normalise by batches as Keras does."""
    for layer in model._flatten_layers():
        theirs = isinstance(layer, BatchNormalization) and "call" not in vars(layer)
        if theirs and all(getattr(type(layer), name) is getattr(BatchNormalization, name) for name in METHODS):
            yield layer


def normalized(layer: Any, inputs: torch.Tensor, training: bool | None = None, mask: Any = None) -> torch.Tensor:
    """What `layer.call` does, by a kernel wherever that is the same function."""
    learns = training and layer.trainable
    last = layer.axis in (-1, inputs.ndim - 1)
    if not last or (learns and (mask is not None or layer.renorm or layer.synchronized)):
        return type(layer).call(layer, inputs, training=training, mask=mask)
    x = keras.ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    scale, offset, mean, variance = (
        None if variable is None else keras.ops.cast(variable, x.dtype)
        for variable in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    )
    # Channels as the second axis: images lie as torch's channels-last format, which its kernels know.
    x = x.movedim(-1, 1) if x.ndim in (4, 5) else x.reshape(-1, x.shape[-1])
    if learns:
        y, of_batch, spread = _Normalized.apply(x, scale, offset, layer.epsilon)
        layer.moving_mean.assign(mean * layer.momentum + of_batch * (1.0 - layer.momentum))
        layer.moving_variance.assign(variance * layer.momentum + spread * (1.0 - layer.momentum))
    else:
        y = torch.nn.functional.batch_norm(x, mean, variance, scale, offset, eps=layer.epsilon)
    y = y.movedim(1, -1) if x.ndim in (4, 5) else y.reshape(inputs.shape)
    return keras.ops.cast(y, layer.compute_dtype)


class _Normalized(torch.autograd.Function):
    """A batch `(N, channels, …)`, normalised by its means and variances `(channels,)`, which come with it.

    They and the result are computed as Keras does it, to the bit: a deep network makes much of a rounding.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: Any, offset: Any, epsilon: float) -> Any:
        axes, shape = [axis for axis in range(x.ndim) if axis != 1], (-1, *[1] * (x.ndim - 2))
        mean = x.mean(axes)
        variance = x.square().mean(axes) - mean.square()
        inverse = (variance + epsilon).rsqrt()
        ctx.save_for_backward(x, scale, mean, inverse)
        ctx.epsilon = epsilon
        ctx.mark_non_differentiable(mean, variance)
        factor = inverse if scale is None else inverse * scale
        y = (x - mean.view(shape)).mul_(factor.view(shape))
        return y if offset is None else y.add_(offset.view(shape)), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, *_: Any) -> Any:
        x, scale, mean, inverse = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        return *torch.ops.aten.native_batch_norm_backward(
            gradient, x, scale, None, None, mean, inverse, True, ctx.epsilon, wanted
        ), None
