"""Real processes under torchrun, two of them, compared with one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import torch
from conftest import ROOT

from keras_examples.acceleration import accelerate
from keras_examples.data.batches import Batches, ImageBatches
from keras_examples.models import mnist_mlp
from keras_examples.training import fit, processes
from keras_examples.weights import restore

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
# Last batches of one sample, so that a process's share is empty; no dropout, which each process draws for itself.
SMALL = {"data": "synthetic", "limit": 101, "batch_size": 10, "epochs": 2}
RUNS = {
    "mnist-cnn": SMALL | {"sizes": {"dropout": 0}},
    "cifar-dense": SMALL | {"sizes": {"hidden_units": (32,)}},
    "autoencoder": SMALL | {"limit": 44, "precision": "bfloat16"},
    "charrnn": SMALL | {"limit": 16, "batch_size": 5, "sizes": {"units": 8, "dropout": 0, "weight_dropout": 0}},
}


@pytest.fixture(autouse=True)
def one_thread():
    """One process alone has one thread, as each of two processes has, and so rounds alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train():
    """Trains all runs in this process, alone or as one of several; returns the reports."""
    return {example: fit(example, **options, save=f"{example}.npz.weights.h5") for example, options in RUNS.items()}


def train_with_an_optimizer_that_is_not_fused():
    """Trains on gradients that are clipped; returns the history and the weights."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 256, (50, 28, 28), np.uint8), generator.integers(0, 10, 50, np.int32)
    model = mnist_mlp(hidden_units=(8,))
    model.compile(
        keras.optimizers.RMSprop(0.01, global_clipnorm=0.5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    accelerate(model)
    history = model.fit(ImageBatches(x, y, 7, seed=0), epochs=2, shuffle=False, verbose=0).history
    return history, [weights.tolist() for weights in model.get_weights()]


def torchrun(*arguments, cwd):
    result = subprocess.run([*TORCHRUN, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    return result.returncode, result.stdout, result.stderr


def children(pid):
    return [*map(int, subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, check=True).stdout.split())]


def test_the_shares_of_all_processes_are_the_batch():
    batches = Batches(10, 4, None)
    whole = [[*range(10)[batches.share(index)]] for index in range(3)]
    assert whole == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    batches.size = 3
    shares = [[], [], []]
    for batches.rank in range(3):
        for index, share in enumerate(shares):
            share += range(10)[batches.share(index)]
    assert shares == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 2}, r"Each of 3 processes needs a sample of a batch\. Received: --batch-size 2\."),
        ({"accelerate": False}, r"Stock Keras trains in one process\. Received: --no-accelerate\."),
    ],
)
def test_what_several_processes_cannot_do(monkeypatch, options, message):
    monkeypatch.setattr(processes, "size", 3)
    with pytest.raises(ValueError, match=message):
        fit("mnist-linear", **options)


@pytest.mark.slow
def test_two_processes_train_what_one_would(tmp_path, monkeypatch):
    script = f"""
import json, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from keras_examples.training import processes
with processes.group():
    import test_distributed
    reports = test_distributed.train()
    other = test_distributed.train_with_an_optimizer_that_is_not_fused()
