"""The datasets as NumPy arrays: local files, else a download, else synthetic. The only user of `datasets/`."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from keras_examples.data.downloads import download
from keras_examples.data.readers import CIFAR10_FILES, read_cifar10, read_idx, read_text
from keras_examples.data.standins import SHAPES, synthetic_digits, synthetic_shapes, synthetic_text

DIGITS = tuple("0123456789")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data"


class Published(NamedTuple):
    """A file to download, and the unpacked files that are read in its stead; paths are below the data folder."""

    path: str
    size: int  # bytes
    sha256: str
    mirrors: tuple[str, ...]
    unpacked: tuple[str, ...] = ()


def _idx(name: str, size: int, sha256: str) -> Published:
    hosts = "https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"
    return Published(f"mnist/{name}.gz", size, sha256, tuple(f"{host}/{name}.gz" for host in hosts), (f"mnist/{name}",))


DATASETS: dict[str, tuple[Published, ...]] = {
    "mnist": (
        _idx("train-images-idx3-ubyte", 9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        _idx("train-labels-idx1-ubyte", 28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        _idx("t10k-images-idx3-ubyte", 1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        _idx("t10k-labels-idx1-ubyte", 4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
    "cifar10": (
        Published(
            "cifar-10-binary.tar.gz",
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            CIFAR10_FILES,
        ),
    ),
    "tinyshakespeare": (
        Published(
            "tinyshakespeare.txt",
            1_115_394,
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            (f"{SHAKESPEARE}/tinyshakespeare/input.txt",),
        ),
    ),
}


@dataclass(frozen=True)
class Images:
    """MNIST, whose images have shape `(28, 28)`, CIFAR-10, `(32, 32, 3)`, or the synthetic stand-in for one of them.

    Attributes:
        name: `"mnist"` or `"cifar10"`.
        source: `"real"` or `"synthetic"`.
        class_names: ten, in the order of the labels.
        x_train: `(N, 28, 28)` or `(N, 32, 32, 3)` uint8 in 0–255.
        y_train: `(N,)` int32 in 0–9.
        x_test, y_test: the same for the test images.
        note: why the data is synthetic; empty if it is real.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    note: str = ""


@dataclass(frozen=True)
class Text:
    """A corpus in two contiguous parts.

    Attributes:
        name: `"tinyshakespeare"`, `"synthetic"`, or the stem of the user's own file.
        source: `"real"` or `"synthetic"`.
        train: the first 90 % of the characters.
        validation: the rest.
        note: why the data is synthetic; empty if it is real.
    """

    name: str
    source: str
    train: str
    validation: str
    note: str = ""


class Status(NamedTuple):
    """The files that a dataset is read from; `state` is `"complete"`, `"incomplete"` or `"missing"`."""

    state: str
    files: tuple[Path, ...]
    missing: tuple[Path, ...]


def load_mnist(data: str = "auto", data_dir: str | Path = "datasets") -> Images:
    """Load MNIST, or whatever 28×28 images with labels 0–9 lie under its file names.

    Args:
        data: `"auto"` (local files, else a download, else synthetic), `"real"` (never synthetic) or `"synthetic"`.
        data_dir: the folder with `mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`.

    Returns:
        60,000 training and 10,000 test images; synthetic: 10,000 and 2,000.

    Raises:
        ValueError: a file is damaged, or `data` is unknown.
        OSError: with `"real"`, files are missing and cannot be downloaded.
    """
    if note := _why_synthetic("mnist", data, data_dir):
        return Images("mnist", "synthetic", DIGITS, *synthetic_digits(), note)
    train_images, train_labels, test_images, test_labels = status("mnist", data_dir).files
    train, test = read_idx(train_images, train_labels), read_idx(test_images, test_labels)
    return Images("mnist", "real", DIGITS, *train, *test)


def load_cifar10(data: str = "auto", data_dir: str | Path = "datasets") -> Images:
    """Load CIFAR-10 from its binary version, unpacked or straight out of the archive.

    Args:
        data: as in `load_mnist`.
        data_dir: the folder with `cifar-10-batches-bin/*.bin` or `cifar-10-binary.tar.gz`.

    Returns:
        50,000 training and 10,000 test images; synthetic: 10,000 and 2,000, of coloured shapes.

    Raises:
        ValueError, OSError: as in `load_mnist`.
    """
    if note := _why_synthetic("cifar10", data, data_dir):
        return Images("cifar10", "synthetic", SHAPES, *synthetic_shapes(), note)
    x, y = read_cifar10(status("cifar10", data_dir).files)
    split = len(x) * 5 // 6
    return Images("cifar10", "real", CIFAR10_CLASSES, x[:split], y[:split], x[split:], y[split:])


