"""The README and the pages under docs/ keep their promises: their commands run in the order given, their code runs."""

import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image, ImageDraw

README = (ROOT / "README.md").read_text()
PAGES = {"README": README}
FOLLOWED = ("training", "your-data", "weights", "pictures")
PAGES |= {path.stem: path.read_text() for path in (ROOT / "docs").glob("*.md") if path.stem in FOLLOWED}
TRAINING = {"mnist", "cifar", "autoencoder", "charrnn"}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_runs(run, tmp_path, page):
    digit = Image.new("L", (200, 200), 220)
    ImageDraw.Draw(digit).line([(60, 40), (130, 40), (80, 160)], 30, 9)
    digit.save(tmp_path / "my-digit.png")
    (tmp_path / "my-digits").mkdir()
    digit.save(tmp_path / "my-digits" / "seven.png")
    Image.effect_noise((400, 300), 90).save(tmp_path / "photo.jpg")
    (tmp_path / "my-novel.txt").write_text("We all read on, and on. " * 200)
    (tmp_path / "run.toml").write_text("limit = 300")
    commands = re.findall(r"^python cli\.py (.*?)(?:\s+#.*)?$", PAGES[page], re.MULTILINE)
    assert len(commands) > 1
    for command in commands:
        name, *rest = shlex.split(command)
        if name in ("demo", "results") or "--resume" in rest:
            continue  # serves until Ctrl-C, needs the real data, an interrupted run: other tests do that
        if name in TRAINING and not (rest and rest[0] in ("evaluate", "sample", "save")):
            command += " --epochs 1 --limit 300 --batch-size 16"
        if name in TRAINING and "--text" not in rest and rest[:1] != ["save"] and "charrnn" not in command:
            command += " --data synthetic"
        run(command)


def test_the_readme_stays_short_and_links_only_to_what_is_there():
    assert len(README.splitlines()) <= 140
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize(("page", "start"), [("README.md", "from"), ("docs/accelerate.md", "import")])
def test_the_code_runs(tmp_path, page, start):
    (code,) = re.findall(rf"```python\n({start} .*?)```", (ROOT / page).read_text(), re.DOTALL)
    code = code.replace("load_mnist()", "load_mnist(data='synthetic')")
    command = [sys.executable, "-W", "error:.*not accelerated", "-c", code]
    subprocess.run(command, cwd=tmp_path, check=True)


@pytest.mark.parametrize("kind", ["run", "test"])
def test_one_command_sets_everything_up(kind):
    (command,) = re.findall(rf"<!-- {kind} -->\n```sh\n(.*)\n```", README)
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install")


def test_continuous_integration_runs_the_same_command():
    assert "<!-- test -->" in (ROOT / ".ci" / "run").read_text()
