"""What the shell offers, after the lines in docs/training.md."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

TRAINING = (ROOT / "docs/training.md").read_text()
LINES = re.findall(r"^.*_KERAS_EXAMPLES_COMPLETE=.*$", TRAINING, re.MULTILINE)
PROGRAMS = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def bash(script):
    command = ["bash", "--norc", "-c", script]
    environment = os.environ | {"PATH": PROGRAMS}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("mn", "mnist"),
        ("mnist ''", "fit evaluate save sample"),
        ("mnist --arch l", "linear"),
        ("mnist --ar", "--arch"),
        ("mnist --arch cnn --optimizer ad", "adam"),
        ("cifar sample --arch ''", "cnn dense"),
        ("datasets fetch ti", "tinyshakespeare"),
        ("weights ''", "files: default"),
        ("mnist evaluate --data-dir ''", "files: dirnames"),
    ],
)
def test_bash_completes(words, offered):
    line = f"COMP_WORDS=(keras-examples {words}); COMP_CWORD={len(shlex.split(words))}"
    files = 'compopt() { echo "files: $2"; }'  # bash lets nobody else call it
    call = '_keras_examples_completion keras-examples; echo "${COMPREPLY[@]}"'
    assert bash(f"{LINES[0]}\n{files}\n{line}\n{call}").split() == offered.split()


def test_the_lines_for_zsh_and_fish_bring_a_script():
    for line, command in zip(LINES[1:], ("compdef", "complete"), strict=True):
        call = re.search(r"_KERAS_EXAMPLES_COMPLETE=\w+ keras-examples", line).group()
        assert f"{command} " in bash(call)
