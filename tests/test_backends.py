"""One set of weights on three backends. Each backend is a process of its own, which runs the command line."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from conftest import ROOT

from keras_examples import weights
from keras_examples.examples import EXAMPLES

pytestmark = pytest.mark.slow

OTHERS = [
    pytest.param(name, marks=pytest.mark.skipif(not find_spec(name), reason=f"{name} is not installed"))
    for name in ("jax", "tensorflow")
]
# All steps of one size, since each size is compiled.
IMAGES = "--no-plot --data synthetic --epochs 1 --limit 1024 --validation-split 0.0128"
CHARACTERS = "--no-plot --data synthetic --epochs 1 --limit 256 --units 32 --dropout 0 --weight-dropout 0"
INTERRUPTED = "mnist --arch cnn --no-plot --data synthetic --epochs 4 --limit 1024 --validation-split 0.0128"
SAMPLES = ("charrnn sample --length 200 --temperature 0", "charrnn sample --length 200 --seed 0")
ENVIRONMENT = os.environ | {"JAX_COMPILATION_CACHE_DIR": "compiled", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
SAME = len(EXAMPLES) + len(SAMPLES)
SESSION = """
import dataclasses, functools, json, sys
import numpy as np
from cli import main
from keras_examples import data

for name, row in data.DATASETS.items():  # whose stand-ins take seconds
    stand_in = row.stand_in._replace(make=functools.cache(row.stand_in.make))
    data.DATASETS[name] = dataclasses.replace(row, stand_in=stand_in)
commands, paths = json.load(sys.stdin)
for command in commands:
    main([*command.split(), "--json"], standalone_mode=False)

from keras_examples import weights
from keras_examples.examples import EXAMPLES
from keras_examples.training.tasks import task_of

def logits(example, path):
    test = task_of(example).split(data.load(EXAMPLES[example].dataset, "synthetic"), 0)[2]
    x = test[0][:2000] if isinstance(test, tuple) else test[:2000].reshape(40, 50)
    return weights.restore(path, example)[0].predict(x, verbose=0)

np.savez("logits.npz", **{example: logits(example, path) for example, path in paths.items()})
print(json.dumps([name for name in ("torch", "jax", "tensorflow") if name in sys.modules]))
"""


def session(backend, folder, commands, paths):
    """Runs commands in one process; returns their reports, the logits by these weights, and the backends imported."""
    result = subprocess.run(
        [sys.executable, "-c", SESSION],
        input=json.dumps([commands, paths]),
        cwd=folder,
        env=ENVIRONMENT | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    *reports, imported = map(json.loads, result.stdout.splitlines())
    with np.load(folder / "logits.npz") as logits:
        return reports, dict(logits), imported


def command(example, verb, rest):
    row = EXAMPLES[example]
    return f"{row.command} {verb} {f'--arch {row.arch} ' if row.arch else ''}{rest}"


def measure(paths):
    return [command(example, "evaluate", f"--data synthetic --weights {path}") for example, path in paths.items()]


def train(paths, starts):
    """Commands that train without dropout, from weights if there are any."""
    sizes = {"charrnn": CHARACTERS, "mnist-cnn": f"{IMAGES} --dropout 0"}
    loads = {example: f" --load {path}" for example, path in starts.items()}
    return [
        command(example, "fit", f"{sizes.get(example, IMAGES)} --save {path}{loads.get(example, '')}")
        for example, path in paths.items()
    ]


def named(folder):
    return {example: str(folder / f"{example}.safetensors") for example in EXAMPLES}


def compared(starts, folder):
    """Commands whose reports should be the same on all backends: `SAME` on weights, then training from there."""
    samples = [f"{sample} --weights {starts['charrnn']}" for sample in SAMPLES]
    return [*measure(starts), *samples, *train(named(folder), starts)]


@pytest.fixture(scope="module")
def on_torch(tmp_path_factory):
    """Weights trained for a moment on torch, and what torch makes of them: reports, logits."""
    folder = tmp_path_factory.mktemp("torch")
    starts = named(folder / "start")
    reports, logits, _ = session("torch", folder, [*train(starts, {}), *compared(starts, folder)], starts)
    return starts, reports[len(EXAMPLES) :], logits


@pytest.fixture(scope="module", params=OTHERS)
def other(request, on_torch, tmp_path_factory):
    """The same on another backend, and a run that was interrupted, killed and went on; its folder, all reports."""
    folder, starts = tmp_path_factory.mktemp(request.param), on_torch[0]
    cli = [sys.executable, str(ROOT / "cli.py"), *INTERRUPTED.split(), "--backend", request.param]
    for more, line, end, status in (((), "epoch 1/", "terminate", 130), (("--resume",), "epoch 3/", "kill", -9)):
        with subprocess.Popen([*cli, *more], cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
            while not process.stdout.readline().startswith(line):
                assert process.poll() is None
            getattr(process, end)()
            process.communicate()
        assert process.returncode == status
    runs = [f"{INTERRUPTED} --resume", f"{INTERRUPTED} --save whole.weights.h5"]
    return folder, *session(request.param, folder, [*compared(starts, folder), *runs], starts)


def check(ours, theirs, tolerance):
    for one, other in zip(ours, theirs, strict=True):
        assert one["example"] == other["example"]
        assert one.get("texts") == other.get("texts")
        if "loss" in one:
            assert one["loss"] == pytest.approx(other["loss"], rel=tolerance)
            assert one["accuracy"] == pytest.approx(other["accuracy"], abs=100 * tolerance)


def test_weights_from_torch_compute_the_same(other, on_torch):
    _, reports, logits, _ = other
    _, expected, expected_logits = on_torch
    check(reports[:SAME], expected[:SAME], 1e-6)
    for ours, theirs in zip(reports[:SAME], expected[:SAME]):
        assert ours.get("confusion") == theirs.get("confusion")
    for example, array in expected_logits.items():
        np.testing.assert_allclose(logits[example], array, atol=1e-4, rtol=0)


def test_training_goes_the_same_way(other, on_torch):
    check(other[1][SAME:-2], on_torch[1][SAME:], 1e-4)


def test_weights_from_other_backends_compute_the_same_on_torch(other, tmp_path):
    reports = session("torch", tmp_path, measure(named(other[0])), {})[0]
    check(reports, other[1][SAME:-2], 1e-6)


def test_an_interrupted_run_ends_as_the_one_that_was_not_to_the_bit(other):
    folder, (*_, resumed, whole), _, _ = other
    assert resumed["history"] == whole["history"]
    one, two = (weights.describe(folder / report["weights"])["metadata"] for report in (resumed, whole))
    assert one["sha256"] == two["sha256"]


@pytest.mark.parametrize("backend", OTHERS)
def test_keras_stays_on_the_backend_that_it_was_imported_on(backend, tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({"backend": backend}))
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    code = "import keras, os; from keras_examples import mnist_linear; print(os.environ['KERAS_BACKEND'])"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"KERAS_HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert result.stdout == f"{backend}\n", result.stderr


def test_torch_is_not_imported(other):
    assert "torch" not in other[3]
