"""Each benchmark at its smallest: what it prints and writes, never how fast."""

import csv
import gzip
import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from conftest import REAL, ROOT
from PIL import Image


def benchmark(*arguments, code=0, **environment):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment)
    assert result.returncode == code, result.stderr
    return result


def table(tmp_path, *arguments):
    """Runs a round; returns the cells of header and rows, after checking the last line and the JSON file."""
    path = tmp_path / "report.json"
    output = benchmark(*arguments, "--rounds", "1", "--json", str(path)).stdout.splitlines()
    lines, about = output[: output.index("")], output[output.index("") + 1]
    assert "threads " in about
    assert about.endswith("rounds 1")
    header, rule, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(rule) == len(header)
    report = json.loads(path.read_text())
    assert report["measured"] == header[0]
    assert list(report["values"]) == [row[0] for row in rows]
    for name, *cells in rows:
        assert len(cells) == len(header) - 1
        for turns in report["values"][name].values():
            if turns != "not installed":
                assert len(turns) == 1
                assert turns[0] > 0
    return header, rows


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_throughput_of_peers_installed_or_not(tmp_path, precision):
    if precision == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16 products, and takes minutes")
    chart = tmp_path / "chart.png"
    options = "--examples", "mnist-mlp", "--peers", "ours,keras-jax,pytorch", "--precision", precision
    header, rows = table(tmp_path, "throughput", *options, "--plot", str(chart))
    ratios, also = ["ours / pytorch", "ours / best", "ours / limit"], []
    if precision == "bfloat16":
        ratios, also = ["ours / ours-float32", *ratios], ["ours-float32"]
    assert header == [f"ms a step, {precision}", "ours", "keras-jax", "pytorch", *also, "limit", *ratios]
    assert [row[0] for row in rows] == ["mnist-mlp"]
    assert (rows[0][2] == "not installed") == (find_spec("jax") is None)
    assert all(float(cell.replace(",", "")) > 0 for cell in [rows[0][1], *rows[0][3:]])
    assert Image.open(chart).format == "PNG"


@pytest.mark.slow
def test_models_of_others(tmp_path):
    chart = tmp_path / "chart.png"
    options = "--models", "lstm-l2,vae", "--peers", "ours,keras-torch,pytorch", "--plot", str(chart)
    header, rows = table(tmp_path, "models", *options)
    assert header == ["models of others", "ours", "keras-torch", "pytorch", "ours / keras-torch", "ours / pytorch"]
    assert [row[0] for row in rows[:3]] == ["lstm-l2, s the first step", "lstm-l2, ms a step", "lstm-l2, peak MB"]
    assert rows[3][3] == "–"  # of the vae there is none by hand
    assert Image.open(chart).format == "PNG"


@pytest.mark.slow
def test_a_peer_that_fails_says_why_and_the_others_go_on(tmp_path):
    options = "--examples", "mnist-mlp", "--peers", "pytorch,pytorch-compile", "--rounds", "1"
    output = benchmark("throughput", *options, CXX="no-such-compiler", TORCHINDUCTOR_CACHE_DIR=str(tmp_path)).stdout
    row = [cell.strip() for cell in output.splitlines()[2].strip("|").split("|")]
    assert float(row[1]) > 0
    assert row[2] == "failed"
    assert "\nmnist-mlp, pytorch-compile failed: " in output


def test_a_chart_needs_what_its_times_are_over():
    result = benchmark("--peers", "ours", "--plot", "chart.png", code=2)  # throughput is the default
    assert "Received: --peers ours. Add pytorch." in result.stderr


@pytest.fixture
def digits(tmp_path):
    """A data folder of 300 and 100 random images in MNIST's place."""
    generator = np.random.default_rng(0)
    (tmp_path / "mnist").mkdir()
    for part, count in (("train", 300), ("t10k", 100)):
        for name, highest, shape in (("images-idx3", 255, (count, 28, 28)), ("labels-idx1", 9, (count,))):
            header = np.array([0x800 + len(shape), *shape], ">i4").tobytes()
            values = generator.integers(0, highest, shape, np.uint8, endpoint=True).tobytes()
            (tmp_path / "mnist" / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(header + values))
    return str(tmp_path)


@pytest.mark.slow
def test_the_command(tmp_path, digits):
    options = "--examples", "mnist-cnn", "--peers", "ours,pytorch", "--data-dir", digits
    header, rows = table(tmp_path, "command", *options)
    assert header == ["the command", "ours", "pytorch", "ours / pytorch"]
    assert [row[0] for row in rows] == [f"mnist-cnn, {name}" for name in ("s to exit", "s an epoch", "peak MB")]
    whole, epoch, peak = ([float(cell.replace(",", "")) for cell in row[1:3]] for row in rows)
    assert all(0 < part < longer for part, longer in zip(epoch, whole))
    assert min(peak) > 100


