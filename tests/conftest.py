import dataclasses
import functools
import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import keras_examples  # noqa: F401  chooses torch before any test imports Keras
from cli import main
from keras_examples.data import DATASETS

ROOT = Path(__file__).parents[1]
REAL = ROOT / "datasets"

if "PYTEST_XDIST_WORKER" in os.environ:  # with two threads each, two workers on two cores wait for each other
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
torch.backends.cudnn.allow_tf32 = False  # whose products of 10 bits no comparison of a test allows for
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="not so on a GPU")

for name, row in DATASETS.items():  # making a stand-in takes a second or two, which every test would wait for
    stand_in = row.stand_in._replace(make=functools.cache(row.stand_in.make))
    DATASETS[name] = dataclasses.replace(row, stand_in=stand_in)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("realdata") and not (REAL / "mnist").is_dir():
            item.add_marker(pytest.mark.skip(reason="the real files are not under datasets/"))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Calls the command line in an empty folder; returns the result after checking its exit status."""
    monkeypatch.chdir(tmp_path)

    def call(arguments: str, code: int = 0) -> Result:
        # Drawing takes seconds: only tests that ask for it get a picture.
        plain = {name: {"fit": {"plot": False}} for name in ("mnist", "cifar", "autoencoder", "charrnn")}
        result = CliRunner().invoke(main, shlex.split(arguments), default_map=plain)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return call


@pytest.fixture(scope="session")
def trained_linear(tmp_path_factory):
    """Weights of mnist-linear after three epochs on the synthetic digits."""
    from keras_examples.training import fit

    path = tmp_path_factory.mktemp("weights") / "linear.weights.h5"
    fit("mnist-linear", data="synthetic", epochs=3, save=path)
    return path


@pytest.fixture
def linear(trained_linear, tmp_path):
    """A copy of those weights where the command line looks for them."""
    path = tmp_path / "weights" / "mnist-linear-synthetic.weights.h5"
    path.parent.mkdir()
    return shutil.copy(trained_linear, path)
