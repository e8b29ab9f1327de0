"""What a run may write and overwrite, and what it refuses before it trains."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time

import h5py
import keras
import numpy as np
import pytest
from conftest import ROOT

from keras_examples import training, weights
from keras_examples.training import fit

SMALL = {"data": "synthetic", "limit": 130, "epochs": 3, "batch_size": 32, "validation_split": 0.01}
CHECKPOINT = "weights/mnist-linear-synthetic.checkpoint.h5"
silent = {"echo": lambda line: None}


def interrupted(folder):
    """Interrupts a run after its first epoch, in this folder; returns its checkpoint."""

    def echo(line):
        if line.startswith("epoch 1/"):
            os.kill(os.getpid(), 2)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        fit("mnist-linear", **SMALL, echo=echo)
    return folder / CHECKPOINT


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    return interrupted(tmp_path_factory.mktemp("interrupted"))


@pytest.fixture
def checkpoint(left, tmp_path, monkeypatch):
    """The checkpoint of an interrupted run in this test's folder, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(left.parent, tmp_path / "weights")
    return tmp_path / CHECKPOINT


def rewrite(path, options):
    """Gives a checkpoint other options, as a stranger could, with a right checksum."""
    with h5py.File(path) as file:
        arrays = {name: file[name][()] for name in file}
    run = json.loads(arrays["run"].tobytes())
    run["options"] |= options
    arrays["run"] = np.frombuffer(json.dumps(run).encode(), np.uint8)
    content = io.BytesIO()
    with h5py.File(content, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = array
    buffer = content.getbuffer()
    buffer[:32] = hashlib.sha256(buffer[512:]).digest()
    path.write_bytes(buffer)


@pytest.mark.parametrize("option", ["save", "save_config", "log_dir", "load"])
def test_a_checkpoint_names_no_file_to_write(checkpoint, tmp_path, option):
    victim = tmp_path / "victim.toml"
    victim.write_text("precious")
    rewrite(checkpoint, {option: str(victim), "plot": True})
    assert fit("mnist-linear", resume=True, **silent)["epochs"] == 3
    assert victim.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"victim.toml", "weights"}
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["mnist-linear-synthetic.weights.h5"]


@pytest.mark.parametrize("data", ["real", "auto"])
def test_a_checkpoint_names_no_folder_to_download_into(checkpoint, tmp_path, data):
    rewrite(checkpoint, {"data": data, "data_dir": str(tmp_path / "elsewhere")})
    with pytest.raises(FileNotFoundError, match=r"elsewhere has no train-images.*Run `python cli.py datasets fetch"):
        fit("mnist-linear", resume=True, **silent)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "options", [{"epochs": "3"}, {"limit": 1.5}, {"sizes": []}, {"batch_size": True}, {"text": ["x"]}]
)
def test_options_of_other_types_are_refused(checkpoint, options):
    rewrite(checkpoint, options)
    with pytest.raises(ValueError, match=rf"Not a checkpoint of such a run \(its {next(iter(options))} is"):
        fit("mnist-linear", resume=True, **silent)


def test_a_new_run_does_not_overwrite_an_interrupted_one(checkpoint, tmp_path):
    before = checkpoint.read_bytes()
    with pytest.raises(OSError, match=rf"A run was interrupted here\. Received: {CHECKPOINT}\. Add --resume to go on"):
        fit("mnist-linear", **SMALL, seed=1, **silent)
    assert checkpoint.read_bytes() == before
    assert fit("mnist-linear", **SMALL, save="other.weights.h5", **silent)["epochs"] == 3
    assert fit("mnist-linear", resume=True, **silent)["epochs"] == 3


def test_of_two_runs_at_once_the_second_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, str(ROOT / "cli.py"), "mnist", "--data", "synthetic", "--no-plot", "--epochs"]
    with subprocess.Popen([*command, "100000"], cwd=tmp_path, stdout=subprocess.DEVNULL) as first:
        while not (tmp_path / CHECKPOINT).exists():
            assert first.poll() is None
            time.sleep(0.05)
        try:
            for options in ({"data": "synthetic", "epochs": 1}, {"resume": True}):
                with pytest.raises(OSError, match=r"^Another run is writing mnist-linear-synthetic\.weights\.h5\. Rec"):
                    fit("mnist-linear", **options, **silent)
        finally:
            first.kill()


def test_after_a_kill_the_file_is_free_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = "import os; from keras_examples.files import claimed; from pathlib import Path\n"
    script += "with claimed(Path('weights/mnist-linear-synthetic.weights.h5')): os._exit(9)"
    assert (
        subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
        ).returncode
        == 9
    )
    assert fit("mnist-linear", **SMALL, **silent)["epochs"] == 3
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["mnist-linear-synthetic.weights.h5"]


@pytest.mark.parametrize("option", ["save", "save_config", "log_dir"])
def test_a_dry_run_writes_nothing_so_it_takes_no_name_to_write(tmp_path, option):
    with pytest.raises(ValueError, match=r"A dry run writes nothing\. Received: --dry-run and .*x\.keras\."):
        fit("mnist-linear", data="synthetic", dry_run=True, **{option: tmp_path / "x.keras"}, **silent)


@pytest.mark.parametrize(
    ("option", "path"), [("save", "/proc/x.weights.h5"), ("save", "/sys/x.weights.h5"), ("log_dir", "/proc/x")]
)
def test_where_it_cannot_write_a_run_ends_before_it_loads_data(option, path):
    with pytest.raises(OSError, match=rf"^Cannot write to {os.path.dirname(path)}: .*Received: path="):
        fit("mnist-linear", data="real", data_dir="missing", **{option: path}, **silent)


def test_the_weights_are_written_once_also_where_that_takes_an_export(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(weights, "write", lambda path, *rest: written.append(path))
    fit("mnist-linear", **SMALL, save=tmp_path / "linear.weights.h5", **silent)
    assert written == [tmp_path / "linear.weights.h5"]


def test_weights_are_kept_if_measuring_them_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(training.tasks.Classification, "measure", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit("mnist-linear", **SMALL, save=tmp_path / "linear.weights.h5", **silent)
    assert weights.describe(tmp_path / "linear.weights.h5")["metadata"]["epochs"] == 3


def test_samples_are_counted_as_they_were_seen(tmp_path, monkeypatch):
    seen, train = [], training.train

    def spy(*arguments):
        seen.append(train(*arguments))
        return seen[-1]

    monkeypatch.setattr(training, "train", spy)
    fit("mnist-linear", **SMALL, save=tmp_path / "linear.weights.h5", **silent)
    assert seen[0].samples == 3 * 130  # of which two are a batch of their own


@pytest.mark.parametrize("limit", ["max_epochs", "max_steps_per_epoch"])
def test_a_limit_of_keras_is_refused_and_stays(limit):
    set_limit = getattr(keras.config, f"set_{limit}")
    set_limit(2)
    try:
        with pytest.raises(ValueError, match=r"^Keras would cut it short, .* Received: 2\."):
            fit("mnist-linear", **SMALL, **silent)
        assert getattr(keras.config, limit)() == 2
    finally:
        set_limit(None)


def test_an_option_or_example_that_does_not_exist():
    with pytest.raises(ValueError, match=r"No such option of fit\. Received: epoch\. Known are accelerate, augment,"):
        fit("mnist-linear", epoch=3)
    with pytest.raises(ValueError, match=r"No such example\. Received: mnist\. Choose one of mnist-linear,"):
        fit("mnist")
