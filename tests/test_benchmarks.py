"""Each benchmark at its smallest: what it prints and writes, never how fast."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import ROOT


def benchmark(*arguments, code=0):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == code, result.stderr
    return result


def table(tmp_path, *arguments):
    """Runs a round; returns the cells of header and rows, after checking the last line and the JSON file."""
    path = tmp_path / "report.json"
    *lines, empty, about = benchmark(*arguments, "--rounds", "1", "--json", str(path)).stdout.splitlines()
    assert empty == ""
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
            assert len(turns) == 1
            assert turns[0] > 0
    return header, rows


@pytest.mark.slow
def test_throughput_of_peers_installed_or_not(tmp_path):
    options = "--examples", "charrnn", "--peers", "ours,keras-jax,pytorch", "--precision", "bfloat16"
    header, rows = table(tmp_path, "throughput", *options)
    ratios = ["ours / ours-float32", "ours / pytorch", "ours / best"]
    assert header == ["ms a step, bfloat16", "ours", "keras-jax", "pytorch", "ours-float32", *ratios]
    assert [row[0] for row in rows] == ["charrnn"]
    assert (rows[0][2] == "not installed") == (find_spec("jax") is None)
    assert all(float(cell) > 0 for cell in [rows[0][1], *rows[0][3:]])


@pytest.mark.slow
def test_sampling(tmp_path):
    header, rows = table(tmp_path, "sampling")
    assert header == ["characters a second", "ours", "pytorch", "pytorch-1-thread", "ours / best"]
    assert len(rows) == 1


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


def test_an_unknown_name_is_a_usage_error():
    result = benchmark("memory", "--examples", "mnist-linear,mnist-transformer", code=2)
    assert "Received: mnist-transformer. Choose from mnist-linear" in result.stderr