def loss_by_hand(tmp_path, example, data_dir):
    script = "benchmarks.pytorch_script", example, str(data_dir), "1", str(tmp_path / "weights.pt")
    output = subprocess.run(
        [sys.executable, "-m", *script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return float(output.split("\ntest ")[1].split()[0])


@pytest.mark.realdata
@pytest.mark.slow
def test_what_images_are_compared_with_learns(tmp_path):
    assert loss_by_hand(tmp_path, "mnist-mlp", REAL) < 0.3
    assert loss_by_hand(tmp_path, "autoencoder", REAL) < 0.01


@pytest.mark.slow
def test_what_a_text_is_compared_with_learns(tmp_path):
    (tmp_path / "tinyshakespeare.txt").write_text("To be, or not to be. " * 8000)
    assert loss_by_hand(tmp_path, "charrnn", tmp_path) < 2  # of 11 characters


@pytest.mark.slow
def test_processes(tmp_path, digits):
    header, rows = table(tmp_path, "processes", "--epochs", "1", "--data-dir", digits)
    ratios = ["ours / 1-thread", "ours / 2-threads"]
    assert header == ["mnist-cnn, ours in 2 processes", "ours", "1-thread", "2-threads", *ratios]
    assert [row[0] for row in rows] == ["processor s of all processes", "s to exit"]


@pytest.mark.slow
def test_growth(tmp_path):
    header, rows = table(tmp_path, "growth", "--peers", "ours")
    assert header == ["mnist-linear", "ours"]
    first, last = (float(row[1].replace(",", "")) for row in rows[2:4])
    assert first <= last < first + 10  # MB
    assert len(rows) == 5


@pytest.mark.slow
def test_sampling(tmp_path):
    header, rows = table(tmp_path, "sampling")
    assert header == ["characters a second", "ours", "pytorch", "pytorch-1-thread", "ours / best"]
    assert len(rows) == 1


@pytest.mark.slow
def test_loading_random_files_where_there_are_no_real_ones(tmp_path):
    header, rows = table(tmp_path, "loading", "--data-dir", str(tmp_path))
    assert header == ["CIFAR-10", "ours", "numpy", "ours / numpy"]
    assert [row[0] for row in rows] == ["ms", "peak memory / uint8 arrays"]
    assert all(float(cell) > 1 for cell in rows[1][1:3])


@pytest.mark.slow
def test_memory(tmp_path):
    header, rows = table(tmp_path, "memory", "--examples", "mnist-linear")
    assert header == ["peak MB of fit", "ours", "keras-torch", "ours / keras-torch"]
    assert all(100 < float(cell.replace(",", "")) < 10_000 for cell in rows[0][1:3])


@pytest.mark.slow
@pytest.mark.realdata
def test_pages(tmp_path):
    path = tmp_path / "report.json"
    benchmark("pages", "--count", "2", "--json", str(path))
    values = json.loads(path.read_text())["values"]
    assert {"plain", "ruled", "pencil", "inverted"} < set(values)
    assert values["plain"] == {"right": [100], "over plain": [100]}


@pytest.mark.slow
@pytest.mark.realdata
def test_a_search_notes_how_recipes_validate(tmp_path):
    log = tmp_path / "search.csv"
    recipes = ["epochs=1 limit=500", "epochs=2 limit=500 optimizer='sgd' validation_split=0.5"]
    command = [sys.executable, "-m", "benchmarks.search", "mnist-linear", *recipes, "--seeds", "2", "--log", str(log)]
    subprocess.run(command, cwd=ROOT, check=True)
    rows = [*csv.DictReader(log.open())]
    assert [(row["seed"], row["epochs"], row["validation_split"]) for row in rows] == [
        (seed, *rest) for seed in "01" for rest in (("1", "0.167"), ("2", "0.5"))
    ]
    assert [row["recipe"] for row in rows] == recipes * 2
    assert all(0.3 < float(row["val_accuracy"]) < 1 < float(row["val_loss"]) < 3 for row in rows)


def test_an_unknown_name_is_a_usage_error():
    result = benchmark("memory", "--examples", "mnist-linear,mnist-transformer", code=2)
    assert "Received: mnist-transformer. Choose from mnist-linear" in result.stderr