def load_text(path: str | Path | None = None, data: str = "auto", data_dir: str | Path = "datasets") -> Text:
    """Load any UTF-8 file, or tinyshakespeare.

    Args:
        path: a file of one's own.
        data: as in `load_mnist`; `"synthetic"` does not go with a `path`.
        data_dir: the folder with `tinyshakespeare.txt`.

    Returns:
        The corpus; of tinyshakespeare 1,003,854 and 111,540 characters.

    Raises:
        ValueError: the file is empty or not UTF-8, or `data` is wrong.
        OSError: there is no such file; with `"real"`, as in `load_mnist`.
    """
    if path is not None:
        if data == "synthetic":
            raise ValueError(
                f"Synthetic text was asked for and a file given. Received: {data=}, path={str(path)!r}. Choose one."
            )
        name, note, text = Path(path).stem, "", read_text(Path(path))
    elif note := _why_synthetic("tinyshakespeare", data, data_dir):
        name, text = "synthetic", synthetic_text()
    else:
        name, text = "tinyshakespeare", read_text(status("tinyshakespeare", data_dir).files[0])
    split = len(text) * 9 // 10
    return Text(name, "synthetic" if note else "real", text[:split], text[split:], note)


def status(name: str, data_dir: str | Path = "datasets") -> Status:
    """Say from which files a dataset, one of `DATASETS`, would be read and which of those are missing."""
    files: list[Path] = []
    for published in DATASETS[name]:
        packed, unpacked = Path(data_dir, published.path), [Path(data_dir, path) for path in published.unpacked]
        present = [path for path in unpacked if path.is_file()]
        files += unpacked if present and (present == unpacked or not packed.is_file()) else [packed]
    missing = tuple(path for path in files if not path.is_file())
    state = "complete" if not missing else "incomplete" if len(missing) < len(files) else "missing"
    return Status(state, tuple(files), missing)


def fetch(name: str, data_dir: str | Path = "datasets") -> tuple[Path, ...]:
    """Download what is missing of a dataset; the folder is made if need be.

    Returns:
        The files that were downloaded.

    Raises:
        DownloadError: no mirror delivered one of them.
        OSError: the folder cannot be written to.
    """
    missing = status(name, data_dir).missing
    return tuple(
        download(published.mirrors, Path(data_dir, published.path), published.sha256, published.size)
        for published in DATASETS[name]
        if any(Path(data_dir, path) in missing for path in (published.path, *published.unpacked))
    )


def verify(name: str, data_dir: str | Path = "datasets") -> dict[Path, str]:
    """Read the whole of a dataset, and compare its files with the published ones.

    Returns:
        For each file `"SHA-256 as published"` or, where it differs and can be used all the same, `"structure checked"`.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: a file is damaged.
    """
    _, files, missing = status(name, data_dir)
    if missing:
        raise FileNotFoundError(_lacking(name, data_dir, missing))
    _LOADERS[name](data="real", data_dir=data_dir)
    published = {Path(data_dir, file.path): file.sha256 for file in DATASETS[name]}
    findings = {}
    for path in files:
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == published.get(path)
        findings[path] = "SHA-256 as published" if same else "structure checked"
    return findings


_LOADERS: dict[str, Callable[..., Images | Text]] = {
    "mnist": load_mnist,
    "cifar10": load_cifar10,
    "tinyshakespeare": load_text,
}


def _why_synthetic(name: str, data: str, data_dir: str | Path) -> str:
    """See to it that a dataset's files are there, and return why they are not; empty if they are."""
    if data not in ("auto", "real", "synthetic"):
        raise ValueError(f"Unknown kind of data. Received: {data=}. Choose 'auto', 'real' or 'synthetic'.")
    if data == "synthetic":
        return f"Synthetic, as asked for: this is not {name}."
    missing = status(name, data_dir).missing
    if missing and data == "real" and not Path(data_dir).is_dir():
        raise FileNotFoundError(_lacking(name, data_dir, missing))
    try:
        fetch(name, data_dir)
    except OSError as error:
        if data == "real":
            raise
        files = ", ".join(path.name for path in missing)
        note = f"Synthetic stand-in, NOT {name}, because {data_dir} has no {files}. {error}"
        click.echo(f"WARNING: {note}", err=True)
        return note
    return ""


def _lacking(name: str, data_dir: str | Path, missing: Sequence[Path]) -> str:
    files = ", ".join(path.name for path in missing)
    return f"No {files} in {data_dir}. Received: data_dir={str(data_dir)!r}. Run the command `datasets fetch {name}`."
