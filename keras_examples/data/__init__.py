"""The data sets as NumPy arrays: local files, else a download, else a stand-in that is made up.

A data set is one row of `DATASETS`, which loading, listing, fetching and verifying all follow. Nothing else touches the
data folder.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import click
import numpy as np

from keras_examples.data.downloads import download
from keras_examples.data.readers import CIFAR10_FILES, read_cifar10, read_mnist, read_text
from keras_examples.data.standins import SHAPES, synthetic_digits, synthetic_shapes, synthetic_text
from keras_examples.data.vocabulary import Vocabulary

KINDS = ("auto", "real", "synthetic")
DIGITS = tuple("0123456789")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Published(NamedTuple):
    """A file to download to `path`, and other forms in which people have it, the best first: one or more files each."""

    path: str  # below the data folder, as all paths here
    size: int  # bytes
    sha256: str
    mirrors: tuple[str, ...]
    forms: tuple[tuple[str, ...], ...] = ()


class StandIn(NamedTuple):
    """What is made up in a data set's place, under a name of its own."""

    name: str
    make: Callable[[], Any]
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A data set: its files, how they are read, what the classes are called, and what stands in for it.

    Attributes:
        files: What is published.
        read: From the paths of its files to `x_train, y_train, x_test, y_test`, or to a text.
        stand_in: What is made up instead.
        class_names: In the order of the labels; () for a text.
    """

    files: tuple[Published, ...]
    read: Callable[[Sequence[Path]], Any]
    stand_in: StandIn
    class_names: tuple[str, ...] = ()


def idx_files(folders: Sequence[str], hosts: Sequence[str], *published: tuple[int, str]) -> tuple[Published, ...]:
    """The four files of MNIST, or of a set in its form.

    Args:
        folders: Where they lie; the first is where downloads go. They may also lie in the data folder itself.
        hosts: URLs of folders that have them.
        published: Bytes and SHA-256 of the training images and labels, and of the test images and labels, as `.gz`.
    """
    files = []
    for part, (size, sha256) in zip(("train-images", "train-labels", "t10k-images", "t10k-labels"), published):
        name = f"{part}-idx{3 if 'images' in part else 1}-ubyte"
        places = [f"{folder}/{stem}" for folder in (*folders, ".") for stem in (name, name.replace("-idx", ".idx"))]
        forms = tuple((f"{place}{suffix}",) for place in places for suffix in ("", ".gz"))
        mirrors = tuple(f"{host}/{name}.gz" for host in hosts)
        files.append(Published(f"{folders[0]}/{name}.gz", size, sha256, mirrors, forms))
    return tuple(files)


DATASETS: dict[str, Dataset] = {
    "mnist": Dataset(
        idx_files(
            ("mnist", "MNIST/raw"),
            ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
            (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
        read_mnist,
        StandIn("drawn digits", synthetic_digits, DIGITS),
        DIGITS,
    ),
    "cifar10": Dataset(
        (
            Published(
                "cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
                (CIFAR10_FILES, tuple(Path(file).name for file in CIFAR10_FILES)),
            ),
        ),
        read_cifar10,
        StandIn("drawn shapes", synthetic_shapes, SHAPES),
        CIFAR10_CLASSES,
    ),
    "tinyshakespeare": Dataset(
        (
            Published(
                "tinyshakespeare.txt",
                1_115_394,
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                (
                    "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/"
                    "data/tinyshakespeare/input.txt",
                ),
            ),
        ),
        lambda files: read_text(files[0]),
        StandIn("Python's help topics", synthetic_text),
    ),
}


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        name: Of the data set, or of what stands in for it.
        source: `"real"` or `"synthetic"`.
        class_names: In the order of the labels.
        x_train: `(N, 28, 28)` or `(N, 32, 32, 3)` uint8 in 0–255.
        y_train: `(N,)` int32 in 0–9.
        x_test, y_test: The same for the test images.
        note: Why the data is synthetic; empty if it is real.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    note: str = ""
    vocabulary: ClassVar[None] = None


@dataclass(frozen=True)
class Text:
    """A corpus in two contiguous parts: the first 90 % of its characters to train on, the rest to validate.

    Attributes:
        name: Of the data set, of what stands in for it, or of the user's own file.
        source: `"real"` or `"synthetic"`.
        train, validation: The two parts.
        note: Why the data is synthetic; empty if it is real.
    """

    name: str
    source: str
    train: str
    validation: str
    note: str = ""
    class_names: ClassVar[None] = None

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.from_text(self.train + self.validation)


class Status(NamedTuple):
    """The files that a data set is read from; `state` is `"complete"`, `"incomplete"` or `"missing"`."""

    state: str
    files: tuple[Path, ...]
    missing: tuple[Path, ...]


def load_mnist(data: str = "auto", data_dir: str | Path = "datasets") -> Images:
    """Loads MNIST: 60,000 training and 10,000 test images `(28, 28)`; synthetic 10,000 and 2,000. See `load`."""
    return load("mnist", data, data_dir)


def load_cifar10(data: str = "auto", data_dir: str | Path = "datasets") -> Images:
    """Loads CIFAR-10: 50,000 training and 10,000 test images `(32, 32, 3)`; synthetic 10,000 and 2,000. See `load`."""
    return load("cifar10", data, data_dir)


def load_text(path: str | Path | None = None, data: str = "auto", data_dir: str | Path = "datasets") -> Text:
    """Loads a UTF-8 file, or tinyshakespeare: 1,003,854 and 111,540 characters. See `load`."""
    return load("tinyshakespeare", data, data_dir, path)


def load(name: str, data: str = "auto", data_dir: str | Path = "datasets", text: str | Path | None = None) -> Any:
    """Loads a data set.

    Args:
        name: One of `DATASETS`.
        data: `"auto"` (local files, else a download, else synthetic), `"real"` (never synthetic) or `"synthetic"`.
        data_dir: The folder of the files.
        text: A UTF-8 file of one's own to read instead of a text.

    Returns:
        `Images` or a `Text`.

    Raises:
        ValueError: A file is damaged, or the arguments do not go together.
        OSError: There is no such text, or, with `"real"`, files are missing and cannot be downloaded.
    """
    row = DATASETS[name]
    if data not in KINDS:
        raise ValueError(f"Unknown kind of data. Received: {data=}. Choose 'auto', 'real' or 'synthetic'.")
    if text is not None:
        if data == "synthetic" or row.class_names:
            what = "Images are learned here" if row.class_names else "Synthetic text was asked for"
            raise ValueError(f"{what}, and a text given. Received: {data=}, text={str(text)!r}. Choose one.")
        return _packed(Path(text).stem, "real", (), read_text(Path(text)), "")
    if note := _why_synthetic(name, data, data_dir):
        return _packed(row.stand_in.name, "synthetic", row.stand_in.class_names, row.stand_in.make(), note)
    try:
        return _packed(name, "real", row.class_names, row.read(status(name, data_dir).files), "")
    except ValueError as error:
        raise ValueError(f"{error} Or delete it and run the command `datasets fetch {name}`.") from error


def _packed(name: str, source: str, class_names: tuple[str, ...], content: Any, note: str) -> Images | Text:
    if isinstance(content, str):
        split = len(content) * 9 // 10
        return Text(name, source, content[:split], content[split:], note)
    x_train, y_train, x_test, y_test = content
    return Images(name, source, class_names, x_train, y_train, x_test, y_test, note)


def status(name: str, data_dir: str | Path = "datasets") -> Status:
    """Says from which files a data set, one of `DATASETS`, would be read, and which of those are missing."""
    files: list[Path] = []
    for published in DATASETS[name].files:
        forms = [[Path(data_dir, path) for path in form] for form in (*published.forms, (published.path,))]
        present = [sum(path.is_file() for path in form) for form in forms]
        whole = [form for form, count in zip(forms, present) if count == len(form)]
        begun = [form for form, count in zip(forms, present) if count]
        files += (whole or begun or forms[-1:])[0]
    missing = tuple(path for path in files if not path.is_file())
    state = "complete" if not missing else "incomplete" if len(missing) < len(files) else "missing"
    return Status(state, tuple(files), missing)


def fetch(name: str, data_dir: str | Path = "datasets") -> tuple[Path, ...]:
    """Downloads what is missing of a data set, into a folder that is made if need be; returns the new files.

    Raises:
        DownloadError: No mirror delivered one of them.
        OSError: The folder cannot be written to.
    """
    missing = status(name, data_dir).missing
    return tuple(
        download(published.mirrors, Path(data_dir, published.path), published.sha256, published.size)
        for published in DATASETS[name].files
        if any(Path(data_dir, path) in missing for form in ((published.path,), *published.forms) for path in form)
    )


def check_present(name: str, data_dir: str | Path = "datasets") -> None:
    """Raises FileNotFoundError if files of a data set are missing."""
    if missing := status(name, data_dir).missing:
        raise FileNotFoundError(
            f"No {_names(missing)} in {data_dir}. Received: data_dir={str(data_dir)!r}. Run the command "
            f"`datasets fetch {name}`."
        )


def verify(name: str, data_dir: str | Path = "datasets") -> dict[Path, str]:
    """Reads the whole of a data set, and compares its files with the published ones.

    Returns:
        For each file `"SHA-256 as published"` or, where it differs and can be used all the same, `"structure checked"`.

    Raises:
        FileNotFoundError: Files are missing.
        ValueError: A file is damaged.
    """
    check_present(name, data_dir)
    load(name, "real", data_dir)
    published = {file.sha256 for file in DATASETS[name].files}
    findings = {}
    for path in status(name, data_dir).files:
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() in published
        findings[path] = "SHA-256 as published" if same else "structure checked"
    return findings


def _why_synthetic(name: str, data: str, data_dir: str | Path) -> str:
    """Sees to it that a data set's files are there, and returns why they are not; '' if they are."""
    if data == "synthetic":
        return f"Synthetic, as asked for: this is not {name}."
    missing = status(name, data_dir).missing
    try:
        fetch(name, data_dir)
    except OSError as error:
        if data == "real":
            raise
        note = f"Synthetic stand-in, NOT {name}, because {data_dir} has no {_names(missing)}. {error}"
        click.echo(f"WARNING: {note}", err=True)
        return note
    return ""


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths)
