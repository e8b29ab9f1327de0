"""Weights go to PyTorch and back, with the names that candle, tch-rs and `nn.Sequential` give them."""

import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from keras_examples import weights
from keras_examples.models import build


class CharRnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(9, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 9)

    def forward(self, ids):
        return self.head(self.lstm(nn.functional.one_hot(ids, 9).float())[0])


def encoder():
    return [
        nn.Conv2d(3, 16, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 8, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
    ]  # fmt: skip


REFERENCES = {
    "mnist-linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
    "mnist-mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(784, 12), nn.ReLU(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 10)
    ),
    "mnist-cnn": lambda: nn.Sequential(
        nn.Conv2d(1, 32, 5), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 1024), nn.ReLU(), nn.Dropout(0.5), nn.Linear(1024, 10),
    ),
    "cifar-dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 5), nn.ReLU(), nn.Linear(5, 10)),
    "cifar-cnn": lambda: nn.Sequential(*encoder(), nn.Flatten(), nn.Linear(512, 10)),
    "autoencoder": lambda: nn.Sequential(
        *encoder(), nn.ConvTranspose2d(8, 16, 2, stride=2), nn.ConvTranspose2d(16, 3, 2, stride=2)
    ),
    "charrnn": CharRnn,
}  # fmt: skip
SIZES = {
    "mnist-mlp": {"hidden_units": [12, 7]},
    "cifar-dense": {"hidden_units": [5]},
    "charrnn": {"vocabulary_size": 9, "units": 6, "layers": 2},
}
# Of each layer with weights, in order. Those of torch are the places in nn.Sequential.
NAMES = {
    ("mnist-linear", "candle"): [""],
    ("mnist-linear", "tch"): [""],
    ("mnist-mlp", "candle"): ["ln1.", "ln2.", "ln3."],
    ("mnist-mlp", "tch"): ["layer1.", "layer2.", ""],
    ("mnist-cnn", "candle"): ["c1.", "c2.", "fc1.", "fc2."],
    ("mnist-cnn", "tch"): ["c1.", "c2.", "fc1.", "fc2."],
    ("cifar-dense", "candle"): ["ln1.", "ln2."],
    ("cifar-dense", "tch"): ["layer1.", "labels."],
    ("cifar-cnn", "candle"): ["c1.", "c2.", "fc1."],
    ("cifar-cnn", "tch"): ["layer1.", "layer2.", "labels."],
    ("autoencoder", "candle"): ["c1.", "c2.", "t1.", "t2."],
    ("autoencoder", "tch"): ["layer1.", "layer2.", "rev_layer2.", "rev_layer1."],
    ("charrnn", "candle"): ["lstm.", "ln1."],
    ("charrnn", "tch"): ["", ""],
    ("charrnn", "torch"): ["3.", "7."],
}


def reference(example):
    torch.manual_seed(0)
    return REFERENCES[example]().eval()


def renamed(example, naming, model):
    """Pairs of the reference's own name of each tensor, and its name in a file."""
    own = {name.rpartition(".")[0]: None for name in model.state_dict()}
    names = dict(zip(own, NAMES.get((example, naming), [f"{prefix}." for prefix in own]), strict=True))
    for name in model.state_dict():
        prefix, _, parameter = name.rpartition(".")
        yield name, names[prefix] + parameter


