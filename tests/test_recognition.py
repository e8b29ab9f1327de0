"""Files with anybody's names are read where one assignment of tensors to layers fits, and refused where several do."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small import REFERRED, assert_agree, assert_same, layers_of, reference
from torch import nn

from keras_examples import weights
from keras_examples.weights.recognition import recognise

PREFIXES = ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod.model.", "state.0.", "b.w1."]
# Schemes of names for the layers with weights, by their place and how many there are.
SCHEMES = {
    "fc": lambda place, count: f"fc{place + 1}.{{}}",
    "zero-based": lambda place, count: f"layers.{place}.{{}}",
    "with gaps": lambda place, count: f"net.{3 * place + 7}.{{}}",
    "numbers behind": lambda place, count: f"{{}}{place + 1}",
    "words last": lambda place, count: f"l{place}_{{}}",
    "first without": lambda place, count: f"hidden{place + 1 if place else ''}.{{}}",
    "blocks": lambda place, count: f"block{place}.dense.0.{{}}",
    "body and head": lambda place, count: f"body.{place}.{{}}" if place + 1 < count else "head.{}",
    "tch": lambda place, count: f"{{}}__{place}" if place else "{}",
}


def save(tensors, path):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def named(model, scheme):
    """The tensors of a PyTorch model, under names by a scheme."""
    layers = layers_of(model)
    names = [scheme(place, len(layers)) for place in range(len(layers))]
    return {name.format(key): tensor for name, layer in zip(names, layers) for key, tensor in layer.items()}


def linears(*widths):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), *[part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())][:-1]
    )


def arrays_of(example, tensors):
    return recognise(example, {name: tensor.numpy() for name, tensor in tensors.items()})[0]


@pytest.mark.parametrize("example", REFERRED)
def test_a_common_prefix_changes_nothing(example):
    tensors = reference(example).state_dict()
    plain = arrays_of(example, tensors)
    for prefix in PREFIXES:
        for one, other in zip(plain, arrays_of(example, {f"{prefix}{name}": tensors[name] for name in tensors})):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("example", REFERRED)
def test_other_names_in_the_right_order_are_recognised(example):
    model = reference(example)
    plain = arrays_of(example, model.state_dict())
    for scheme in SCHEMES.values():
        for one, other in zip(plain, arrays_of(example, named(model, scheme)), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("example", REFERRED)
def test_such_a_file_predicts_what_it_did_there(tmp_path, example):
    model = reference(example)
    tensors = named(model, lambda place, count: f"module.model.{SCHEMES['fc'](place, count)}")
    assert_agree(weights.restore(save(tensors, tmp_path / "theirs.safetensors"), example)[0], model)


@pytest.mark.parametrize("widths", [(10, 10), (64, 64, 64), (64, 64, 32, 64), (784, 784), (5,) * 12])
def test_numbers_decide_between_equal_shapes(tmp_path, widths):
    model = linears(784, *widths, 10)
    ours, metadata = weights.restore(save(model.state_dict(), tmp_path / "theirs.safetensors"), "mnist-mlp")
    assert metadata["sizes"]["hidden_units"] == [*widths]
    assert_agree(ours, model)


def test_numbers_are_compared_as_numbers(tmp_path):
    model = linears(784, 6, 6, 6, 10)
    names = [2, 10, 33, 100]
    tensors = named(model, lambda place, count: f"layer_{names[place]}.{{}}")
    assert_agree(weights.restore(save(tensors, tmp_path / "theirs.safetensors"), "mnist-mlp")[0], model)


def test_shapes_decide_where_numbers_contradict_them(tmp_path):
    model = linears(784, 8, 7, 7, 10)
    numbers = [9, 1, 2, 0]
    tensors = named(model, lambda place, count: f"fc{numbers[place]}.{{}}")
    assert_agree(weights.restore(save(tensors, tmp_path / "theirs.safetensors"), "mnist-mlp")[0], model)


@pytest.mark.parametrize("names", [("first", "second", "third"), ("a1", "b1", "c1"), ("enc.0", "mid.0", "dec.0")])
def test_several_assignments_are_refused(tmp_path, names):
    tensors = named(linears(784, 10, 10, 10), lambda place, count: f"{names[place]}.{{}}")
    with pytest.raises(
        ValueError, match=rf"({'|'.join(names[1:])})\.weight could change places\. Received: path=.* Number "
    ):
        weights.restore(save(tensors, tmp_path / "theirs.safetensors"), "mnist-mlp")


def test_names_that_say_nothing_do_where_shapes_say_all(tmp_path):
    model = linears(784, 12, 7, 10)
    tensors = named(model, lambda place, count: f"{'ABC'[-place]}.{{}}")
    assert_agree(weights.restore(save(tensors, tmp_path / "theirs.safetensors"), "mnist-mlp")[0], model)


def test_a_search_ends(tmp_path):
    """Of thirty layers each could be any, but the last fits nowhere."""
    tensors = named(
        linears(784, *[10] * 30, 11), lambda place, count: f"{'abcdefghijklmnopqrstuvwxyz12345'[place]}x.{{}}"
    )
    with pytest.raises(ValueError, match="too many ways to assign its tensors"):
        weights.restore(save(tensors, tmp_path / "theirs.safetensors"), "mnist-mlp")


@pytest.mark.parametrize("tensors", [{"extra.weight": (3, 3)}, {"0.running_mean": (12,)}, {"n_averaged": (1,)}])
def test_what_belongs_to_no_layer_is_refused(tmp_path, tensors):
    tensors = reference("mnist-mlp").state_dict() | {name: torch.zeros(shape) for name, shape in tensors.items()}
    with pytest.raises(ValueError, match=r"Weights that do not fit mnist-mlp: its layers are .*Received: path="):
        weights.restore(save(tensors, tmp_path / "theirs.safetensors"), "mnist-mlp")


def test_tch_numbers_several_lstms_in_their_order(tmp_path):
    """Two of `nn::lstm` with two layers each, and a linear layer, none with a path."""
    torch.manual_seed(0)
    lstm, head = nn.LSTM(9, 6, num_layers=4, batch_first=True), nn.Linear(6, 9)
    taken = {}
    for name, tensor in lstm.state_dict().items():
        parameter, layer = name.rsplit("_l", 1)
        name = f"{parameter}_l{int(layer) % 2}"
        taken[f"{name}__{len(taken)}" if name in taken else name] = tensor
    tensors = taken | {"bias": head.bias.data, "weight": head.weight.data}
    ours, metadata = weights.restore(save(tensors, tmp_path / "theirs.safetensors"), "charrnn")
    assert metadata["sizes"]["layers"] == 4
    model = nn.Module()
    model.forward = lambda ids: head(lstm(nn.functional.one_hot(ids, 9).float())[0])
    assert_agree(ours, model)


@pytest.mark.parametrize("command", ["evaluate", "fit --epochs 1 --limit 128 --load", "sample", "save x.keras"])
def test_commands_say_which_assignment_was_taken(run, tmp_path, command):
    save(named(reference("mnist-mlp"), SCHEMES["fc"]), tmp_path / "theirs.safetensors")
    option = "" if "--load" in command else "--weights"
    data = "" if "save" in command else "--data synthetic"
    result = run(f"mnist {command} {option} theirs.safetensors --arch mlp {data}")
    (line,) = [line for line in result.stderr.splitlines() if "fc1" in line]
    assert line == "theirs.safetensors: fc1.weight as dense, fc2.weight as dense_1, fc3.weight as dense_2"


def test_known_names_need_no_words(tmp_path, capsys):
    example = "mnist-mlp"
    model, metadata = weights.restore(save(reference(example).state_dict(), tmp_path / "theirs.safetensors"), example)
    assert "1.weight as dense, 3.weight as dense_1" in capsys.readouterr().err
    for naming in ("candle", "tch", "keras"):
        weights.write(tmp_path / "ours.safetensors", model, metadata, naming)
        assert_same(model, weights.restore(tmp_path / "ours.safetensors", example)[0])
    assert capsys.readouterr() == ("", "")
