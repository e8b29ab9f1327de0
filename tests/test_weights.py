import os
import zipfile

import h5py
import keras
import numpy as np
import pytest
from small import assert_same, randomised, sizes_of, small

import keras_examples
from keras_examples import Vocabulary, char_lstm, load_model, mnist_cnn, mnist_linear, mnist_mlp, weights
from keras_examples.data import DATASETS
from keras_examples.examples import EXAMPLES
from keras_examples.models import build
from keras_examples.weights import formats, layouts

FORMATS = ["model.weights.h5", "model.keras", "model.safetensors"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("example", EXAMPLES)
def test_round_trip_rebuilds_the_model_from_the_file(tmp_path, example, name):
    model, sizes = small(example), sizes_of(example)
    weights.write(tmp_path / name, model, {"example": example, "sizes": sizes, "data": "real"})
    restored, found = weights.restore(tmp_path / name, example)
    assert found["sizes"].items() >= sizes.items()
    assert found.items() >= {"example": example, "data": "real"}.items()
    assert set(found["versions"]) == {"keras_examples", "keras", "torch"}
    assert_same(model, restored)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("example", EXAMPLES)
def test_keras_reads_our_files_and_we_read_those_of_keras(tmp_path, example):
    model = small(example)
    weights.write(tmp_path / "ours.weights.h5", model, {})
    theirs = build(example, sizes_of(example))
    theirs.load_weights(tmp_path / "ours.weights.h5")
    assert_same(model, theirs)
    model.save_weights(tmp_path / "theirs.weights.h5")
    assert_same(model, weights.restore(tmp_path / "theirs.weights.h5", example)[0])
    model.save(tmp_path / "theirs.keras")
    assert_same(model, weights.restore(tmp_path / "theirs.keras", example)[0])
    weights.write(tmp_path / "ours.keras", model, {})
    assert_same(model, keras.saving.load_model(tmp_path / "ours.keras"))


def test_the_optimizer_stays_out(tmp_path):
    model = mnist_mlp()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(np.zeros((4, 28, 28), "uint8"), np.zeros(4), verbose=0)
    for name in FORMATS:
        weights.write(tmp_path / name, model, {"example": "mnist-mlp"})
        assert (tmp_path / name).stat().st_size < 2 * 4 * model.count_params()


def test_another_architecture_is_named(tmp_path):
    weights.write(tmp_path / "mlp.weights.h5", mnist_mlp((12,)), {})
    for asked in ((50,), (12, 10)):
        message = rf"hidden_units is \[12\] in the file, asked for \({', '.join(map(str, asked))},?\)\. Received: path="
        with pytest.raises(ValueError, match=message):
            weights.restore(tmp_path / "mlp.weights.h5", "mnist-mlp", {"hidden_units": asked})
    weights.write(tmp_path / "cnn.weights.h5", mnist_cnn(), {})
    with pytest.raises(ValueError, match=r"its layers are Dense .*, and in the file are layers/conv2d/vars/0 "):
        weights.restore(tmp_path / "cnn.weights.h5", "mnist-mlp")


def test_another_example_is_named(tmp_path):
    weights.write(tmp_path / "mlp.weights.h5", mnist_mlp(), {"example": "mnist-mlp"})
    with pytest.raises(ValueError, match=r"they are of mnist-mlp, asked for mnist-cnn"):
        weights.restore(tmp_path / "mlp.weights.h5", "mnist-cnn")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\xff" * 8])
def test_what_is_no_weights_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"Not a weights file .*Received: path="):
        weights.restore(tmp_path / name, "mnist-linear")


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_is_refused(tmp_path, name):
    weights.write(tmp_path / name, mnist_linear(), {"example": "mnist-linear"})
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="Not a weights file"):
        weights.restore(tmp_path / name, "mnist-linear")


