"""First steps with tensors, and derivatives on any backend."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops


def derivative(function: Callable[..., Any], place: int = 0) -> Callable[..., Any]:
    """The derivative of a function of tensors, by the argument at this place, as a function of the same tensors.

    A tensor with several numbers counts as their sum: of a function that works element by element, each element gets
    its own derivative.
    """
    if (backend := keras.backend.backend()) == "tensorflow":
        import tensorflow as tf

        def slope(*at: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(at[place])
                value = function(*at)
            return tape.gradient(value, at[place])

        return slope
    grad = importlib.import_module({"torch": "torch.func", "jax": "jax"}[backend]).grad
    return grad(lambda *at: ops.sum(function(*at)), place)


def tour() -> Iterator[tuple[str, str]]:
    """Creates, multiplies, moves and differentiates tensors; yields each step in words, and what came of it."""
    x = ops.array([3, 1, 4, 1, 5])
    yield "[3, 1, 4, 1, 5] * 2", show(x * 2)
    yield "its shape and type", f"{tuple(x.shape)} {keras.backend.standardize_dtype(x.dtype)}"
    yield "its sum and largest", f"{show(ops.sum(x))} {show(ops.max(x))}"

    moved = ops.convert_to_tensor(np.arange(6, dtype="float32"))
    yield "0 to 5, from NumPy to the device", f"{show(moved)} on {moved.device}"
    matrix = ops.reshape(moved, (2, 3))
    yield "as a matrix", show(matrix)
    yield "matrix + [10, 20, 30], added to each row", show(matrix + ops.array([10.0, 20.0, 30.0]))
    yield "matrix @ its transpose", show(matrix @ ops.transpose(matrix))
    try:
        ops.matmul(matrix, matrix)
    except Exception as error:  # each backend raises another
        yield "matrix @ matrix", f"{type(error).__name__}: {' '.join(str(error).split())}"

    yield "the derivative of x * x", show(derivative(lambda x: x * x)(ops.cast(x, "float32")))


def show(tensor: Any) -> str:
    """The numbers of a tensor, rows apart by semicolons."""
    rows = np.atleast_2d(ops.convert_to_numpy(tensor))
    return "; ".join(" ".join(f"{value:g}" for value in row) for row in rows)
