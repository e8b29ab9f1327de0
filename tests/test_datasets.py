import dataclasses
import gzip
import hashlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from keras_examples.data import DATASETS, downloads, fetch, load, load_cifar10, load_mnist, load_text, status, verify
from keras_examples.data.downloads import DownloadError
from keras_examples.data.readers import CIFAR10_FILES

LOADERS = {"mnist": load_mnist, "cifar10": load_cifar10, "tinyshakespeare": load_text}
REAL = Path(__file__).parent.parent / "datasets"
MNIST = [published.path for published in DATASETS["mnist"].files]


def idx(array):
    header = np.array([0x800 + array.ndim, *array.shape], ">u4")
    return header.tobytes() + array.astype(np.uint8).tobytes()


def tiny_mnist():
    """Make the four files, uncompressed: 30 training and 20 test images."""
    x, y = np.random.default_rng(0).integers(256, size=(30, 28, 28)), np.arange(30) % 10
    return dict(zip(MNIST, map(idx, (x, y, x[:20], y[:20])), strict=True))


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def offline(monkeypatch):
    def download(mirrors, target, sha256, size):
        raise DownloadError(f"Cannot download {target.name}: host not found.")

    monkeypatch.setattr(downloads, "download", download)


@pytest.fixture
def online(monkeypatch):
    """Deliver the tiny MNIST and a short text; the fixture is the list of what was downloaded."""
    asked = []

    def download(mirrors, target, sha256, size):
        assert all(mirror.startswith("https://") for mirror in mirrors)
        assert len(sha256) == 64
        asked.append(target.name)
        if target.suffix == ".gz":
            write(target.parent.parent, {f"mnist/{target.name}": tiny_mnist()[f"mnist/{target.name}"]})
        else:
            write(target.parent, {target.name: b"To be, or not"})
        return target

    monkeypatch.setattr(downloads, "download", download)
    return asked


def test_import_is_light():
    script = "import sys, keras_examples.data; print({'keras', 'torch', 'h5py', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


@pytest.mark.parametrize("name", LOADERS)
def test_synthetic_as_asked_for_looks_at_nothing(name, tmp_path, capsys):
    for path in (*MNIST, *CIFAR10_FILES, "tinyshakespeare.txt"):
        write(tmp_path, {path.removesuffix(".gz"): b"\xff damaged"})
    loaded = LOADERS[name](data="synthetic", data_dir=tmp_path)
    assert loaded.source == "synthetic"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", LOADERS)
def test_auto_falls_back_aloud_and_makes_no_folder(name, tmp_path, capsys, offline):
    folder = tmp_path / "none"
    loaded = LOADERS[name](data_dir=folder)
    assert loaded.source == "synthetic"
    assert capsys.readouterr().err == (
        f"Could not download {name}; using made-up data ({DATASETS[name].stand_in.name}). "
        f"Later: `python cli.py datasets fetch {name} --data-dir {folder}`\n"
    )
    assert not folder.exists()