def test_an_empty_hdf5_file_is_refused(tmp_path):
    h5py.File(tmp_path / "empty.weights.h5", "w").close()
    with pytest.raises(ValueError, match="in the file are nothing"):
        weights.restore(tmp_path / "empty.weights.h5", "mnist-linear")


def test_unknown_format_and_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"Unknown weights format. Received: path='model.pt'"):
        weights.write("model.pt", mnist_linear(), {})
    with pytest.raises(FileNotFoundError, match="No such weights file"):
        weights.restore(tmp_path / "missing.weights.h5", "mnist-linear")


def test_a_pickle_of_torch_is_told_what_to_become(tmp_path):
    (tmp_path / "model.pt").touch()
    with pytest.raises(ValueError, match=r"Write it as \.safetensors: `safetensors\.torch\.save_file\("):
        weights.restore(tmp_path / "model.pt", "mnist-linear")


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_no_weights(tmp_path, number):
    model = mnist_linear()
    model.set_weights([np.full(array.shape, number, "float32") for array in model.get_weights()])
    weights.write(tmp_path / "a.safetensors", model, {"example": "mnist-linear"})
    with pytest.raises(ValueError, match=r"^Damaged weights: some numbers are not finite\. Received: path="):
        weights.restore(tmp_path / "a.safetensors", "mnist-linear")


def test_a_target_is_checked_before_training(tmp_path):
    weights.check_target(tmp_path / "new" / "folder" / "model.keras")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Cannot write to .*file: Not a directory. Received: path="):
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


def test_find_prefers_what_was_asked_for_then_trained_on_real_data_then_shipped_then_trained_on_stand_ins(
    tmp_path, monkeypatch
):
    shipped = tmp_path / "shipped" / "mnist-cnn.safetensors"
    monkeypatch.setattr(weights, "shipped", lambda name: shipped)
    given = tmp_path / "given.keras"
    with pytest.raises(FileNotFoundError, match="No such weights file"):
        weights.find("mnist-cnn", given)
    given.touch()
    assert weights.find("mnist-cnn", str(given)) == given
    with pytest.raises(FileNotFoundError, match=r"Train first \(`python cli.py mnist --arch cnn`\)"):
        weights.find("mnist-cnn", folder=tmp_path)
    synthetic = weights.default_path("mnist-cnn", "synthetic", tmp_path)
    synthetic.touch()
    assert weights.find("mnist-cnn", folder=tmp_path) == synthetic
    shipped.parent.mkdir()
    shipped.touch()
    assert weights.find("mnist-cnn", folder=tmp_path) == shipped
    assert weights.find("mnist-cnn", source="synthetic", folder=tmp_path) == synthetic
    real = weights.default_path("mnist-cnn", "real", tmp_path)
    real.touch()
    assert (
        weights.find("mnist-cnn", folder=tmp_path) == weights.find("mnist-cnn", source="real", folder=tmp_path) == real
    )
    assert weights.find("mnist-cnn", "shipped", folder=tmp_path) == shipped
    assert synthetic.name == "mnist-cnn-synthetic.weights.h5"
    assert real.name == "mnist-cnn.weights.h5"


def test_half_precision_takes_half_the_space(tmp_path):
    model = randomised(mnist_mlp())
    weights.write(tmp_path / "half.safetensors", model, {"example": "mnist-mlp"}, dtype="float16")
    assert (tmp_path / "half.safetensors").stat().st_size < 2 * model.count_params() + 2000
    restored, _ = weights.restore(tmp_path / "half.safetensors", "mnist-mlp")
    for half, whole in zip(restored.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(half, whole.astype("float16").astype("float32"))


@pytest.mark.parametrize("name", FORMATS)
def test_bits_that_flipped_are_noticed(tmp_path, name):
    model = randomised(mnist_linear())
    weights.write(tmp_path / name, model, {"example": "mnist-linear"})
    content = bytearray((tmp_path / name).read_bytes())
    place = content.index(model.get_weights()[1].tobytes())  # the biases lie the same way in every format
    content[place] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"Received: path="):
        weights.restore(tmp_path / name, "mnist-linear")


