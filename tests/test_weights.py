import h5py
import keras
import numpy as np
import pytest

import keras_examples
from keras_examples import mnist_cnn, mnist_linear, mnist_mlp, weights

FORMATS = ["model.weights.h5", "model.keras"]
MODELS = {
    "mnist-linear": ("mnist_linear", {}),
    "mnist-mlp": ("mnist_mlp", {"hidden_units": [12, 7]}),
    "mnist-cnn": ("mnist_cnn", {}),
    "cifar-dense": ("cifar_dense", {"hidden_units": [5]}),
    "cifar-cnn": ("cifar_cnn", {}),
    "autoencoder": ("conv_autoencoder", {}),
    "charrnn": ("char_lstm", {"vocabulary_size": 9, "units": 6, "layers": 2}),
}


def randomised(model):
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    return model


def assert_same(one, other):
    for left, right in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("example", MODELS)
def test_round_trip_rebuilds_the_model_from_the_file(tmp_path, example, name):
    builder, sizes = MODELS[example]
    model = randomised(getattr(keras_examples, builder)(**sizes))
    metadata = {"example": example, "sizes": sizes, "data": "real"}
    weights.write(tmp_path / name, model, metadata)
    restored, found = weights.restore(tmp_path / name, example)
    assert found == metadata
    assert_same(model, restored)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("example", MODELS)
def test_keras_reads_our_files_and_we_read_those_of_keras(tmp_path, example):
    builder, sizes = MODELS[example]
    build = getattr(keras_examples, builder)
    model = randomised(build(**sizes))
    weights.write(tmp_path / "ours.weights.h5", model, {})
    theirs = build(**sizes)
    theirs.load_weights(tmp_path / "ours.weights.h5")
    assert_same(model, theirs)
    model.save_weights(tmp_path / "theirs.weights.h5")
    ours = build(**sizes)
    weights.read(tmp_path / "theirs.weights.h5", ours)
    assert_same(model, ours)
    weights.write(tmp_path / "ours.keras", model, {})
    assert_same(model, keras.saving.load_model(tmp_path / "ours.keras"))


def test_the_optimizer_stays_out(tmp_path):
    model = mnist_mlp()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(np.zeros((4, 28, 28), "uint8"), np.zeros(4), verbose=0)
    for name in FORMATS:
        weights.write(tmp_path / name, model, {})
        assert (tmp_path / name).stat().st_size < 2 * 4 * model.count_params()


def test_another_architecture_is_named_and_changes_nothing(tmp_path):
    weights.write(tmp_path / "cnn.weights.h5", mnist_cnn(), {})
    model = randomised(mnist_mlp())
    before = model.get_weights()
    message = r"layers/dense/vars/0 is \(784, 100\) in mnist_mlp and \(1024, 1024\) in the file. Received: path="
    with pytest.raises(ValueError, match=message):
        weights.read(tmp_path / "cnn.weights.h5", model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_layer_too_many_is_named(tmp_path):
    weights.write(tmp_path / "deep.weights.h5", mnist_mlp((100, 10)), {})
    with pytest.raises(ValueError, match="another architecture"):
        weights.read(tmp_path / "deep.weights.h5", mnist_mlp((100,)))


def test_another_example_is_named(tmp_path):
    weights.write(tmp_path / "mlp.weights.h5", mnist_mlp(), {"example": "mnist-mlp"})
    with pytest.raises(ValueError, match=r"they are of mnist-mlp, asked for mnist-cnn"):
        weights.restore(tmp_path / "mlp.weights.h5", "mnist-cnn")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"])
def test_what_is_no_weights_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"Not a weights file .*Received: path="):
        weights.read(tmp_path / name, mnist_linear())


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_is_refused(tmp_path, name):
    weights.write(tmp_path / name, mnist_linear(), {})
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="Not a weights file"):
        weights.read(tmp_path / name, mnist_linear())


def test_an_empty_hdf5_file_is_refused(tmp_path):
    h5py.File(tmp_path / "empty.weights.h5", "w").close()
    with pytest.raises(ValueError, match="absent in the file"):
        weights.read(tmp_path / "empty.weights.h5", mnist_linear())


def test_unknown_format_and_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"Unknown weights format. Received: path='model.pt'"):
        weights.write("model.pt", mnist_linear(), {})
    with pytest.raises(FileNotFoundError, match="No such weights file"):
        weights.read(tmp_path / "missing.weights.h5", mnist_linear())


def test_a_target_is_checked_before_training(tmp_path):
    weights.check_target(tmp_path / "new" / "folder" / "model.keras")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Cannot write to .*file. Received: path="):
        weights.check_target(tmp_path / "file" / "model.keras")
    with pytest.raises(ValueError, match="Unknown weights format"):
        weights.check_target(tmp_path / "model.pt")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.weights.h5"
    weights.write(path, mnist_linear(), {"example": "mnist-linear"})
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left on device"):
        weights.write(path, randomised(mnist_linear()), {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_find_prefers_what_was_asked_for_then_what_was_trained(tmp_path):
    assert str(weights.find("mnist-cnn", "given.keras")) == "given.keras"
    with pytest.raises(FileNotFoundError, match=r"Train first \(`python cli.py mnist --arch cnn`\)"):
        weights.find("mnist-cnn", folder=tmp_path)
    synthetic = weights.default_path("mnist-cnn", "synthetic", tmp_path)
    synthetic.touch()
    assert weights.find("mnist-cnn", folder=tmp_path) == synthetic
    with pytest.raises(FileNotFoundError):
        weights.find("mnist-cnn", source="real", folder=tmp_path)
    real = weights.default_path("mnist-cnn", "real", tmp_path)
    real.touch()
    assert weights.find("mnist-cnn", folder=tmp_path) == real
    assert synthetic.name == "mnist-cnn-synthetic.weights.h5"
    assert real.name == "mnist-cnn.weights.h5"
