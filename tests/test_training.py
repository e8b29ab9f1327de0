import os
import signal

import pytest

from keras_examples import load_mnist, weights
from keras_examples.devices import choose
from keras_examples.examples import EXAMPLES
from keras_examples.show.reports import fitted
from keras_examples.training import evaluate, fit
from keras_examples.training.tasks import Classification

QUICK = {"data": "synthetic", "limit": 1000, "epochs": 1}
silent = {"echo": lambda line: None}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "example", ["mnist-linear", "mnist-mlp", "mnist-cnn", "cifar-dense", "cifar-cnn", "autoencoder"]
)
def test_the_loss_falls_and_the_figures_come_back_on_evaluation(example):
    lines = []
    report = fit(example, data="synthetic", limit=1500, epochs=2, batch_size=64, echo=lines.append)
    losses = report["history"]["loss"]
    assert losses[1] < losses[0]
    assert "synthetic" in lines[0]
    assert report["weights"].endswith(f"{example}-synthetic.weights.h5")
    assert (report["samples"], report["epochs"], report["device"]) == (1500, 2, choose().name)
    again = evaluate(example, data="synthetic")
    assert again["loss"] == pytest.approx(report["loss"], rel=1e-6)
    assert again["accuracy"] == report["accuracy"]
    assert weights.describe(report["weights"])["metadata"]["test"]["loss"] == report["loss"]


@pytest.mark.parametrize("example", ["mnist-linear", "mnist-cnn"])
def test_the_same_seed_gives_the_same_weights_to_the_bit(example):
    runs = []
    for seed in (1, 1, 2):
        report = fit(example, **QUICK, seed=seed, save=f"{len(runs)}.weights.h5", **silent)
        runs.append(weights.restore(report["weights"], example)[0].get_weights())
    assert all((one == two).all() for one, two in zip(runs[0], runs[1], strict=True))
    assert any((one != two).any() for one, two in zip(runs[0], runs[2], strict=True))


def test_sizes_and_recipe_changes_reach_the_model():
    report = fit("mnist-mlp", **QUICK, sizes={"hidden_units": (9, 8)}, optimizer="sgd", learning_rate=0.1, **silent)
    assert report["weights"] == os.path.join("weights", "mnist-mlp-synthetic.weights.h5")
    model, metadata = weights.restore(report["weights"], "mnist-mlp")
    assert metadata["sizes"] == {"hidden_units": [9, 8]}
    assert model.weights[0].shape == (784, 9)


def test_a_size_the_builder_does_not_know():
    with pytest.raises(ValueError, match=r"mnist-linear has no such size. Received: --hidden-units"):
        fit("mnist-linear", **QUICK, sizes={"hidden_units": (9,)}, **silent)


def test_training_goes_on_from_loaded_weights():
    first = fit("mnist-linear", data="synthetic", epochs=4, **silent)
    second = fit("mnist-linear", **QUICK, load=first["weights"], learning_rate=1e-6, save="next.keras", **silent)
    assert second["accuracy"] == pytest.approx(first["accuracy"], abs=0.01)


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_dry_run_is_one_batch_and_saves_nothing(tmp_path, example):
    report = fit(example, data="synthetic", dry_run=True, **silent)
    assert (report["samples"], report["epochs"], report["weights"]) == (EXAMPLES[example].recipe.batch_size, 1, None)
    assert not list(tmp_path.iterdir())


def test_bfloat16_learns_too():
    report = fit("mnist-mlp", data="synthetic", epochs=3, precision="bfloat16", **silent)
    assert report["accuracy"] > 0.7
    assert weights.restore(report["weights"], "mnist-mlp")[0].weights[0].dtype == "float32"


def test_a_batch_larger_than_the_set():
    with pytest.raises(ValueError, match=r"larger than the training set of 1000 samples. Received: --batch-size 1001"):
        fit("mnist-linear", **QUICK, batch_size=1001, **silent)


def test_early_stopping_keeps_the_weights_of_the_best_epoch():
    options = QUICK | {"limit": 130, "batch_size": 32, "epochs": 14, "validation_split": 0.01}
    report = fit("mnist-linear", **options, learning_rate=0.05, early_stopping=3, **silent)
    losses = report["history"]["val_loss"]
    assert report["stopped_early"]
    assert report["best_epoch"] == report["epochs"] - 3 == losses.index(min(losses)) + 1
    assert f"\n{report['epochs']} epochs (stopped early) in" in fitted(report)
    assert f"\nweights of epoch {report['best_epoch']} in {report['weights']}\n" in fitted(report)
    model, metadata = weights.restore(report["weights"], "mnist-linear")
    assert metadata["epochs"] == report["best_epoch"]
    task = Classification()
    _, (x, y), _ = task.split(load_mnist(data="synthetic"), 0.01)
    model.compile(loss=task.loss)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        ("charrnn", {"early_stopping": 1}, r"would choose by the test data. Received: --validation-split 0. Give"),
        ("mnist-mlp", {"early_stopping": 1, "validation_split": 1e-9}, "would choose by the test data. Received: "),
        ("charrnn", {"validation_split": 0.99999}, r"The training text is shorter than a sequence. Received: \d+ char"),
        ("charrnn", {"augment": True}, r"A text cannot be augmented. Received: --augment. Leave it out."),
    ],
)
def test_options_that_do_not_fit_the_example(example, options, message):
    with pytest.raises(ValueError, match=message):
        fit(example, data="synthetic", **options, **silent)


def test_divergence_is_said_and_saves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"Training diverged: .* Received: learning rate 1e\+30"):
        fit("mnist-mlp", data="synthetic", epochs=3, learning_rate=1e30, optimizer="sgd", **silent)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match="Training diverged"):
        fit("mnist-mlp", data="synthetic", epochs=1, limit=128, learning_rate=1e38, optimizer="sgd", **silent)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_ends_the_run_and_not_the_process(tmp_path):
    def interrupt(line):
        if line.startswith("epoch 2/"):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    report = fit("mnist-linear", data="synthetic", epochs=50, limit=1000, echo=interrupt)
    assert report["interrupted"]
    assert report["epochs"] == 2
    assert signal.getsignal(signal.SIGINT) is before
    assert len(report["history"]["loss"]) == 2
    assert not list(tmp_path.glob("weights/*.weights.h5"))


def test_weights_that_are_missing():
    with pytest.raises(FileNotFoundError, match="No trained weights for mnist-mlp"):
        evaluate("mnist-mlp", data="synthetic")
