"""The weights that ship with the project: small, whole, as good as their table says."""

import json
import re

import pytest
from conftest import REAL, ROOT

from keras_examples import weights
from keras_examples.examples import EXAMPLES

SHIPPED = {example: path for example in EXAMPLES if (path := weights.shipped(example)).is_file()}
TABLE = (ROOT / "weights" / "README.md").read_text()
# What the project promises: accuracies at least, losses at most.
PROMISED = {
    "mnist-linear": 0.926,
    "mnist-mlp": 0.984,
    "mnist-cnn": 0.9955,
    "cifar-dense": 0.625,
    "cifar-cnn": 0.68,
    "autoencoder": 0.0039,
    "charrnn": 1.43,
}


def test_they_are_small():
    assert sum(path.stat().st_size for path in SHIPPED.values()) < 16e6


@pytest.mark.parametrize("example", SHIPPED)
def test_the_table_is_of_these_files(example):
    metadata = weights.describe(SHIPPED[example])["metadata"]
    (row,) = re.findall(rf"^\| `{example}\.safetensors` .*$", TABLE, re.MULTILINE)
    assert f"| {metadata['seed']} | {metadata['epochs']} | {round(metadata['seconds'])} |" in row
    assert len(metadata["seeds"]) >= 3
    assert metadata["seeds"][0].items() <= ({"accuracy": None} | metadata["test"]).items()


@pytest.mark.slow
@pytest.mark.realdata
def test_measured_again_they_are_as_good_as_promised(run):
    report = json.loads(run(f"results --json --data-dir {REAL}").stdout)
    for example, promised in PROMISED.items():
        measured = report[example]
        if measured["accuracy"] is None:
            assert measured["loss"] <= promised
        else:
            assert measured["accuracy"] >= promised


def test_text_before_anything_is_trained(run):
    result = run("charrnn sample --prompt ROMEO: --length 200 --seed 0")
    assert result.stderr == f"weights {SHIPPED['charrnn']}\n"
    words = re.findall("[a-z]+", result.stdout.lower())
    known = set(re.findall("[a-z]+", "the and to of i you my a that in is not me it for with be your this his he"))
    assert sum(word in known for word in words) > len(words) / 8
