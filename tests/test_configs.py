import inspect
import re
import tomllib
from dataclasses import fields

import click
import pytest

from keras_examples import models, weights
from keras_examples.console import choose_backend
from keras_examples.examples import EXAMPLES, Recipe
from keras_examples.training.logs import write_config
from keras_examples.training.run import Run


def test_a_saved_file_gives_the_same_run(run, tmp_path):
    run(
        "mnist --arch mlp --hidden-units 16,8 --data synthetic --limit 130 --early-stopping 2 --epochs 1 --seed 7 "
        "--save one.keras --save-config one.toml"
    )
    run("mnist --config one.toml --save two.keras --save-config two.toml")
    one, two = (tomllib.loads((tmp_path / name).read_text()) for name in ("one.toml", "two.toml"))
    assert two == one | {"save": "two.keras"}
    one, two = (weights.describe(tmp_path / name)["metadata"] for name in ("one.keras", "two.keras"))
    assert (two["sha256"], two["options"]) == (one["sha256"], one["options"])
    assert {"seed", "limit", *(field.name for field in fields(Recipe))} <= one["options"].keys()


def test_a_file_with_a_byte_order_mark(run, tmp_path):
    (tmp_path / "run.toml").write_text('epochs = 1\nlimit = 200\ndata = "synthetic"', "utf-8-sig")
    assert "1 epoch of" in run("mnist --config run.toml").output


@pytest.mark.parametrize("asked", [None, "torch"])
def test_the_backend_of_a_file_goes_before_the_environment(run, tmp_path, monkeypatch, asked):
    monkeypatch.setattr("keras_examples.console.ASKED", asked)
    monkeypatch.setattr("keras_examples.console.find_spec", lambda name: None)
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # as the package itself leaves it
    (tmp_path / "run.toml").write_text('backend = "jax"')
    assert "jax is not installed. Received: --backend jax." in run("mnist --config run.toml", code=1).stderr


def test_a_backend_is_told_of_another_only_if_one_was_asked_for(monkeypatch, capsys):
    for asked in (None, "torch", "jax"):
        monkeypatch.setattr("keras_examples.console.ASKED", asked)
        monkeypatch.setattr("keras_examples.console.find_spec", lambda name: True)
        monkeypatch.setenv("KERAS_BACKEND", "torch")
        context = click.Context(click.Command("fit"))
        choose_backend(context, click.Option(["--backend"]), "jax")
        told = "--backend jax is used, not KERAS_BACKEND=torch\n"
        assert capsys.readouterr().err == (told if asked == "torch" else "")


def test_any_path_comes_back(tmp_path):
    text = 'a "\\q\x7f\n\U0001f600".txt'
    run = Run.begin("charrnn", {"text": text, "save_config": tmp_path / "run.toml"})
    run.check_conditions({"device": "cpu", "backend": "torch"})
    write_config(run)
    assert tomllib.loads((tmp_path / "run.toml").read_text("utf-8"))["text"] == text


def test_options_win_over_the_file_and_the_file_over_the_recipe(run, tmp_path):
    (tmp_path / "run.toml").write_text(
        'data = "synthetic"\nepochs = 3\nlimit = 200\narch = "mlp"\nhidden-units = [5]\naugment = false\n'
        "learning-rate = 1\naccelerate = false\n"
    )
    run("mnist --config run.toml --epochs 2 --save-config all.toml")
    saved = tomllib.loads((tmp_path / "all.toml").read_text())
    expected = {"epochs": 2, "limit": 200, "arch": "mlp", "hidden-units": [5], "augment": False, "accelerate": False}
    expected |= {"learning-rate": 1.0, "batch-size": 128, "optimizer": "adam"}
    assert {key: saved[key] for key in expected} == expected
    message = run("mnist --config run.toml --arch linear", code=1).stderr
    assert "mnist-linear has no such size. Received: --hidden-units (5,)" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "'run.toml' has 'epoch', which is no option of 'main mnist fit'."),
        ("batch_size = 3", "'run.toml' has 'batch_size', which is no option"),
        ("config = 'run.toml'", "'run.toml' has 'config', which is no option"),
        ("[fit]\nepochs = 3", "'run.toml' has 'fit', which is no option"),
        ("epochs = '3'", "'epochs' in 'run.toml' has to be a whole number. Received: '3'."),
        ("epochs = 3.5", "'epochs' in 'run.toml': '3.5' is not a valid integer range. Received: 3.5."),
        ("epochs = true", "'epochs' in 'run.toml': 'True' is not a valid integer range. Received: True."),
        ("learning-rate = '1'", "'learning-rate' in 'run.toml' has to be a number. Received: '1'."),
        ("augment = 'yes'", "'augment' in 'run.toml' has to be true or false. Received: 'yes'."),
        ("hidden-units = '5'", "'hidden-units' in 'run.toml' has to be a list of whole numbers. Received: '5'."),
        ("hidden-units = [0.5]", "'0.5' is not a list of whole numbers from 1 to 65536"),
        ("load = 3", "'load' in 'run.toml' has to be a string. Received: 3."),
        ("lr = 0.1\nlearning-rate = 0.2", "'run.toml' gives --learning-rate and --lr, which are one option."),
        ("epochs = 0", "'epochs' in 'run.toml': 0 is not in the range 1<=x<=1000000000. Received: 0."),
        ("validation-split = nan", "'validation-split' in 'run.toml': nan is not in the range"),
        ("optimizer = 'lion'", "'optimizer' in 'run.toml': 'lion' is not one of"),
        ("epochs 3", "Cannot read 'run.toml': Expected '=' after a key"),
        ("a = " + "[" * 9999, "Cannot read 'run.toml': "),
        ("\udcff", "Cannot read 'run.toml': 'utf-8' codec can't decode"),
        (None, "Cannot read 'run.toml': No such file or directory."),
    ],
)
def test_a_bad_file_is_one_line_and_exit_status_2(run, tmp_path, text, message):
    if text is not None:
        (tmp_path / "run.toml").write_text(text, errors="surrogateescape")
    assert message in run("mnist --config run.toml", code=2).output.splitlines()[-1]


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_row_offers_arguments_of_its_builder_and_help_shows_each_with_its_default(run, example):
    row = EXAMPLES[example]
    assert row.sizes.keys() <= inspect.signature(getattr(models, row.builder)).parameters.keys()
    text = " ".join(run(f"{row.command} fit --help").output.split())
    for name, size in row.sizes.items():
        assert f"--{name.replace('_', '-')} " in text
        assert size.help in text
    for field in fields(Recipe):
        assert f"--{field.name.replace('_', '-')}" in text
    for value in (row.recipe.learning_rate, *(size.default for size in row.sizes.values())):
        assert re.search(rf"\[default: [^]]*{row.arch} ?{str(value).strip('(,)')}", text)
