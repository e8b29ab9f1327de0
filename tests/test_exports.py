"""ONNX files compute what the models do."""

import sys

import numpy as np
import onnxruntime
import pytest

from keras_examples import weights
from keras_examples.models import build


def randomised(example, **sizes):
    model = build(example, sizes)
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(scale=0.05, size=w.shape) for w in model.get_weights()])
    return model


def session_of(path, model, example, **sizes):
    weights.write(path, model, {"example": example, "sizes": sizes})
    return onnxruntime.InferenceSession(path)


@pytest.mark.parametrize(
    "example", ["mnist-linear", "mnist-mlp", "mnist-cnn", "cifar-dense", "cifar-cnn", "autoencoder"]
)
def test_images_in_predictions_out(tmp_path, example):
    model = randomised(example)
    session = session_of(tmp_path / "model.onnx", model, example)
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", *model.input_shape[1:]])
    (output,) = session.get_outputs()
    name = "reconstruction" if example == "autoencoder" else "logits"
    assert (output.name, output.shape) == (name, ["batch", *model.output_shape[1:]])
    x = np.random.default_rng(1).integers(256, size=(3, *model.input_shape[1:])).astype("uint8")
    np.testing.assert_allclose(session.run(None, {"images": x})[0], model.predict(x, verbose=0), atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_recurrence_is_stepped(tmp_path):
    sizes = {"vocabulary_size": 9, "units": 6, "layers": 2}
    model = randomised("charrnn", **sizes)
    session = session_of(tmp_path / "model.onnx", model, "charrnn", **sizes)
    assert [given.name for given in session.get_inputs()] == ["ids", "h0", "c0", "h1", "c1"]
    outputs = {output.name: output.shape for output in session.get_outputs()}
    assert outputs == {"logits": ["batch", 9]} | {f"next_{name}": ["batch", 6] for name in ("h0", "c0", "h1", "c1")}
    ids = np.random.default_rng(1).integers(9, size=(3, 20)).astype("int32")
    states, logits = [np.zeros((3, 6), "float32")] * 4, []
    for column in ids.T:
        output, *states = session.run(None, dict(zip(["ids", "h0", "c0", "h1", "c1"], [column, *states])))
        logits.append(output)
    np.testing.assert_allclose(np.stack(logits, axis=1), model.predict(ids, verbose=0), atol=1e-4)


def test_save_is_quiet_and_says_what_is_missing(run, linear, monkeypatch, capfd):
    assert run("mnist save digits.onnx").output.splitlines()[-1].endswith("written to digits.onnx")
    assert capfd.readouterr() == ("", "")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (line,) = run("mnist save more.onnx", code=1).stderr.splitlines()
    assert line.startswith("Error: ONNX needs packages that are not installed.")
    assert line.endswith("Run `pip install onnx onnxruntime`.")
    (line,) = run("mnist evaluate --data synthetic --weights digits.onnx", code=1).stderr.splitlines()
    assert line.startswith("Error: Unknown weights format.")


def test_weights_that_are_not_finite_are_not_exported(tmp_path):
    model = randomised("mnist-linear")
    model.weights[1].assign(np.full(10, np.nan))
    with pytest.raises(ValueError, match=r"computes something else than the model. Received: outputs up to nan apart"):
        weights.write(tmp_path / "model.onnx", model, {"example": "mnist-linear", "sizes": {}})
    assert not list(tmp_path.iterdir())


@pytest.mark.realdata
def test_real_samples_are_used_where_they_are(tmp_path, monkeypatch):
    from conftest import ROOT

    monkeypatch.chdir(ROOT)
    weights.write(
        tmp_path / "a.onnx", randomised("mnist-mlp"), {"example": "mnist-mlp", "sizes": {}, "dataset": "mnist"}
    )
    sizes = {"vocabulary_size": 9, "units": 6}
    metadata = {"example": "charrnn", "sizes": sizes, "dataset": "tinyshakespeare"}
    weights.write(tmp_path / "b.onnx", randomised("charrnn", **sizes), metadata)
    assert len(list(tmp_path.iterdir())) == 2
