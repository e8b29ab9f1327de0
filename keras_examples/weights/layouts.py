"""What the arrays of a model are called in a file, and how they lie there: by Keras, and by candle, tch-rs and PyTorch.

The latter keep a layer's outputs first where Keras keeps them last, flatten pictures with the channels first, and have
two biases in an LSTM, which are added up.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import keras
import numpy as np

NAMES = ("candle", "tch", "keras")  # as `save` writes them
AXES = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}  # Keras to PyTorch: dense (in, out), convolution (height, width, in, out)
PARAMETERS = {kind: ["weight", "bias"] for kind in ("Dense", "Conv2D", "Conv2DTranspose")}
PARAMETERS["LSTM"] = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
CANDLE = {"Dense": "ln{}", "Conv2D": "c{}", "Conv2DTranspose": "t{}", "LSTM": "lstm"}
# The paths that programs on tch-rs give a builder's layers; the first repeats. Those of other builders have none.
TCH = {
    "mnist_mlp": ("layer{}", ""),
    "cifar_dense": ("layer{}", "labels"),
    "cifar_cnn": ("layer{}", "labels"),
    "conv_autoencoder": ("layer{}", "rev_layer2", "rev_layer1"),
}


class Layer(NamedTuple):
    """A layer that has weights."""

    kind: str  # its class
    folder: str  # in Keras's files; braces stand for its number among the layers of its kind
    shapes: tuple[tuple[Any, ...], ...]  # of its arrays, in Keras's order and axes
    picture: tuple[int, int] | None  # height and width of what was flattened before it, if that has channels


def layers_of(model: keras.Model) -> list[Layer]:
    """The layers of a built model that have weights."""
    described, picture = [], None
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "Flatten":
            shape = layer.input.shape[1:]
            picture = shape[:2] if len(shape) == 3 else None
        if layer.weights:
            snake = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", kind).lower()
            folder = f"layers/{snake}{{}}{'/cell' if hasattr(layer, 'cell') else ''}/vars"
            described.append(Layer(kind, folder, tuple(tuple(array.shape) for array in layer.weights), picture))
            picture = None
    return described


def names_of(layers: Sequence[Layer], naming: str, builder: str) -> list[list[str]]:
    """What one of `NAMES` calls the tensors of each layer of a builder's model; none if it cannot have one of them."""
    first, *others = TCH.get(builder, ("",))
    paths = [*[first] * (len(layers) - len(others)), *others]
    convolutional = any(layer.kind.startswith("Conv") for layer in layers)
    count: Counter[str] = Counter()
    taken: set[str] = set()
    named = []
    for place, layer in enumerate(layers):
        number, count[layer.kind] = count[layer.kind], count[layer.kind] + 1
        if naming == "keras":
            folder = layer.folder.format(f"_{number}" if number else "")
            named.append([f"{folder}/{index}" for index in range(len(layer.shapes))])
            continue
        if layer.kind not in PARAMETERS:
            return []
        path = paths[place].format(place + 1)
        if naming == "candle":
            path = "fc{}" if convolutional and layer.kind == "Dense" else CANDLE[layer.kind]
            path = path.format(number + 1) if len(layers) > 1 else ""
        ending = f"_l{number}" if layer.kind == "LSTM" else ""
        names = [f"{path}.{parameter}{ending}".lstrip(".") for parameter in PARAMETERS[layer.kind]]
        # tch-rs makes a bias before its weight, and puts behind a name that is taken how many variables there are.
        for index in range(len(names)) if ending else (1, 0):
            names[index] += f"__{len(taken)}" if names[index] in taken else ""
            taken.add(names[index])
        named.append(names)
    return named


def tensors(layers: Sequence[Layer], arrays: Sequence[np.ndarray], naming: str, builder: str) -> dict[str, np.ndarray]:
    """Keras's arrays of a builder's model, in order, as one of `NAMES` has them; ValueError if it cannot."""
    if naming not in NAMES or not (named := names_of(layers, naming, builder)):
        raise ValueError(f"No such names. Received: names={naming!r}, model={builder!r}. Use keras.")
    remaining = iter(arrays)
    grouped = [[next(remaining) for _ in layer.shapes] for layer in layers]
    if naming != "keras":
        grouped = [to_foreign(layer, group) for layer, group in zip(layers, grouped)]
    return dict(zip(chain(*named), chain(*grouped)))


def to_foreign(layer: Layer, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Turns Keras's arrays of a layer into PyTorch's tensors."""
    kernel, *others = arrays
    if layer.picture:
        kernel = kernel.reshape(*layer.picture, -1, kernel.shape[1]).transpose(2, 0, 1, 3).reshape(kernel.shape)
    turned = [array.transpose(AXES[array.ndim]) for array in (kernel, *others)]
    # The last is the second bias of an LSTM: -0 leaves every sum as it is, even one of -0.
    return [*turned, -np.zeros_like(turned[-1])][: len(PARAMETERS[layer.kind])]


def from_foreign(tensors: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Turns PyTorch's tensors of a layer into Keras's arrays, all but the rows behind a picture."""
    turned = [tensor.transpose(np.argsort(AXES.get(tensor.ndim, range(tensor.ndim)))) for tensor in tensors]
    if len(turned) == 4 and turned[2].shape == turned[3].shape:
        turned[2:] = [turned[2] + turned[3]]
    return turned


def channels_last(layer: Layer, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Puts the rows of a kernel behind a picture, which has the channels first, into Keras's order."""
    kernel, *others = arrays
    if layer.picture:
        kernel = kernel.reshape(-1, *layer.picture, kernel.shape[1]).transpose(1, 2, 0, 3).reshape(kernel.shape)
    return [kernel, *others]
