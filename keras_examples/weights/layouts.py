"""What the examples' tensors are called elsewhere, and how they lie there: in candle, tch-rs and PyTorch.

All three keep a layer's outputs first, `weight` and `bias` by name, where Keras keeps them last, by number. candle has
names for MNIST's models only, and tch-rs none for its own MNIST network: where a source is silent its style is kept.
"""

import math
import re
from typing import Any, NamedTuple

import numpy as np

from keras_examples.weights.formats import Tensor

NAMES = ("candle", "tch", "keras")  # as `save` writes them
FLAT = "layers/dense/vars/0"  # the kernel behind a flattened picture
AXES = {2: (1, 0), 4: (3, 2, 0, 1)}  # Keras to PyTorch: dense (in, out), convolution (height, width, in, out)


class Layout(NamedTuple):
    """The layers of an example that have weights, in order, and what each naming calls them.

    Of a row with braces the first layer repeats as often as a model has it: `{i}` counts from 0, `{n}` from 1, `{k}`
    as Keras does. A star stands for `weight` and `bias`, or what an LSTM has in their stead.

    Attributes:
        picture: Height, width and channels of what is flattened before the first dense layer. Its inputs are in that
            order in Keras, the channels first elsewhere.
    """

    keras: tuple[str, ...]
    candle: tuple[str, ...]
    tch: tuple[str, ...]
    torch: tuple[str, ...]  # `nn.Sequential`; the numbers are compared by their order
    picture: tuple[int, int, int] | None = None


_CNN = ("c1.*", "c2.*", "fc1.*", "fc2.*")
LAYOUTS = {
    "mnist-linear": Layout(("dense",), ("*",), ("*",), ("0.*",), (28, 28, 1)),
    "mnist-mlp": Layout(
        ("dense{k}", "dense{k}"), ("ln{n}.*", "ln{n}.*"), ("layer{n}.*", "*"), ("{i}.*", "{i}.*"), (28, 28, 1)
    ),
    "mnist-cnn": Layout(
        ("conv2d", "conv2d_1", "dense", "dense_1"), _CNN, _CNN, ("0.*", "1.*", "2.*", "3.*"), (4, 4, 64)
    ),
    "cifar-dense": Layout(
        ("dense{k}", "dense{k}"), ("ln{n}.*", "ln{n}.*"), ("layer{n}.*", "labels.*"), ("{i}.*", "{i}.*"), (32, 32, 3)
    ),
    "cifar-cnn": Layout(
        ("conv2d", "conv2d_1", "dense"),
        ("c1.*", "c2.*", "fc1.*"),
        ("layer1.*", "layer2.*", "labels.*"),
        ("0.*", "1.*", "2.*"),
        (8, 8, 8),
    ),
    "autoencoder": Layout(
        ("conv2d", "conv2d_1", "conv2d_transpose", "conv2d_transpose_1"),
        ("c1.*", "c2.*", "t1.*", "t2.*"),
        ("layer1.*", "layer2.*", "rev_layer2.*", "rev_layer1.*"),
        ("0.*", "1.*", "2.*", "3.*"),
    ),
    "charrnn": Layout(("lstm{k}/cell", "dense"), ("lstm.*_l{i}", "ln1.*"), ("*_l{i}", "*"), ("0.*_l{i}", "1.*")),
}