def test_the_checksum_is_of_the_weights_and_not_of_the_format(tmp_path):
    model = randomised(keras_examples.char_lstm(9, 6, 2))
    model.weights[2].assign(np.full(24, -0.0))
    sums = set()
    for name in FORMATS:
        weights.write(tmp_path / name, model, {"example": "charrnn"})
        sums.add(weights.restore(tmp_path / name, "charrnn")[1]["sha256"])
    assert len(sums) == 1


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"sizes": {"hidden_units": [10**9]}},
            r"hidden_units is \[1000000000\] by the metadata and \[12\] by the arrays",
        ),
        ({"sizes": {"layers": 10**9}}, "layers is 1000000000 by the metadata and unknown by the arrays"),
        ({"sizes": {"units": "x" * 1000}}, "units is 'x{59} by the metadata"),
        ({"sizes": {"\x1b[2J": 1}}, "the metadata's names cannot be printed"),
        ({"sizes": [12]}, "the metadata's sizes is no dict"),
        ({"epochs": "1"}, "the metadata's epochs is no int"),
        ({"classes": ["\x1b[2J"]}, "the metadata's names cannot be printed"),
        ({"sha256": "0" * 64}, "Damaged weights"),
        ({"note": "x" * (5 << 20)}, "Not a weights file"),
    ],
)
@pytest.mark.parametrize("name", FORMATS)
def test_metadata_that_lies_is_refused(tmp_path, name, metadata, message):
    model = mnist_mlp((12,))
    if name.endswith(".keras"):
        model.save(tmp_path / name)
        formats.add_to_archive(tmp_path / name, metadata)
    else:
        names = [f"layers/{layer}/vars/{place}" for layer in ("dense", "dense_1") for place in "01"]
        formats.write(tmp_path / name, dict(zip(names, model.get_weights(), strict=True)), metadata)
    with pytest.raises(ValueError, match=rf"{message}.*Received: path="):
        weights.restore(tmp_path / name, "mnist-mlp")


def test_metadata_nested_too_deeply_is_refused(tmp_path):
    mnist_mlp().save(tmp_path / "deep.keras")
    with zipfile.ZipFile(tmp_path / "deep.keras", "a") as archive:
        archive.writestr("keras_examples.json", "[" * 1_000_000)
    with pytest.raises(ValueError, match="Not a weights file"):
        weights.restore(tmp_path / "deep.keras", "mnist-mlp")


def test_shapes_that_contradict_each_other_build_no_model(tmp_path):
    with h5py.File(tmp_path / "wide.weights.h5", "w") as file:
        for name, shape in {"dense/vars/0": (1, 1), "dense/vars/1": (10**6,), "dense_1/vars/0": (1, 10)}.items():
            file[f"layers/{name}"] = np.zeros(shape, "float32")
        file["layers/dense_1/vars/1"] = np.zeros(10, "float32")
    with pytest.raises(
        ValueError,
        match=r"its layers are Dense \(784, \?\) .*, and in the file are layers/dense/vars/0 \(1, 1\) \(1000000,\)",
    ):
        weights.restore(tmp_path / "wide.weights.h5", "mnist-mlp")


@pytest.mark.parametrize(
    "how",
    [
        {"compression": "gzip"},
        {"chunks": (1,)},
        {"external": [("secret", 0, 40)]},
    ],
)
def test_arrays_that_are_not_simply_there_are_refused(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(40))
    mnist_linear().save_weights("odd.weights.h5")
    with h5py.File("odd.weights.h5", "a") as file:
        del file["layers/dense/vars/1"]
        file.create_dataset("layers/dense/vars/1", (10,), "f4", **how)
    with pytest.raises(ValueError, match="layers/dense/vars/1 is compressed, incomplete or in another file"):
        weights.restore("odd.weights.h5", "mnist-linear")


