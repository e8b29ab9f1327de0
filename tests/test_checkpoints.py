"""Runs that are interrupted, killed, damaged or tampered with, and go on.

python tests/test_checkpoints.py 200    # kills so many runs at random moments; each has to end to the bit with --resume
"""

import functools
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import pytest
from conftest import ROOT

from keras_examples import weights
from keras_examples.data.batches import Batches
from keras_examples.examples import EXAMPLES, Recipe
from keras_examples.models import mnist_linear
from keras_examples.training import fit
from keras_examples.training.checkpoints import read_run, restore
from keras_examples.training.optimizers import optimizer

SMALL = {"data": "synthetic", "limit": 130, "epochs": 3, "batch_size": 32, "validation_split": 0.01}
CHARACTERS = {"limit": 14, "batch_size": 4, "sizes": {"units": 8}, "validation_split": 0.97}
NEWEST, PREVIOUS = (f"weights/mnist-linear-synthetic.checkpoint{part}.h5" for part in ("", ".previous"))
silent = {"echo": lambda line: None}
resume = functools.partial(fit, resume=True)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def stopper(monkeypatch):
    """A function that has SIGTERM sent when a training batch, counted from 1, is asked for.

    Keras asks for the first batch once more when it builds the model's metrics.
    """
    share = Batches.share

    def stop(batch):
        count = iter(range(10**6))

        def counted(self, index):
            if self.seed is not None and next(count) == batch:
                os.kill(os.getpid(), signal.SIGTERM)
            return share(self, index)

        monkeypatch.setattr(Batches, "share", counted)

    return stop


@pytest.fixture
def stop_at(monkeypatch):
    return stopper(monkeypatch)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with a run of mnist-linear that was stopped in its second epoch, and the report of one that was not."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        whole = fit("mnist-linear", **SMALL, save=folder / "whole.weights.h5", **silent)
        stopper(monkeypatch)(8)
        assert fit("mnist-linear", **SMALL, **silent)["interrupted"]
    return folder, whole


@pytest.fixture
def interrupted(stopped, tmp_path):
    """That run in this test's folder; returns what the whole run came to."""
    folder, whole = stopped
    shutil.copytree(folder / "weights", tmp_path / "weights")
    return whole


def same(one, two):
    models = [weights.restore(report["weights"], report["example"])[0].get_weights() for report in (one, two)]
    return one["history"] == two["history"] and all((a == b).all() for a, b in zip(*models, strict=True))


QUICK = [(name, accelerated) for name in ("mnist-linear", "mnist-cnn") for accelerated in (True, False)]
SLOW = [pytest.param(name, True, marks=pytest.mark.slow) for name in EXAMPLES if (name, True) not in QUICK]


@pytest.mark.parametrize(("example", "accelerated"), [*QUICK, *SLOW])
def test_a_resumed_run_ends_as_the_one_that_was_never_stopped_to_the_bit(example, accelerated, stop_at, tmp_path):
    options = SMALL | (CHARACTERS if example == "charrnn" else {}) | {"accelerate": accelerated}
    whole = fit(example, **options, save="whole.weights.h5", **silent)
    stop_at(2)  # in the middle of the first epoch
    report = fit(example, **options, **silent)
    assert (report["interrupted"], report["epochs"], report["weights"], report["loss"]) == (True, 0, None, None)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.glob("weights/*")] == [report["checkpoint"]]

    def stop_at_its_end(line):
        if line.startswith("epoch 1/"):
            os.kill(os.getpid(), signal.SIGINT)

    assert resume(example, data="synthetic", echo=stop_at_its_end)["epochs"] == 1
    stop_at(3)  # in the middle of the second
    assert resume(example, data="synthetic", **silent)["epochs"] == 1
    stop_at(None)
    assert same(resume(example, data="synthetic", **silent), whole)
    assert [path.name for path in tmp_path.glob("weights/*")] == [f"{example}-synthetic.weights.h5"]


def test_an_interrupted_run_leaves_the_weights_of_a_finished_one_alone(stop_at):
    finished = fit("mnist-linear", **SMALL, seed=1, **silent)
    with open(finished["weights"], "rb") as file:
        before = file.read()
    stop_at(7)
    assert fit("mnist-linear", **SMALL, **silent)["interrupted"]
    with open(finished["weights"], "rb") as file:
        assert file.read() == before


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "missing"])
def test_the_checkpoint_before_stands_in_for_a_damaged_one(interrupted, damage, tmp_path):
    newest = tmp_path / NEWEST
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"truncated": content[:-9], "flipped": content}.get(damage, b""))
    if damage == "missing":
        newest.unlink()
    lines = []
    assert same(resume("mnist-linear", echo=lines.append), interrupted)
    assert lines[0] == f"{NEWEST} is missing or damaged: going on from {PREVIOUS}"


