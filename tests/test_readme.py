"""The README keeps its promises: its commands run in the order given, its code runs, its list of files is complete."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^python cli\.py (.*?)(?:\s+#.*)?$", README, re.MULTILINE)
TRAINING = {"mnist", "cifar", "autoencoder", "charrnn"}


def test_every_command_runs(run, tmp_path):
    Image.effect_noise((40, 30), 90).save(tmp_path / "my-digit.png")
    Image.effect_noise((400, 300), 90).save(tmp_path / "photo.jpg")
    (tmp_path / "my-novel.txt").write_text("We all read on, and on. " * 200)
    shutil.copytree(ROOT / "weights" / "shipped", tmp_path / "weights" / "shipped")
    assert len(COMMANDS) > 10
    for command in COMMANDS:
        name, *rest = shlex.split(command)
        if name in ("demo", "results"):
            continue  # serves until Ctrl-C, needs the real data: test_demo.py and test_results.py do that
        training = name in TRAINING and not (rest and rest[0] in ("evaluate", "sample", "save"))
        if training:
            command += " --epochs 1 --limit 300 --batch-size 16"
        if name in TRAINING and "--text" not in rest and rest[:1] != ["save"] and "charrnn" not in command:
            command += " --data synthetic"
        run(command)


def test_the_code_runs(tmp_path):
    (code,) = re.findall(r"```python\n(from .*?)```", README, re.DOTALL)
    code = code.replace("load_mnist()", "load_mnist(data='synthetic')")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize("kind", ["run", "test"])
def test_one_command_sets_everything_up(kind):
    (command,) = re.findall(rf"<!-- {kind} -->\n```sh\n(.*)\n```", README)
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install")


def test_continuous_integration_runs_the_same_command():
    assert "<!-- test -->" in (ROOT / ".ci" / "run").read_text()
