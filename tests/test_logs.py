"""The logs of a run, read back by TensorBoard's own reader."""

import csv
import signal

import pytest

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def steps(folder):
    reader = EventAccumulator(str(folder))
    reader.Reload()
    tags = reader.Tags()
    return {name: [event.step for event in reader.Scalars(name)] for name in tags["scalars"]}, tags


def test_a_run_that_was_interrupted_goes_on_in_the_same_logs(tmp_path):
    from keras_examples.training import fit

    def echo(line):
        if line.startswith("epoch 2/3"):
            signal.raise_signal(signal.SIGINT)

    run = {"data": "synthetic", "epochs": 3, "save": tmp_path / "linear.weights.h5", "log_dir": tmp_path / "logs"}
    assert fit("mnist-linear", limit=256, echo=echo, **run)["interrupted"]
    rows = [*csv.reader((tmp_path / "logs" / "history.csv").open())]
    assert [row[0] for row in rows] == ["epoch", "1", "2"]
    report = fit("mnist-linear", resume=True, plot=True, **run)

    found, tags = steps(tmp_path / "logs")
    assert found == {name: [1, 2, 3] for name in ("accuracy", "loss", "val_accuracy", "val_loss")}
    assert tags["images"] == ["run"]
    (header, *rows) = csv.reader((tmp_path / "logs" / "history.csv").open())
    assert [row[0] for row in rows] == ["1", "2", "3"]
    column = header.index("val_loss")
    assert [float(row[column]) for row in rows] == report["history"]["val_loss"]