def test_damaged_checkpoints_alone_are_an_error(interrupted, tmp_path):
    for name in (NEWEST, PREVIOUS):
        (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match=rf"^Damaged checkpoint\. Received: {NEWEST} and {PREVIOUS}\. Train anew"):
        resume("mnist-linear", **silent)


def test_without_a_checkpoint_the_files_looked_for_are_named():
    with pytest.raises(FileNotFoundError, match=r"Received: weights/mnist-mlp\.checkpoint\.h5 and .*-synthetic\."):
        resume("mnist-mlp", **silent)
    with pytest.raises(FileNotFoundError, match=r"Received: models/mine\.checkpoint\.h5 missing\."):
        resume("mnist-mlp", save="models/mine.keras", **silent)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 9}, r"Received: epochs=9, was 3\. .* even its epochs"),
        ({"seed": 1}, "Received: seed=1, was 0"),
        ({"accelerate": False}, "Received: accelerate=False, was True"),
        ({"sizes": {"hidden_units": (9,)}}, r"Received: hidden_units=\[9\], was None"),
        ({"dry_run": True}, "Received: dry_run=True, was False"),
        ({"early_stopping": 2}, "Received: early_stopping=2, was None"),
    ],
)
def test_a_run_keeps_the_options_it_was_started_with(interrupted, given, message):
    with pytest.raises(ValueError, match=message):
        resume("mnist-linear", **given, **silent)


def test_options_that_agree_may_be_given_again(interrupted):
    assert same(resume("mnist-linear", **SMALL, seed=0, **silent), interrupted)


def test_patience_and_the_best_weights_go_on_as_they_were(stop_at):
    options = SMALL | {"epochs": 14, "learning_rate": 0.05, "early_stopping": 3}
    whole = fit("mnist-linear", **options, save="whole.weights.h5", **silent)
    losses = whole["history"]["val_loss"]
    assert (whole["stopped_early"], whole["best_epoch"]) == (True, losses.index(min(losses)) + 1)
    stop_at(5 * (whole["best_epoch"] + 1) + 2)  # while it runs out
    assert fit("mnist-linear", **options, **silent)["epochs"] == whole["best_epoch"] + 1
    stop_at(None)
    assert same(resume("mnist-linear", **silent), whole)


def test_a_checkpoint_of_another_example(stop_at):
    stop_at(2)
    fit("mnist-mlp", **SMALL, save="mine.weights.h5", **silent)
    with pytest.raises(ValueError, match="Received: example='mnist-linear', was 'mnist-mlp'"):
        resume("mnist-linear", save="mine.weights.h5", **silent)


def test_a_text_that_changed_since(stop_at, tmp_path):
    text = tmp_path / "novel.txt"
    text.write_text("We all read on, and on. " * 200)
    stop_at(2)
    options = {"text": text, "sizes": {"units": 8}, "epochs": 2, "batch_size": 4}
    checkpoint = fit("charrnn", **options, **silent)["checkpoint"]
    stop_at(None)
    text.write_text("We all read on, and no. " * 200)
    with pytest.raises(FileNotFoundError, match=r"No checkpoint to go on from\. Received: weights/charrnn-novel-"):
        resume("charrnn", text=text, **silent)
    save = checkpoint.replace(".checkpoint.h5", ".weights.h5")
    with pytest.raises(ValueError, match=r"its data is another\. Received: novel \(real\), SHA-256 .*, was novel"):
        resume("charrnn", text=text, save=save, **silent)


def seal(path):
    content = bytearray(path.read_bytes())
    content[:32] = hashlib.sha256(content[512:]).digest()
    path.write_bytes(content)


def put(name, **how):
    def change(file):
        del file[name]
        file.create_dataset(name, **how)

    return change


def link(to):
    def change(file):
        del file["model 0"]
        file["model 0"] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        put("model 0", data=np.zeros((9, 9), "f4")),
        put("model 0", data=np.zeros((784, 10), "f8")),
        put("model 0", data=np.full((784, 10), "no", h5py.string_dtype())),
        put("model 0", shape=(2**40,), dtype="f4", chunks=(2**20,)),
        put("model 0", shape=(784, 10), dtype="f4", external=[("/dev/zero", 0, 784 * 10 * 4)]),
        put("random cpu", data=np.zeros(3, "u1")),
        put("run", shape=(2**50,), dtype="u1", chunks=(2**20,)),
        put("run", data=np.frombuffer(b"[1]", "u1")),
        put("run", data=np.frombuffer(b"{" * 9, "u1")),
        put("run", data=np.frombuffer(b"[" * 10**5, "u1")),
        link(h5py.SoftLink("/model 1")),
        link(h5py.ExternalLink("elsewhere.h5", "/model 0")),
        lambda file: file.pop("optimizer 1"),
    ],
)
def test_a_checkpoint_that_was_tampered_with_is_refused(interrupted, change, tmp_path):
    path = tmp_path / NEWEST
    with h5py.File(path, "r+") as file:
        change(file)
    seal(path)
    model = mnist_linear()
    model.compile(optimizer(Recipe(epochs=1, learning_rate=0.1), 9), "mse")
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=r"^Not a checkpoint of such a run \(.+\)\. Received: path=.*\. Train anew"):
        read_run(path)
        restore(path, model)


