"""The command that makes the weights which ship with the project, from seeds that are trained already."""

import pytest
from click.testing import CliRunner

from benchmarks import shipped
from keras_examples import cifar_cnn, conv_autoencoder, weights

TEXT = "# Weights\n\nWhat is here.\n"


@pytest.fixture
def seeds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for example, build, test in (
        ("cifar-cnn", cifar_cnn, [{"loss": 0.9, "accuracy": 0.68}, {"loss": 0.8, "accuracy": 0.7}]),
        ("autoencoder", conv_autoencoder, [{"loss": 0.004}, {"loss": 0.005}]),
    ):
        for seed, figures in enumerate(test):
            metadata = {"example": example, "data": "real", "dataset": "cifar10", "seed": seed, "epochs": 2}
            metadata |= {"precision": "float32", "seconds": 9.6, "test": figures}
            weights.write(f"weights/seeds/{example}-{seed}.weights.h5", build(), metadata)
    (tmp_path / "weights" / "README.md").write_text(TEXT)
    monkeypatch.setattr(weights, "shipped", lambda example: tmp_path / "shipped" / f"{example}.safetensors")
    return tmp_path / "weights"


def test_the_first_seed_ships_in_half_precision_and_the_table_has_all(seeds):
    arguments = ["--seeds", "2", "--examples", "cifar-cnn,autoencoder", "--jpeg-copies"]
    for _ in range(2):  # the table takes the place of the one before
        result = CliRunner().invoke(shipped.main, arguments)
        assert result.exit_code == 0, result.output
        assert (seeds / "README.md").read_text() == (
            TEXT + "\n"
            "| file | command | data | seed | epochs | seconds | test figure | mean ± standard deviation |\n"
            "|---|---|---|---|---|---|---|---|\n"
            "| `cifar-cnn.safetensors` | `python cli.py cifar --arch cnn` | cifar10 from JPEG copies | 0 | 2 | 10 "
            "| 68.00% accuracy | 69.00% ± 1.41% of 2 seeds |\n"
            "| `autoencoder.safetensors` | `python cli.py autoencoder` | cifar10 from JPEG copies | 0 | 2 | 10 "
            "| 0.00400 mean squared error | 0.00450 ± 0.00071 of 2 seeds |\n"
        )
    path = weights.find("cifar-cnn", source="real", folder=seeds)
    report = weights.describe(path)
    assert {tensor["dtype"] for tensor in report["tensors"]} == {"float16"}
    assert report["metadata"]["seeds"] == [{"accuracy": 0.68, "loss": 0.9}, {"accuracy": 0.7, "loss": 0.8}]
    first = weights.restore(seeds / "seeds" / "cifar-cnn-0.weights.h5", "cifar-cnn")[0].get_weights()
    for half, whole in zip(weights.restore(path, "cifar-cnn")[0].get_weights(), first, strict=True):
        assert (half == whole.astype("float16")).all()