def assert_agree(example, keras_model, torch_model):
    generator = np.random.default_rng(1)
    if example == "charrnn":
        x = generator.integers(9, size=(3, 20)).astype("int32")
        images = torch.from_numpy(x).long()
    else:
        x = generator.integers(256, size=(5, *keras_model.input_shape[1:])).astype("uint8")
        images = torch.from_numpy(x.reshape(5, *x.shape[1:3], -1)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = torch_model(images)
    expected = expected.permute(0, 2, 3, 1) if expected.ndim == 4 else expected
    np.testing.assert_allclose(keras_model.predict(x, verbose=0), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(("example", "naming"), [*itertools.product(REFERENCES, ["candle", "tch", "torch"])])
def test_a_file_from_elsewhere_predicts_what_it_did_there(tmp_path, example, naming):
    model = reference(example)
    tensors = model.state_dict()
    save_file({name: tensors[own] for own, name in renamed(example, naming, model)}, tmp_path / "theirs.safetensors")
    ours, metadata = weights.restore(tmp_path / "theirs.safetensors", example)
    assert metadata["sizes"].items() >= SIZES.get(example, {}).items()
    assert_agree(example, ours, model)


@pytest.mark.parametrize(("example", "naming"), [*itertools.product(REFERENCES, ["candle", "tch"])])
def test_a_file_of_ours_predicts_the_same_elsewhere(tmp_path, example, naming):
    model = build(example, SIZES.get(example, {}))
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(scale=0.05, size=w.shape) for w in model.get_weights()])
    weights.write(tmp_path / "ours.safetensors", model, {"example": example}, naming)
    tensors = load_file(tmp_path / "ours.safetensors")
    theirs = reference(example)
    theirs.load_state_dict({own: tensors.pop(name) for own, name in renamed(example, naming, theirs)})
    assert not tensors
    assert_agree(example, model, theirs)


def test_numbers_are_compared_as_numbers(tmp_path):
    model = reference("mnist-mlp")
    tensors = model.state_dict()
    names = {"1": "2", "3": "10", "5": "33"}
    save_file({names[name[0]] + name[1:]: tensors[name] for name in tensors}, tmp_path / "theirs.safetensors")
    assert_agree("mnist-mlp", weights.restore(tmp_path / "theirs.safetensors", "mnist-mlp")[0], model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read(tmp_path, dtype):
    model = reference("mnist-linear").to(dtype)
    tensors = model.state_dict()
    save_file({"weight": tensors["1.weight"], "bias": tensors["1.bias"]}, tmp_path / "half.safetensors")
    ours, _ = weights.restore(tmp_path / "half.safetensors", "mnist-linear")
    assert ours.weights[0].dtype == "float32"
    assert_agree("mnist-linear", ours, model.float())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.zeros(10, 784, dtype=torch.int8), "bias": torch.zeros(10)}, "weight is I8, not float32"),
        ({"weight": torch.zeros(10, 784)}, "the tensors of mnist-linear are weight, bias, those in the file weight"),
        ({"w": torch.zeros(10, 784), "b": torch.zeros(10)}, "those in the file b, w"),
        ({"weight": torch.zeros(10, 783), "bias": torch.zeros(10)}, r"vars/0 is \(784, 10\) .* and \(783, 10\) in"),
        ({"weight": torch.zeros(9, 784), "bias": torch.zeros(9)}, r"vars/0 is \(784, 10\) .* and \(784, 9\) in"),
    ],
)
def test_other_tensors_are_named(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=rf"{message}.*Received: path="):
        weights.restore(tmp_path / "other.safetensors", "mnist-linear")


def test_a_network_without_an_lstm_is_no_charrnn(tmp_path):
    save_file({"weight": torch.zeros(9, 9), "bias": torch.zeros(9)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="the tensors of charrnn are lstm.weight_ih_l0"):
        weights.restore(tmp_path / "other.safetensors", "charrnn")


def test_a_file_without_metadata_works_in_every_command(run, tmp_path):
    model = reference("mnist-mlp")
    tensors = model.state_dict()
    save_file(
        {name: tensors[own] for own, name in renamed("mnist-mlp", "candle", model)}, tmp_path / "candle.safetensors"
    )
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
    assert "layers/dense/vars/0 is (784, 9) in mnist_mlp and (784, 12) in the file" in line
    report = json.loads(run("weights candle.safetensors --json").stdout)
    assert report["metadata"] == {}
    assert {"name": "ln1.weight", "shape": [12, 784], "dtype": "float32"} in report["tensors"]


def test_text_needs_a_vocabulary(run, tmp_path):
    model = reference("charrnn")
    tensors = model.state_dict()
    save_file({name: tensors[own] for own, name in renamed("charrnn", "tch", model)}, tmp_path / "tch.safetensors")
    (line,) = run("charrnn sample --weights tch.safetensors", code=1).stderr.splitlines()
    assert line.startswith("Error: No vocabulary: the file does not say which characters the ids stand for.")