def python(script, *arguments):
    result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_full_disk_leaves_the_checkpoint_before(interrupted, tmp_path):
    pytest.importorskip("resource", reason="a file-size limit stands in for the full disk")
    before = (tmp_path / NEWEST).read_bytes()
    output = python(
        """
import resource
from keras_examples.training import fit
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    fit("mnist-linear", resume=True, echo=lambda line: None)
except OSError as error:
    print(error)
"""
    )
    assert output.startswith(f"Cannot write {NEWEST.removeprefix('weights/')}: File too large. Received: path=")
    assert output.count("\n") == 1
    assert (tmp_path / NEWEST).read_bytes() == before
    assert same(resume("mnist-linear", **silent), interrupted)


# A process that forks for each round, since starting Python with Keras takes seconds.
KILL = """
import dataclasses, os, random, signal, sys, time
import numpy as np
from keras_examples.data import DATASETS
from keras_examples.training import fit
from keras_examples.weights import restore

def child(function):
    if (pid := os.fork()) == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return pid

def succeeds(function):
    return os.waitpid(child(function), 0)[1] == 0

def train(**options):
    options = options or {"data": "synthetic", "limit": 150, "batch_size": 50, "epochs": 10}
    fit("mnist-linear", echo=lambda line: None, **options)

def resume():
    train(resume=True)

def there(kind):
    return os.path.exists(f"weights/mnist-linear-synthetic.{kind}.h5")

def saving():
    return any(name[0] == "." and name.endswith(".h5") for name in os.listdir("weights"))

def weights():
    return restore("weights/mnist-linear-synthetic.weights.h5", "mnist-linear")[0].get_weights()

def compare():
    whole = np.load("whole.npz")
    assert all((a == whole[name]).all() for a, name in zip(weights(), whole.files, strict=True))

row = DATASETS["mnist"]
digits = row.stand_in.make()
DATASETS["mnist"] = dataclasses.replace(row, stand_in=row.stand_in._replace(make=lambda: digits))
start = time.monotonic()
assert succeeds(train)
seconds = time.monotonic() - start
assert succeeds(lambda: np.savez("whole.npz", *weights()))  # no torch in this process, so that the others may fork
chance = random.Random(0)
for round in range(int(sys.argv[1])):
    os.unlink("weights/mnist-linear-synthetic.weights.h5")
    pid = child(train)
    while round % 3 and not there("checkpoint") and not there("weights"):
        time.sleep(0.001)
    if round % 3 < 2:
        time.sleep(chance.uniform(0, seconds / (1 + round % 3)))
    else:  # while it saves, if that comes again
        wanted = time.monotonic() + 1
        while time.monotonic() < wanted and not saving():
            time.sleep(0.0001)
        time.sleep(chance.choice((0, 0.0005, 0.001, 0.002)))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    left = sorted(os.listdir("weights")) if os.path.exists("weights") else []
    if not there("weights"):
        assert succeeds(resume if there("checkpoint") or there("checkpoint.previous") else train), left
        assert os.listdir("weights") == ["mnist-linear-synthetic.weights.h5"], left
    assert succeeds(compare), left
    print(*left or ["nothing"], flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_any_moment_a_run_can_go_on(tmp_path):
    assert python(KILL, "12").count("\n") == 12


def test_the_same_command_with_resume_ends_an_interrupted_one():
    options = SMALL | {"limit": 1000, "epochs": 100}
    whole = fit("mnist-linear", **options, save="whole.weights.h5", **silent)
    command = [sys.executable, str(ROOT / "cli.py"), "mnist"]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not process.stdout.readline().startswith("epoch 2/"):
            assert process.poll() is None
        process.terminate()
        stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (130, "")
    assert stdout.splitlines()[-2:] == [f"checkpoint in {NEWEST}", "try: the same command with --resume"]
    lines = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[2] == f"going on from {NEWEST}:"
    report = {"weights": "weights/mnist-linear-synthetic.weights.h5", "example": "mnist-linear"}
    assert same(report | {"history": None}, whole | {"history": None})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(subprocess.run([sys.executable, "-c", KILL, sys.argv[1]], cwd=folder).returncode)
