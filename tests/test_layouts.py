"""Weights go to PyTorch and back, with the names that candle and tch-rs give them, and predict the same there."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file, save_file
from small import REFERRED, assert_agree, assert_same, layers_of, reference, sizes_of, small

from keras_examples import weights
from keras_examples.examples import EXAMPLES
from keras_examples.weights import layouts

# The paths of the layers with weights, in order; where a builder has none, tch-rs numbers its variables.
PATHS = {
    ("mnist_linear", "candle"): [""],
    ("mnist_mlp", "candle"): ["ln1.", "ln2.", "ln3."],
    ("mnist_mlp", "tch"): ["layer1.", "layer2.", ""],
    ("mnist_cnn", "candle"): ["c1.", "c2.", "fc1.", "fc2."],
    ("cifar_dense", "candle"): ["ln1.", "ln2.", "ln3."],
    ("cifar_dense", "tch"): ["layer1.", "layer2.", "labels."],
    ("cifar_cnn", "candle"): ["c1.", "c2.", "fc1."],
    ("cifar_cnn", "tch"): ["layer1.", "layer2.", "labels."],
    ("conv_autoencoder", "candle"): ["c1.", "c2.", "t1.", "t2."],
    ("conv_autoencoder", "tch"): ["layer1.", "layer2.", "rev_layer2.", "rev_layer1."],
    ("char_lstm", "candle"): ["lstm.", "ln1."],
}


def names_of(example, naming, layers):
    """What candle or tch-rs calls the tensors of each layer; if a name is taken, their number so far goes behind it."""
    paths, taken, named = PATHS.get((EXAMPLES[example].builder, naming), [""] * len(layers)), [], []
    for path, layer in zip(paths, layers, strict=True):
        names = {}
        for parameter in layer if "weight" not in layer else ("bias", "weight"):
            name = path + parameter
            names[parameter] = f"{name}__{len(taken)}" if name in taken else name
            taken.append(names[parameter])
        named.append(names)
    return named


def renamed(example, naming, model):
    layers = layers_of(model)
    names = names_of(example, naming, layers)
    return {name[key]: layer[key] for name, layer in zip(names, layers) for key in layer}


@pytest.mark.parametrize("naming", ["candle", "tch", "nn.Sequential"])
@pytest.mark.parametrize("example", REFERRED)
def test_a_file_from_elsewhere_predicts_what_it_did_there(tmp_path, example, naming):
    model = reference(example)
    tensors = model.state_dict() if naming == "nn.Sequential" else renamed(example, naming, model)
    save_file(tensors, tmp_path / "theirs.safetensors")
    ours, metadata = weights.restore(tmp_path / "theirs.safetensors", example)
    assert metadata["sizes"].items() >= sizes_of(example).items()
    assert_agree(ours, model)


@pytest.mark.parametrize("naming", ["candle", "tch"])
@pytest.mark.parametrize("example", REFERRED)
def test_a_file_of_ours_predicts_the_same_elsewhere(tmp_path, example, naming):
    model = small(example, scale=0.05)
    weights.write(tmp_path / "ours.safetensors", model, {"example": example}, naming)
    tensors, theirs = load_file(tmp_path / "ours.safetensors"), reference(example)
    assert tensors.keys() == renamed(example, naming, theirs).keys()
    for names, layer in zip(names_of(example, naming, layers_of(theirs)), layers_of(theirs)):
        for parameter, tensor in layer.items():
            tensor.copy_(tensors[names[parameter]])
    assert_agree(model, theirs)


def test_networks_that_tch_leaves_unnamed_have_its_numbers(tmp_path):
    weights.write(tmp_path / "tch.safetensors", small("mnist-cnn"), {"example": "mnist-cnn"}, "tch")
    names = {"bias", "weight", "bias__2", "weight__3", "bias__4", "weight__5", "bias__6", "weight__7"}
    assert load_file(tmp_path / "tch.safetensors").keys() == names


@pytest.mark.parametrize("example", [example for example in REFERRED if example != "charrnn"])
def test_a_model_whose_layers_tch_never_named_has_its_numbers_both_ways(tmp_path, example):
    model = small(example)
    layers = layouts.layers_of(model)
    written = layouts.tensors(layers, model.get_weights(), "tch", "a builder that no source has")
    order = [f"{name}__{place}" if place > 1 else name for place, name in enumerate(["bias", "weight"] * len(layers))]
    assert sorted(written) == sorted(order)
    dimensions = [written[name].ndim for name in order[1::2]]
    assert dimensions == [len(layer.shapes[0]) for layer in layers]
    save_numpy({name: np.ascontiguousarray(array) for name, array in written.items()}, tmp_path / "tch.safetensors")
    assert_same(model, weights.restore(tmp_path / "tch.safetensors", example)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(tmp_path, dtype):
    model = reference("mnist-linear").to(dtype)
    tensors = model.state_dict()
    save_file({"weight": tensors["1.weight"], "bias": tensors["1.bias"]}, tmp_path / "other.safetensors")
    ours, _ = weights.restore(tmp_path / "other.safetensors", "mnist-linear")
    assert ours.weights[0].dtype == "float32"
    assert_agree(ours, model.float())
    assert weights.describe(tmp_path / "other.safetensors")["tensors"][0]["dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.zeros(10, 784, dtype=torch.int8), "bias": torch.zeros(10)}, "weight is int8, not float64"),
        ({"weight": torch.zeros(10, 784)}, r"its layers are Dense \(784, 10\) \(10,\), and in the file are weight"),
        ({"weight": torch.zeros(10, 783), "bias": torch.zeros(10)}, r"\(784, 10\) .* in the file are .* \(783, 10\)"),
        ({"weight": torch.zeros(9, 784), "bias": torch.zeros(9)}, r"\(784, 10\) .* in the file are .* \(784, 9\)"),
        ({"weight": torch.full((10, 784), 1e39, dtype=torch.float64), "bias": torch.zeros(10)}, "overflow"),
    ],
)
def test_other_tensors_are_named(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=rf"{message}.*Received: path="):
        weights.restore(tmp_path / "other.safetensors", "mnist-linear")


def test_a_network_without_an_lstm_is_no_charrnn(tmp_path):
    save_file({"weight": torch.zeros(9, 9), "bias": torch.zeros(9)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"its layers are LSTM \(\?, \?\) .*, and in the file are weight "):
        weights.restore(tmp_path / "other.safetensors", "charrnn")


def test_a_file_without_metadata_works_in_every_command(run, tmp_path):
    save_file(renamed("mnist-mlp", "candle", reference("mnist-mlp")), tmp_path / "candle.safetensors")
    given = "--arch mlp --data synthetic"
    before = json.loads(run(f"mnist evaluate {given} --weights candle.safetensors --json").stdout)
    run("mnist save back.safetensors --arch mlp --names tch --weights candle.safetensors")
    after = json.loads(run(f"mnist evaluate {given} --weights back.safetensors --json").stdout)
    assert after["confusion"] == before["confusion"]
    run(f"mnist fit {given} --load candle.safetensors --epochs 1 --limit 256 --save fitted.safetensors")
    shown = run("weights fitted.safetensors").output
    assert 'sizes: {"hidden_units": [12, 7]}' in shown
    assert "data_sha256" in shown
    assert "ln3.weight  10×7  float32" in shown
    (line,) = run(f"mnist fit {given} --load candle.safetensors --hidden-units 9", code=1).stderr.splitlines()
    assert "hidden_units is [12, 7] in the file, asked for (9,)" in line
    report = json.loads(run("weights candle.safetensors --json").stdout)
    assert report["metadata"] == {}
    assert {"name": "ln1.weight", "shape": [12, 784], "dtype": "float32"} in report["tensors"]