def to_keras(example: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives tensors the names and the layout that Keras has, whichever they have.

    Args:
        example: Example id, such as `mnist-cnn`. One without a row in the table has Keras's names already.
        tensors: By name, as in the file.

    Raises:
        ValueError: these are not the names of the example's tensors in any naming.
    """
    if example not in LAYOUTS:
        return tensors
    layout = LAYOUTS[example]
    numbers = sorted({int(name.split(".")[0]) for name in tensors if re.match(r"\d{1,9}\.", name)})
    ranked = {re.sub(r"^\d{1,9}(?=\.)", lambda n: str(numbers.index(int(n[0]))), name): name for name in tensors}
    for naming in ("keras", "candle", "tch", "torch"):
        layers = _layers(layout, naming, _count(layout, naming, len(tensors)))
        if sorted(name for layer in layers for name in layer) == sorted(ranked):
            break
    else:
        known = "keras" if any(name.startswith("layers/") for name in tensors) else "candle"
        layers = _layers(layout, known, _count(layout, known, len(tensors)))
        raise ValueError(
            f"the tensors of {example} are {_list([name for layer in layers for name in layer])}, "
            f"those in the file {_list([*tensors])}"
        )
    found: dict[str, Tensor] = {}
    for names, sources in zip(_layers(layout, "keras", len(layers)), layers):
        given = [tensors[ranked[name]] for name in sources]
        if naming != "keras":
            given = [_turned(tensor, layout.picture if names[0] == FLAT else None) for tensor in given]
            if len(given) > len(names):  # the two biases of an LSTM
                given[-2:] = [_sum(*given[-2:])]
        found |= zip(names, given)
    return found


def from_keras(example: str, naming: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gives arrays the names of a naming and its layout.

    Args:
        example: Example id, such as `mnist-cnn`.
        naming: One of `NAMES`.
        arrays: By Keras's names.

    Raises:
        ValueError: there is no such naming, or only Keras's for this example.
    """
    if naming == "keras":
        return arrays
    if example not in LAYOUTS or naming not in NAMES:
        raise ValueError(f"No such names. Received: names={naming!r}, example={example!r}. Use keras.")
    layout = LAYOUTS[example]
    written: dict[str, np.ndarray] = {}
    layers = _layers(layout, "keras", _count(layout, "keras", len(arrays)))
    for layer, names in zip(layers, _layers(layout, naming, len(layers))):
        *kernels, bias = [arrays[name] for name in layer]
        if layout.picture and layer[0] == FLAT:
            rows = kernels[0].reshape(*layout.picture, -1)
            kernels[0] = rows.transpose(2, 0, 1, 3).reshape(kernels[0].shape)
        turned = [kernel.transpose(AXES[kernel.ndim]) for kernel in kernels]
        # The last for an LSTM, which has two there: -0 is what leaves every sum as it is, even one of -0.
        written |= zip(names, [*turned, bias, -np.zeros_like(bias)])
    return written


def sizes(example: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Reads builders' arguments off the shapes, once these are found to fit each other.

    Args:
        example: Example id, such as `mnist-cnn`.
        tensors: By Keras's names.

    Returns:
        `hidden_units`, `units`, `layers` and `vocabulary_size`; none for an example without a row in the table.

    Raises:
        ValueError: two shapes contradict each other, so that a model of these sizes could be far larger than the file.
    """
    if example not in LAYOUTS:
        return {}
    layout = LAYOUTS[example]
    layers = _layers(layout, "keras", _count(layout, "keras", len(tensors)))
    dense: list[int] = []
    recurrent: list[int] = []
    inputs = math.prod(layout.picture or tensors[layers[-1][-1]].shape)
    for layer in layers:
        if "conv" in layer[0]:
            continue
        shapes = [tensors[name].shape for name in layer]
        widths, gates = (dense, 1) if len(layer) == 2 else (recurrent, 4)
        units = recurrent[0] if gates == 4 and recurrent else math.prod(shapes[-1]) // gates
        expected = [(inputs, gates * units), (units, gates * units), (gates * units,)]
        for name, shape, found in zip(layer, expected if gates == 4 else expected[::2], shapes):
            if shape != found:
                raise ValueError(f"{name} is {shape} in {example} and {found} in the file")
        widths.append(units)
        inputs = units
    return {
        "hidden_units": dense[:-1],
        "units": recurrent[0] if recurrent else 0,
        "layers": len(recurrent),
        "vocabulary_size": dense[-1] if dense else 0,
    }


def _count(layout: Layout, naming: str, total: int) -> int:
    """How many layers have `total` tensors."""
    first, *rest = [len(_parameters(kind, naming)) for kind in layout.keras]
    least = 1 if layout.keras[0].startswith("lstm") else 0
    return len(rest) + (max(least, (total - sum(rest)) // first) if "{" in layout.keras[0] else 1)


def _layers(layout: Layout, naming: str, count: int) -> list[list[str]]:
    """The names of the tensors of each of `count` layers."""
    named = []
    for index in range(count):
        place = max(0, index - count + len(layout.keras))  # only the first repeats
        template = f"layers/{layout.keras[place]}/vars/*" if naming == "keras" else getattr(layout, naming)[place]
        layer = template.format(i=index, n=index + 1, k=f"_{index}" if index else "")
        named.append([layer.replace("*", parameter) for parameter in _parameters(layout.keras[place], naming)])
    return named


def _parameters(kind: str, naming: str) -> tuple[str, ...]:
    recurrent = kind.startswith("lstm")
    if naming == "keras":
        return ("0", "1", "2") if recurrent else ("0", "1")
    return ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if recurrent else ("weight", "bias")


def _turned(tensor: Tensor, picture: tuple[int, int, int] | None) -> Tensor:
    """The tensor as Keras lays it; the kernel behind a picture, with its rows in another order."""
    axes = np.argsort(AXES.get(len(tensor.shape), range(len(tensor.shape))))

    def read() -> np.ndarray:
        array = tensor.read().transpose(axes)
        if picture is None or array.ndim == 1:
            return array
        height, width, channels = picture
        return array.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(array.shape)

    return tensor._replace(shape=tuple(tensor.shape[axis] for axis in axes), read=read)


def _sum(one: Tensor, other: Tensor) -> Tensor:
    if one.shape != other.shape:
        raise ValueError(f"the two biases of an LSTM are {one.shape} and {other.shape} in the file")
    return one._replace(read=lambda: one.read() + other.read())


def _list(names: list[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "") or "none"