@pytest.mark.parametrize("link", [h5py.SoftLink("/layers/dense/vars/0"), h5py.ExternalLink("other.h5", "/x")])
def test_links_are_not_followed(tmp_path, link):
    mnist_linear().save_weights(tmp_path / "odd.weights.h5")
    with h5py.File(tmp_path / "odd.weights.h5", "a") as file:
        del file["layers/dense/vars/1"]
        file["layers/dense/vars/1"] = link
    with pytest.raises(ValueError, match=r"in the file are layers/dense/vars/0 \(784, 10\)\. Received"):
        weights.restore(tmp_path / "odd.weights.h5", "mnist-linear")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_of_keras_is_read(tmp_path, dtype):
    model = keras.Sequential(
        [keras.Input((28, 28)), keras.layers.Flatten(), keras.layers.Dense(10, dtype=keras.DTypePolicy(dtype))]
    )
    model.save_weights(tmp_path / "half.weights.h5")
    restored, _ = weights.restore(tmp_path / "half.weights.h5", "mnist-linear")
    assert restored.weights[0].dtype == "float32"
    np.testing.assert_array_equal(restored.get_weights()[0], model.get_weights()[0].astype("float32"))
    assert weights.describe(tmp_path / "half.weights.h5")["tensors"][0]["dtype"] == dtype


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mnist_linear().save_weights("mine.weights.h5")
    os.chmod("mine.weights.h5", 0)
    os.seteuid(65534)
    try:
        with pytest.raises(OSError, match=r"Cannot read mine.weights.h5: Permission denied. Received: path="):
            weights.restore("mine.weights.h5", "mnist-linear")
    finally:
        os.seteuid(0)


def test_layers_that_cannot_be_translated_have_the_names_of_keras(tmp_path, monkeypatch):
    monkeypatch.delitem(layouts.PARAMETERS, "Dense")
    model, metadata = randomised(mnist_mlp((12,))), {"example": "mnist-mlp", "sizes": {"hidden_units": [12]}}
    weights.write(tmp_path / "model.safetensors", model, metadata)
    assert_same(model, weights.restore(tmp_path / "model.safetensors", "mnist-mlp")[0])
    with pytest.raises(ValueError, match=r"No such names. Received: names='candle', model='mnist_mlp'. Use keras."):
        weights.write(tmp_path / "model.safetensors", model, metadata, "candle")


def test_the_shipped_weights_are_those_of_any_text_of_an_example():
    """`--weights shipped` with a text of the user's own."""
    assert weights.find("charrnn-novel-01234567", "shipped") == weights.shipped("charrnn")


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_name_leads_to_a_trained_model_and_to_what_its_outputs_stand_for(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, meaning = load_model(example)
    expected, _ = weights.restore(weights.shipped(example), example)
    assert_same(model, expected)
    row = EXAMPLES[example]
    classes = DATASETS[row.dataset].class_names if row.task == "Classification" else None
    assert isinstance(meaning, Vocabulary) if row.task == "NextCharacter" else meaning == classes
    assert meaning is None or len(meaning) == model.output_shape[-1]


def test_a_model_is_loaded_from_a_file_and_by_a_text_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metadata = {"example": "mnist-linear", "classes": [*"abcdefghij"]}
    weights.write("mine.keras", randomised(mnist_linear()), metadata)
    assert load_model("mnist-linear", "mine.keras")[1] == tuple("abcdefghij")
    (tmp_path / "novel.txt").write_text("abcba" * 400)
    path = weights.default_path(weights.run_name("charrnn", "novel.txt"), "real")
    weights.write(path, char_lstm(3, 4), {"example": "charrnn", "vocabulary": "abc"})
    assert load_model("charrnn", text="novel.txt")[1].characters == "abc"
    with pytest.raises(ValueError, match=r"No such example. Received: mnist-net. Choose one of mnist-linear, "):
        load_model("mnist-net")
