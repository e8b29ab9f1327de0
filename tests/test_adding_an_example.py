"""docs/adding-an-example.md, followed word for word in a copy of the project."""

import json
import re
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

PAGE = (ROOT / "docs" / "adding-an-example.md").read_text()
BLOCKS = re.findall(r"<!-- append to (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL)
(COMMANDS,) = re.findall(r"<!-- try -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
HELP = ["mnist --help", "mnist fit --help", "cifar --help", "autoencoder sample --help", "charrnn --help", "--help"]
# All commands in one process, since starting Keras takes seconds; each answers with its exit status and its output.
SESSION = """
import contextlib, io, json, sys
import cli
for command in json.load(sys.stdin):
    output, status = io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            cli.main(command.split(), prog_name="cli.py")
        except SystemExit as error:
            status = error.code
    print(json.dumps([status or 0, output.getvalue()]))
"""


def session(folder, commands):
    """What each command prints in this folder; all have to succeed."""
    result = subprocess.run(
        [sys.executable, "-c", SESSION], input=json.dumps(commands), cwd=folder, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    answers = {}
    for command, line in zip(commands, result.stdout.splitlines(), strict=True):
        status, answers[command] = json.loads(line)
        assert status == 0, (command, answers[command])
    return answers


def copy(folder):
    shutil.copy(ROOT / "cli.py", folder)
    shutil.copytree(ROOT / "keras_examples", folder / "keras_examples", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = copy(tmp_path_factory.mktemp("project"))
    assert len({name for name, _ in BLOCKS}) <= 3
    for name, code in BLOCKS:
        with (folder / name).open("a") as file:
            file.write(f"\n{code}")
    return folder


def write_clothes(folder):
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for part, count in (("train", 300), ("t10k", 100)):
        images = struct.pack(">4I", 0x803, count, 28, 28) + generator.bytes(count * 784)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        labels = struct.pack(">2I", 0x801, count) + bytes(range(10)) * (count // 10)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)


def test_the_page_works(project):
    write_clothes(project / "datasets" / "fashion-mnist")
    commands = [line.removeprefix("python cli.py ") for line in COMMANDS.splitlines()]
    measured = commands.pop()  # `results`, which needs the real data of the others
    assert measured == "results"
    architectures = [f"fashion-mnist --arch {arch} --dry-run" for arch in ("linear", "mlp")]
    answers = session(project, [*commands, *architectures, "datasets list --json"])
    _, _, trained, evaluated, sampled, _, back = (answers[command] for command in commands)
    assert trained.startswith("fashion-mnist-cnn on fashion-mnist (real data)")
    assert "ankle boot" in evaluated
    lines, again = evaluated.splitlines(), back.splitlines()
    assert lines.pop(1) == "weights in weights/fashion-mnist-cnn.weights.h5"
    assert again.pop(1) == "weights in clothes.safetensors"
    assert lines == again
    assert (project / "samples" / "fashion-mnist-cnn.png").is_file()
    assert "of 5 right" in sampled
    assert json.loads(answers["datasets list --json"].splitlines()[-1])["fashion-mnist"]["state"] == "complete"


def test_offline_the_stand_in_is_not_called_fashion_mnist(project, tmp_path):
    answers = session(project, [f"fashion-mnist --data synthetic --data-dir {tmp_path} --dry-run"])
    (line, *_) = next(iter(answers.values())).splitlines()
    assert line.startswith("fashion-mnist-linear on drawn digits (synthetic data)")


def test_the_help_of_every_other_command_is_unchanged(project, tmp_path):
    before, after = session(copy(tmp_path), HELP), session(project, HELP)
    assert "Clothes in ten classes" in after.pop("--help")
    before.pop("--help")
    assert after == before


@pytest.mark.slow
@pytest.mark.realdata
def test_results_measures_what_ships_and_says_that_the_rest_does_not(project):
    (lines,) = session(project, [f"results --data-dir {ROOT / 'datasets'}"]).values()
    assert re.search(r"^mnist-cnn +test 99\.\d+%", lines, re.MULTILINE)
    assert re.search(r"^fashion-mnist-cnn +no weights come with the project$", lines, re.MULTILINE)