print(json.dumps([reports, other]))
"""
    (tmp_path / "script.py").write_text(script)
    code, output, errors = torchrun("script.py", cwd=tmp_path)
    assert code == 0, errors
    reports, other = json.loads(output.splitlines()[-1])
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    for example, alone in train().items():
        report = reports[example]
        rounding = 1e-2 if "precision" in RUNS[example] else 1e-4
        close = {"rtol": rounding, "atol": rounding}
        assert report["loss"] == pytest.approx(alone["loss"], rel=rounding)
        assert report["history"].keys() == alone["history"].keys()
        for name, values in alone["history"].items():
            np.testing.assert_allclose(report["history"][name], values, **close, err_msg=f"{example} {name}")
        paths = (tmp_path / report["weights"], alone["weights"])
        for two, one in zip(*(restore(path, example)[0].get_weights() for path in paths), strict=True):
            np.testing.assert_allclose(two, one, **close, err_msg=example)
    for two, one in zip(keras.tree.flatten(other), keras.tree.flatten(train_with_an_optimizer_that_is_not_fused())):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_two_machines_train_what_one_would(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        meeting = f"--rdzv-endpoint=localhost:{free.getsockname()[1]}"
    machine = [*TORCHRUN[:3], "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=two", meeting]
    options = ["mnist", "--arch=cnn", "--data=synthetic", "--limit=101", "--batch-size=10", "--epochs=2", "--dropout=0"]
    command = [*machine, str(ROOT / "cli.py"), *options, "--no-plot", "--json"]
    machines = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate() for process in machines]
    assert [process.returncode for process in machines] == [0, 0], answers
    report = json.loads("".join(output for output, _ in answers))
    alone = fit("mnist-cnn", **RUNS["mnist-cnn"], save=tmp_path / "alone.weights.h5")
    for name, values in alone["history"].items():
        np.testing.assert_allclose(report["history"][name], values, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_killed_or_stopped_a_run_goes_on_to_the_same_weights(tmp_path):
    options = [ROOT / "cli.py", "mnist", "--arch=cnn", "--data=synthetic", "--limit=300", "--batch-size=50"]
    options += ["--epochs=20", "--json", "--save"]  # an epoch may take less than a signal
    assert torchrun(*options, "whole.weights.h5", cwd=tmp_path)[0] == 0

    def interrupt(interruption, epoch, *more):
        """Interrupts a run after an epoch; returns what it said."""
        command = [*TORCHRUN, *map(str, options), "parts.weights.h5", *more]
        how = {"cwd": tmp_path, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        with subprocess.Popen(command, **how) as process:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if line.startswith(f"epoch {epoch}/"):
                    interruption(process.pid)
                    break
            lines += process.stderr.readlines()
        assert process.returncode != 0
        assert not (tmp_path / "parts.weights.h5").exists()
        return [line for line in lines if re.match("Error|Interrupted|interrupted|.*cli.py., line", line)]

    def kill_the_first(pid):
        os.kill(min(children(pid)), signal.SIGKILL)

    (line,) = interrupt(kill_the_first, 2)
    assert line.startswith(
        "Error: Another process of this run has ended or hangs. Received: no answer in process 1 of 2"
    )
    alone = [sys.executable, *map(str, options), "parts.weights.h5", "--resume"]
    refused = subprocess.run(alone, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "its number of processes is another. Received: 1, was 2." in refused.stderr
    for epoch, send in (3, lambda pid: os.kill(pid, signal.SIGTERM)), (4, lambda pid: os.killpg(pid, signal.SIGINT)):
        (line,) = interrupt(send, epoch, "--resume")
        assert line.startswith("interrupted after ")
    code, output, errors = torchrun(*options, "parts.weights.h5", "--resume", cwd=tmp_path)
    assert code == 0, errors
    assert len(json.loads(output)["history"]["loss"]) == 20
    weights = [restore(tmp_path / f"{name}.weights.h5", "mnist-cnn")[0].get_weights() for name in ("whole", "parts")]
    assert all((one == other).all() for one, other in zip(*weights, strict=True))


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_run(tmp_path):
    (tmp_path / "impatient.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport cli\n"
        "from keras_examples.training import processes\nprocesses.PATIENCE = 10\ncli.main()\n"
    )
    command = [*TORCHRUN, "impatient.py", "mnist", "--data=synthetic", "--epochs=100000"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not process.stdout.readline().startswith("epoch 2/"):
            assert process.poll() is None
        hanging = max(children(process.pid))
        os.kill(hanging, signal.SIGSTOP)
        error = next(line for line in process.stderr if line.startswith("Error"))
        os.kill(hanging, signal.SIGCONT)
        process.communicate()
    assert process.returncode == 1
    assert error.startswith("Error: Another process of this run has ended or hangs. Received: no answer in process 0")


@pytest.mark.slow
def test_the_first_process_does_not_wait_for_ever_for_one_that_does_not_come(tmp_path):
    script = "from keras_examples.training import processes\nprocesses.PATIENCE = 3\nwith processes.group(): pass"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    environment = os.environ | alone | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(
        "ConnectionError: Another process of this run has ended or hangs. Received: no answer in process 0 of 2"
    )


@pytest.mark.slow
def test_an_error_in_all_processes_is_one_line(tmp_path):
    arguments = [ROOT / "cli.py", "charrnn", "--text=missing.txt"]
    code, output, errors = torchrun(*arguments, cwd=tmp_path)
    assert (code, output) == (1, "")
    assert [line for line in errors.splitlines() if line.startswith("Error")] == [
        "Error: missing.txt does not exist. Received: path='missing.txt'. Give a UTF-8 text file."
    ]
