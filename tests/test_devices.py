import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from keras_examples import devices


@pytest.fixture(autouse=True)
def keep_environment(monkeypatch):
    monkeypatch.setenv("KERAS_TORCH_DEVICE", os.environ.get("KERAS_TORCH_DEVICE", "cpu"))


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_cuda_then_mps_then_cpu(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    gpu = types.SimpleNamespace(name="GPU", total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    assert devices.choose().name == expected
    assert os.environ["KERAS_TORCH_DEVICE"] == expected


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_what_is_not_there_is_an_error_and_never_the_cpu(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=rf"Device {name} cannot be used. Received: device='{name}'"):
        devices.choose(name)


def test_a_gpu_that_torch_cannot_use_gets_a_hint(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(devices.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "An NVIDIA GPU is there, but torch" in devices.choose().hint


def test_keras_follows_the_choice():
    code = (
        "from keras_examples import devices, mnist_linear; chosen = devices.choose('cpu');"
        "print(chosen.name, devices.device_of(mnist_linear()), chosen.reason)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "cpu cpu asked for\n"


def test_the_option_for_the_backend_wins_over_the_environment():
    command = [sys.executable, str(Path(__file__).parents[1] / "cli.py"), "devices", "--backend", "torch", "--json"]
    result = subprocess.run(
        command, env=os.environ | {"KERAS_BACKEND": "jax"}, capture_output=True, text=True, check=True
    )
    assert result.stderr.splitlines()[0] == "--backend torch is used, not KERAS_BACKEND=jax"
    assert json.loads(result.stdout)["backend"] == "torch"


def test_a_backend_that_is_not_installed_or_unknown(run, monkeypatch):
    monkeypatch.setattr("cli.find_spec", lambda name: None)
    error = run("mnist --backend jax", code=1).stderr
    assert error == "Error: jax is not installed. Received: --backend jax. Run `pip install jax`.\n"
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    message = (
        "Invalid value for '--backend' (env var: 'KERAS_BACKEND'): 'theano' is not one of 'torch', 'jax', 'tensorflow'."
    )
    assert message in run("mnist", code=2).stderr


def test_keras_is_imported_without_compiler_and_plotting_which_work_all_the_same():
    program = """
import sys
from keras_examples import devices
devices.choose("cpu")
devices.import_keras()
import keras, numpy as np
model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(2.0), keras.layers.Dense(1)])
model.compile(loss="mse", metrics=["mae"])
model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
assert not {"torch._dynamo.convert_frame", "matplotlib", "pandas"} & sys.modules.keys()
import matplotlib.pyplot
import torch
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist() == [2, 2]
import torch._dynamo.config
assert torch._dynamo.config.recompile_limit
assert "torch._dynamo.convert_frame" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | {"KERAS_BACKEND": "torch"})


def test_training_does_not_import_what_torch_infers_shapes_by(tmp_path):
    program = """
import sys
from keras_examples import devices
devices.choose("cpu")
devices.import_keras()
from keras_examples.training import fit
fit("mnist-linear", data="synthetic", epochs=1, limit=256, save="a.weights.h5")
assert not {"sympy", "torch.fx.experimental.symbolic_shapes"} & sys.modules.keys()
"""
    env = os.environ | {"KERAS_BACKEND": "torch"}
    subprocess.run([sys.executable, "-c", program], check=True, env=env, cwd=tmp_path)
