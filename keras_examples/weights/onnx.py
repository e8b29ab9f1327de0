"""Models as ONNX files, compared with what they were made from before anybody sees them."""

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_examples.models import build

SAMPLES = 16
STEPS = 8  # of a recurrence
TOLERANCE = 1e-4  # of the largest output, or of 1


def write_onnx(path: Path, model: keras.Model, example: str, sizes: dict[str, Any]) -> None:
    """Writes an `.onnx` file, in place, and runs it on samples drawn at random.

    From `images` `(batch, height, width[, channels])` uint8 come `logits` `(batch, classes)`, or a `reconstruction` of
    the same shape. A `char_lstm` becomes one step of its recurrence, since Keras exports an LSTM over time wrongly:
    from `ids` `(batch,)` int32 and the states `h0`, `c0`, `h1`, … `(batch, units)` come `logits` `(batch, vocabulary)`
    and `next_h0`, `next_c0`, …

    Raises:
        ValueError: the file computes something else, and what `check_onnx` raises.
    """
    check_onnx()
    import onnxruntime

    plain = build(example, sizes)  # float32, whatever the precision of training
    plain.set_weights(model.get_weights())
    recurrent = [layer for layer in plain.layers if hasattr(layer, "cell")]
    step, high = (_step(plain, recurrent), plain.output_shape[-1]) if recurrent else (plain, 256)
    shape = (STEPS if recurrent else 1, SAMPLES, *step.inputs[0].shape[1:])
    samples = np.random.default_rng(0).integers(high, size=shape).astype(step.inputs[0].dtype)
    states = [np.zeros((SAMPLES, *state.shape[1:]), np.float32) for state in step.inputs[1:]]
    step.predict_on_batch([samples[0], *states] if recurrent else samples[0])  # Keras exports what has been called
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step.export(path, format="onnx", verbose=False)
    names = [f"{state}{place}" for place in range(len(recurrent)) for state in "hc"]
    inputs = ["ids" if recurrent else "images", *names]
    outputs = ["reconstruction" if len(plain.output_shape) == 4 else "logits", *(f"next_{name}" for name in names)]
    _name(path, inputs, outputs)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    for batch in samples:
        expected = keras.tree.flatten(step.predict_on_batch([batch, *states] if recurrent else batch))
        found = session.run(outputs, dict(zip(inputs, [batch, *states], strict=True)))
        largest = max(1.0, *(float(np.abs(one).max()) for one in expected))
        apart = max(float(np.abs(one - other).max()) for one, other in zip(expected, found, strict=True))
        if not apart <= TOLERANCE * largest:
            raise ValueError(
                f"The ONNX file computes something else than the model. Received: outputs up to {apart:.2g} apart. "
                "Nothing was written: use another format."
            )
        states = expected[1:]


def check_onnx() -> None:
    """Raises ValueError if `write_onnx` cannot work: on other backends than torch, or without its packages."""
    if keras.backend.backend() != "torch":
        raise ValueError(f"ONNX is written by torch. Received: {keras.backend.backend()}. Add --backend torch.")
    try:
        import onnx  # noqa: F401  without it torch's exporter fails halfway
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"ONNX needs packages that are not installed. Received: {error}. Run `pip install onnx onnxruntime`."
        ) from error


def _step(model: keras.Sequential, recurrent: list[keras.Layer]) -> keras.Model:
    ids = keras.Input((), dtype="int32", name="ids")
    inputs, outputs = [ids], []
    x = model.layers[0](ids)  # one-hot
    for layer in recurrent:
        states = [keras.Input((layer.units,)) for _ in "hc"]
        x, states_after = keras.layers.LSTMCell(layer.units)(x, states)
        inputs += states
        outputs += states_after
    logits = keras.layers.Dense(model.output_shape[-1])(x)
    step = keras.Model(inputs, [logits, *outputs])
    step.set_weights(model.get_weights())
    return step


def _name(path: Path, inputs: list[str], outputs: list[str]) -> None:
    """Gives the inputs and outputs of an ONNX file these names, and their first axis the name `batch`."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    values = [*graph.input, *graph.output]
    names = dict(zip([value.name for value in values], [*inputs, *outputs], strict=True))
    for value in values:
        value.name = names[value.name]
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    del graph.value_info[:]  # shapes in between, which call the axis otherwise
    onnx.save(model, path)
