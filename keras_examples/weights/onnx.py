"""Models as ONNX files, compared with what they were made from before anybody sees them."""

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_examples.data import load, status
from keras_examples.examples import EXAMPLES
from keras_examples.models import build

SAMPLES = 16
STEPS = 8  # of a recurrence
TOLERANCE = 1e-4


def write_onnx(path: Path, model: keras.Model, metadata: dict[str, Any]) -> None:
    """Writes an `.onnx` file, in place, and runs it.

    An image model takes `images`, `(N, height, width[, channels])` uint8. A `char_lstm` becomes one step of its
    recurrence, since Keras exports an LSTM over time wrongly: from `ids` `(N,)` int32 and the states `h0`, `c0`, `h1`,
    … `(N, units)` float32 to the logits `(N, vocabulary)` and the new states, in that order.

    Args:
        path: The file.
        model: Built model of an example.
        metadata: Of the model: `example`, `sizes`, and `dataset`, from which the samples are if its files are there.

    Raises:
        ValueError: the file computes something else, and what `check_onnx` raises.
    """
    check_onnx()
    import onnxruntime

    plain = build(metadata["example"], metadata["sizes"])  # float32, whatever the precision of training
    plain.set_weights(model.get_weights())
    recurrent = [layer for layer in plain.layers if hasattr(layer, "cell")]
    step = _step(plain, recurrent) if recurrent else _named(plain)
    states = [np.zeros((SAMPLES, *state.shape[1:]), np.float32) for state in step.inputs[1:]]
    samples = _samples(metadata, step.inputs[0], step.outputs[0].shape[-1], STEPS if recurrent else 1)
    step.predict_on_batch([samples[0], *states])  # Keras exports what has been called
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    for batch in samples:
        inputs = [batch, *states]
        expected = keras.tree.flatten(step.predict_on_batch(inputs))
        found = session.run(None, dict(zip(names, inputs)))
        apart = max(float(np.abs(one - other).max()) for one, other in zip(expected, found, strict=True))
        if not apart <= TOLERANCE:
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


def _named(model: keras.Sequential) -> keras.Model:
    images = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype, name="images")
    return keras.Model([images], [model(images)])


def _step(model: keras.Sequential, recurrent: list[keras.Layer]) -> keras.Model:
    ids = keras.Input((), dtype="int32", name="ids")
    inputs, outputs = [ids], []
    x = model.layers[0](ids)  # one-hot
    for index, layer in enumerate(recurrent):
        states = [keras.Input((layer.units,), name=f"{name}{index}") for name in "hc"]
        x, states_after = keras.layers.LSTMCell(layer.units)(x, states)
        inputs += states
        outputs += states_after
    logits = keras.layers.Dense(model.output_shape[-1])(x)
    step = keras.Model(inputs, [logits, *outputs])
    step.set_weights(model.get_weights())
    return step


def _samples(metadata: dict[str, Any], given: keras.KerasTensor, classes: int, steps: int) -> np.ndarray:
    """Samples `(steps, SAMPLES, …)`: from the data that the model was trained on, if it is there, else random ones."""
    name = EXAMPLES[metadata["example"]].dataset
    shape, high = (steps, SAMPLES, *given.shape[1:]), classes if given.dtype == "int32" else 256
    if metadata.get("dataset") == name and status(name).state == "complete":
        dataset = load(name, "real")
        x = dataset.vocabulary.encode(dataset.validation) if dataset.vocabulary else dataset.x_test
        return x[: steps * SAMPLES].reshape(shape).clip(max=high - 1)
    return np.random.default_rng(0).integers(high, size=shape).astype(given.dtype)
