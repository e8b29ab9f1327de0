"""Characters that tch-rs numbers by their first appearance in the text, where ours are in the order of code points."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from small import assert_same, randomised

from keras_examples import char_lstm, weights
from keras_examples.data import load_text
from keras_examples.show.text import evaluate_text

TEXT = "We all read on, and on; then some of us slept. " * 80
ORDER = "".join(dict.fromkeys(TEXT))  # as tch-rs does


@pytest.fixture
def novel(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "novel.txt").write_text(TEXT)
    return load_text("novel.txt")


@pytest.fixture
def model():
    return randomised(char_lstm(len(ORDER), 6, 2), 0.5)


def as_tch(model):
    """A file of tch-rs's char-rnn: characters in the order of appearance, and nothing that says which they are."""
    first, recurrent, bias, *second, kernel, last = model.get_weights()
    order = [sorted(ORDER).index(character) for character in ORDER]
    tensors = {"weight": kernel.T[order], "bias": last[order]}
    for place, (one, two, three) in enumerate([(first[order], recurrent, bias), second]):
        names = [f"{parameter}_l{place}" for parameter in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        tensors |= zip(names, [one.T, two.T, three / 2, three / 2])
    save_file({name: torch.tensor(np.ascontiguousarray(array)) for name, array in tensors.items()}, "tch.safetensors")
    return tensors


def loss_of(model, text):
    return evaluate_text(model, text.vocabulary.encode(text.validation))


def test_a_file_of_tch_measures_what_it_does_there(run, novel, model):
    as_tch(model)
    result = run("charrnn evaluate --text novel.txt --weights tch.safetensors --json")
    assert json.loads(result.stdout)["loss"] == pytest.approx(loss_of(model, novel), abs=1e-5)
    (line,) = [line for line in result.stderr.splitlines() if "tch.safetensors: " in line]
    assert line.endswith("characters are taken to be numbered by their first appearance in novel, as by tch-rs")
    ours, metadata = weights.restore("tch.safetensors", "charrnn", dataset=novel)
    assert metadata["vocabulary"] == novel.vocabulary.characters
    for one, other in zip(ours.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_training_goes_on_from_a_file_of_tch(run, novel, model):
    as_tch(model)
    run(
        "charrnn fit --text novel.txt --load tch.safetensors --epochs 1 --batch-size 1 --learning-rate 1e-9 --dropout 0"
    )
    path = weights.find(weights.run_name("charrnn", "novel.txt"))
    trained, metadata = weights.restore(path, "charrnn", dataset=novel)
    assert metadata["vocabulary"] == novel.vocabulary.characters
    assert loss_of(trained, novel) == pytest.approx(loss_of(model, novel), abs=1e-3)


def test_ours_goes_to_tch_and_back(run, novel, model):
    metadata = {"example": "charrnn", "vocabulary": novel.vocabulary.characters}
    weights.write("ours.safetensors", model, metadata)
    run("charrnn save tch.safetensors --names tch --weights ours.safetensors --text novel.txt")
    written = load_file("tch.safetensors")
    expected = as_tch(model)
    assert written.keys() == expected.keys()
    for name in ("weight", "bias", "weight_ih_l0", "weight_hh_l1"):
        np.testing.assert_array_equal(written[name], expected[name])
    run("charrnn save again.safetensors --names tch --weights ours.safetensors --text novel.txt")
    assert weights.describe("again.safetensors")["metadata"]["vocabulary"] == ORDER
    again, metadata = weights.restore("again.safetensors", "charrnn")  # which says itself how it is numbered
    assert metadata["vocabulary"] == novel.vocabulary.characters
    assert_same(again, model)
    run("charrnn sample --weights again.safetensors --length 5")


def test_a_file_of_tch_writes_the_text_that_it_would_there(run, novel, model):
    as_tch(model)
    weights.write("ours.keras", model, {"example": "charrnn", "vocabulary": novel.vocabulary.characters})
    given = "charrnn sample --text novel.txt --prompt We --length 40 --seed 1"
    written = [run(f"{given} --weights {name}").stdout for name in ("tch.safetensors", "ours.keras")]
    assert written[0] == written[1]


def test_a_file_of_tch_becomes_one_of_ours(run, novel, model):
    as_tch(model)
    run("charrnn save ours.keras --weights tch.safetensors --text novel.txt")
    ours, metadata = weights.restore("ours.keras", "charrnn")
    assert metadata["vocabulary"] == novel.vocabulary.characters
    assert loss_of(ours, novel) == pytest.approx(loss_of(model, novel), abs=1e-5)


def test_files_that_earlier_versions_called_as_tch_does_are_in_our_order(novel, model):
    metadata = {"example": "charrnn", "vocabulary": novel.vocabulary.characters}
    weights.write("early.safetensors", model, {"example": "charrnn"}, "tch")  # nothing to put in another order
    content = load_file("early.safetensors")
    weights.formats.write(weights.Path("early.safetensors"), content, metadata)
    assert_same(weights.restore("early.safetensors", "charrnn", dataset=novel)[0], model)


@pytest.mark.parametrize(
    "command",
    [
        "evaluate --text novel.txt --weights {}",
        "fit --text novel.txt --epochs 1 --batch-size 1 --load {}",
        "save other.onnx --text novel.txt --weights {}",
        "sample --weights {}",
    ],
)
@pytest.mark.parametrize("names", ["candle", "keras"])
def test_what_has_no_vocabulary_is_refused(run, novel, model, command, names):
    weights.write("nameless.safetensors", model, {"example": "charrnn"}, names)
    line = run(f"charrnn {command.format('nameless.safetensors')}", code=1).stderr.splitlines()[-1]
    assert line.startswith("Error: No vocabulary: the file does not say which characters the ids stand for. Received: ")


def test_without_the_text_nothing_is_guessed(run, novel, model):
    weights.write("ours.safetensors", model, {"example": "charrnn", "vocabulary": novel.vocabulary.characters})
    (line,) = run("charrnn save tch.safetensors --names tch --weights ours.safetensors", code=1).stderr.splitlines()
    assert line.startswith("Error: tch-rs numbers characters by their first appearance in the text that was learned.")
    assert line.endswith("Give it with --text, or fetch it: `python cli.py datasets fetch tinyshakespeare`.")
    as_tch(model)
    for command in ("sample", "save ours.keras"):  # tinyshakespeare is not here
        (line,) = run(f"charrnn {command} --weights tch.safetensors", code=1).stderr.splitlines()
        assert line.startswith("Error: No vocabulary:")


def test_another_text_is_said(run, novel, model, tmp_path):
    weights.write("ours.safetensors", model, {"example": "charrnn", "vocabulary": novel.vocabulary.characters})
    as_tch(model)
    (tmp_path / "short.txt").write_text("abcdefgh" * 500)
    for name in ("ours", "tch"):
        command = f"charrnn save other.safetensors --names tch --weights {name}.safetensors --text short.txt"
        (line,) = run(command, code=1).stderr.splitlines()
        assert line.startswith(f"Error: Weights of another vocabulary: {len(ORDER)} characters, the text has 8.")


def test_tch_reads_no_text_beyond_ascii(run, tmp_path):
    (tmp_path / "cafe.txt").write_text("un café, deux cafés; " * 200)
    characters = "".join(sorted(set("un café, deux cafés; ")))
    model = char_lstm(len(characters), 4)
    weights.write("cafe.safetensors", model, {"example": "charrnn", "vocabulary": characters})
    command = "charrnn save tch.safetensors --names tch --weights cafe.safetensors --text cafe.txt"
    (line,) = run(command, code=1).stderr.splitlines()
    assert line == "Error: tch-rs reads bytes, not characters. Received: cafe, not in ASCII. Use other names."


@pytest.mark.parametrize("vocabulary", ["abc", "aabcdefgh", "abcdefghij"])
def test_a_vocabulary_of_another_length_is_damage(tmp_path, vocabulary):
    weights.write(tmp_path / "odd.safetensors", char_lstm(9, 4), {"example": "charrnn", "vocabulary": vocabulary})
    with pytest.raises(ValueError, match=r"Damaged weights: \d+ characters by the metadata and 9 by the arrays"):
        weights.restore(tmp_path / "odd.safetensors", "charrnn")


def test_another_vocabulary_is_said(tmp_path, novel):
    weights.write("abc.safetensors", char_lstm(3, 4), {"example": "charrnn", "vocabulary": "abc"})
    assert (
        weights.vocabulary_of("abc.safetensors", weights.restore("abc.safetensors", "charrnn")[1]).characters == "abc"
    )
    with pytest.raises(ValueError, match="Weights of another vocabulary: 3 characters"):
        weights.restore("abc.safetensors", "charrnn", dataset=novel)