@pytest.mark.parametrize("name", LOADERS)
def test_real_fails(name, tmp_path, capsys, offline):
    with pytest.raises(DownloadError, match="host not found"):
        LOADERS[name](data="real", data_dir=tmp_path)
    with pytest.raises(DownloadError, match="host not found"):  # as `auto` would, it looks elsewhere first
        LOADERS[name](data="real", data_dir=tmp_path / "none")
    with pytest.raises(
        FileNotFoundError, match=rf"Received: data_dir='.*'\. Run `python cli.py datasets fetch {name} "
    ):
        verify(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("load", LOADERS.values())
def test_unknown_kind_of_data(load):
    with pytest.raises(ValueError, match=r"Received: data='fake'\. Choose .*; the folder of the files is data_dir"):
        load(data="fake")


def test_auto_cannot_write(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downloads, "download", lambda *_: (tmp_path / "file" / "folder").mkdir())
        load_text(data_dir=tmp_path / "file")
    assert "Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("data", ["auto", "real"])
def test_mnist_local_files(tmp_path, offline, capsys, data):
    write(tmp_path, tiny_mnist())
    images = load_mnist(data, tmp_path)
    assert (images.name, images.source) == ("mnist", "real")
    assert repr(images) == "<mnist, real: 30 training and 20 test images>"
    assert images.class_names == tuple("0123456789")
    assert (images.x_train.shape, images.x_test.shape) == ((30, 28, 28), (20, 28, 28))
    assert images.y_test.tolist() == [*range(10), *range(10)]
    assert capsys.readouterr() == ("", "")


def test_mnist_prefers_plain_files(tmp_path, offline):
    files = tiny_mnist()
    plain = {name.removesuffix(".gz"): content for name, content in files.items()}
    write(tmp_path, {**dict.fromkeys(files, b"damaged"), **plain})
    assert status("mnist", tmp_path) == ("complete", tuple(tmp_path / name for name in plain), ())
    assert load_mnist("real", tmp_path).x_train.shape == (30, 28, 28)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzipped"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("place", ["mnist/{}", "MNIST/raw/{}", "mnist/MNIST/raw/{}", "{}"])
@pytest.mark.parametrize("mark", ["-idx", ".idx"])
def test_mnist_under_the_names_that_people_have_it_by(tmp_path, offline, pack, suffix, place, mark):
    for path, content in tiny_mnist().items():
        target = tmp_path / (place.format(Path(path).stem.replace("-idx", mark)) + suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(pack(content))
    assert status("mnist", tmp_path).state == "complete"
    assert load_mnist("real", tmp_path).x_train.shape == (30, 28, 28)
    assert set(verify("mnist", tmp_path).values()) == {"structure checked"}


def test_mnist_with_a_folder_around_each_file(tmp_path, offline):
    write(tmp_path, {f"{Path(path).stem}/{Path(path).stem}": tiny_mnist()[path] for path in MNIST})
    assert load_mnist("real", tmp_path).x_train.shape == (30, 28, 28)


def test_cifar10_files_without_their_folder(tmp_path):
    write(tmp_path, {Path(name).name: b"" for name in CIFAR10_FILES})
    assert status("cifar10", tmp_path).files == tuple(tmp_path / Path(name).name for name in CIFAR10_FILES)


@pytest.mark.parametrize(
    ("dataset", "name", "words"),
    [
        ("cifar10", "cifar-10-batches-py", "pickles"),
        ("cifar10", "cifar-100-binary", "100 classes"),
        ("cifar10", "cifar-10-matlab.tar.gz", "Matlab"),
        ("mnist", "mnist.npz", "Keras's form; take the idx files"),
        ("mnist", "mnist_train.csv", "a table"),
        ("mnist", "archive.zip", "unpack it"),
    ],
)
def test_what_looks_like_a_data_set_and_is_none_is_named(tmp_path, offline, capsys, dataset, name, words):
    (tmp_path / name).mkdir()
    load(dataset, data_dir=tmp_path)
    assert re.match(rf"{name} in .*{words}.* Could not download {dataset}", capsys.readouterr().err)
    with pytest.raises(DownloadError, match=rf"{name} in .*{words}"):
        load(dataset, "real", tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{name} in .*{words}"):
        verify(dataset, tmp_path)


def test_mnist_fetches_only_what_is_missing(tmp_path, online):
    files = tiny_mnist()
    write(tmp_path, {MNIST[0].removesuffix(".gz"): files[MNIST[0]], MNIST[2]: files[MNIST[2]]})
    found = status("mnist", tmp_path)
    assert found.state == "incomplete"
    assert found.missing == (tmp_path / MNIST[1], tmp_path / MNIST[3])
    assert load_mnist("real", tmp_path).source == "real"
    assert online == ["train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    assert fetch("mnist", tmp_path) == ()


def test_mnist_incomplete_offline(tmp_path, offline, capsys):
    files = tiny_mnist()
    del files[MNIST[2]]
    write(tmp_path, files)
    images = load_mnist("auto", tmp_path)
    assert images.source == "synthetic"
    assert "has no t10k-images-idx3-ubyte.gz. Could not download mnist" in capsys.readouterr().err
    with pytest.raises(DownloadError):
        load_mnist("real", tmp_path)


@pytest.mark.parametrize("data", ["auto", "real"])
def test_damaged_files_are_never_passed_over(tmp_path, online, data):
    write(tmp_path, {**tiny_mnist(), MNIST[1]: b"\0\0\x08\x01\0\0\0\x1e"})
    write(tmp_path, dict.fromkeys(CIFAR10_FILES, b"short"))
    write(tmp_path, {"tinyshakespeare.txt": b""})
    for name, loader in LOADERS.items():
        with pytest.raises(ValueError, match=r"^Cannot use "):
            loader(data=data, data_dir=tmp_path)
        with pytest.raises(ValueError, match=r"^Cannot use "):
            verify(name, tmp_path)
    assert online == []


def test_fetch_makes_the_folder(tmp_path, online):
    assert [path.name for path in fetch("mnist", tmp_path / "new")] == online == [Path(name).name for name in MNIST]
    assert status("mnist", tmp_path / "new").state == "complete"


def test_cifar10_status(tmp_path, offline, capsys):
    archive, files = tmp_path / "cifar-10-binary.tar.gz", tuple(tmp_path / name for name in CIFAR10_FILES)
    assert status("cifar10", tmp_path) == ("missing", (archive,), (archive,))
    write(tmp_path, dict.fromkeys(CIFAR10_FILES[:-1], b""))
    assert status("cifar10", tmp_path) == ("incomplete", files, files[-1:])
    assert load_cifar10(data_dir=tmp_path).source == "synthetic"
    assert "has no test_batch.bin." in capsys.readouterr().err
    archive.write_bytes(b"")
    assert status("cifar10", tmp_path) == ("complete", (archive,), ())
    write(tmp_path, {CIFAR10_FILES[-1]: b""})
    assert status("cifar10", tmp_path) == ("complete", files, ())


def test_cifar10_fetches_the_archive_if_a_file_is_missing(tmp_path, monkeypatch):
    write(tmp_path, dict.fromkeys(CIFAR10_FILES[1:], b""))
    monkeypatch.setattr(downloads, "download", lambda mirrors, target, sha256, size: target)
    assert fetch("cifar10", tmp_path) == (tmp_path / "cifar-10-binary.tar.gz",)


def test_verify(tmp_path, monkeypatch):
    files = tiny_mnist()
    write(tmp_path, files)
    digest = hashlib.sha256((tmp_path / MNIST[0]).read_bytes()).hexdigest()
    row = DATASETS["mnist"]
    first, *others = row.files
    changed = dataclasses.replace(row, files=(first._replace(sha256=digest), *others))
    monkeypatch.setitem(DATASETS, "mnist", changed)
    assert list(verify("mnist", tmp_path).values()) == ["SHA-256 as published", *["structure checked"] * 3]


def test_text_of_ones_own(tmp_path):
    path = tmp_path / "my.novel.txt"
    path.write_text("äöü1234567x")
    text = load_text(str(path))
    assert (text.name, text.source) == ("my.novel", "real")
    assert (text.train, text.validation) == ("äöü123456", "7x")
    assert repr(text) == "<my.novel, real: 9 and 2 characters>"
    with pytest.raises(ValueError, match="Received: data='synthetic', text="):
        load_text(path, data="synthetic")
    with pytest.raises(FileNotFoundError):
        load_text(tmp_path / "none.txt")


def test_long_text_of_many_characters(tmp_path):
    letters = [chr(0x4E00 + i) for i in range(5000)]
    path = tmp_path / "long.txt"
    path.write_text("".join(letters) * 670, encoding="utf-8")
    text = load_text(path)
    assert path.stat().st_size > 10_000_000
    assert len(text.train) + len(text.validation) == 5000 * 670


@pytest.fixture
def real(request):
    name = request.param
    if status(name, REAL).state != "complete":
        pytest.skip(f"the real {name} is not under datasets/")
    return LOADERS[name](data="real", data_dir=REAL)


@pytest.mark.realdata
@pytest.mark.parametrize("real", ["mnist"], indirect=True)
def test_real_mnist(real):
    assert (real.x_train.shape, real.x_test.shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert np.bincount(real.y_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(real.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert real.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert real.x_train.mean() / 255 == pytest.approx(0.1307, abs=1e-4)


@pytest.mark.realdata
@pytest.mark.parametrize("real", ["cifar10"], indirect=True)
def test_real_cifar10(real):
    assert (real.x_train.shape, real.x_test.shape) == ((50_000, 32, 32, 3), (10_000, 32, 32, 3))
    assert np.bincount(real.y_train).tolist() == [5000] * 10
    assert np.bincount(real.y_test).tolist() == [1000] * 10
    # The well-known means of red, green and blue: the planes are in order.
    assert real.x_train.mean(axis=(0, 1, 2)) / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-3)
    # The sky is blue and above: neither swapped nor transposed.
    ships = real.x_train[real.y_train == real.class_names.index("ship")].mean(axis=0)
    assert ships[:4, :, 2].mean() > ships[:4, :, 0].mean() + 5
    assert ships[:4].mean() > ships[-4:].mean() + 20


@pytest.mark.realdata
@pytest.mark.parametrize("real", ["tinyshakespeare"], indirect=True)
def test_real_text(real):
    assert (len(real.train), len(real.validation)) == (1_003_854, 111_540)
    assert len(Counter(real.train + real.validation)) == 65
    assert real.train.startswith("First Citizen:\nBefore we proceed any further, hear me speak.")
