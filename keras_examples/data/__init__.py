"""The data sets as NumPy arrays: local files, else a download, else a stand-in that is made up.

A data set is one row of `DATASETS`, which loading, listing, fetching and verifying all follow. Nothing else touches the
data folder.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_examples.calls import fetching
from keras_examples.data.catalogue import DATASETS
from keras_examples.data.downloads import Status, check_present, fetch, have, status
from keras_examples.data.readers import read_text
from keras_examples.data.vocabulary import Vocabulary
from keras_examples.ranges import CHOICES

__all__ = ["DATASETS", "Images", "Status", "Text", "check_present", "fetch", "load", "load_cifar10", "load_mnist"]
__all__ += ["load_text", "status", "verify"]


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        name: Of the data set, or of what stands in for it.
        source: `"real"` or `"synthetic"`.
        class_names: In the order of the labels.
        x_train, x_test: `(N, 28, 28)` or `(N, 32, 32, 3)` uint8 in 0–255.
        y_train, y_test: `(N,)` int32 in 0–9.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    vocabulary: ClassVar[None] = None

    def __repr__(self) -> str:
        return f"<{self.name}, {self.source}: {len(self.x_train):,} training and {len(self.x_test):,} test images>"


@dataclass(frozen=True)
class Text:
    """A corpus in two contiguous parts: the first 90 % of its characters to train on, the rest to validate.

    `name` and `source` are as those of `Images`; the name of a user's own file is its stem.
    """

    name: str
    source: str
    train: str
    validation: str
    class_names: ClassVar[None] = None

    def __repr__(self) -> str:
        return f"<{self.name}, {self.source}: {len(self.train):,} and {len(self.validation):,} characters>"

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.from_text(self.train + self.validation)


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
    """Loads one of `DATASETS`, as `Images` or `Text`.

    Args:
        name: Which.
        data: `"auto"` (local files, else a download, else synthetic), `"real"` (never synthetic) or `"synthetic"`.
        data_dir: The folder of the files.
        text: A UTF-8 file of one's own to read instead of a text.

    Raises:
        ValueError: A file is damaged, or the arguments do not go together.
        OSError: There is no such text, or, with `"real"`, files are missing and cannot be downloaded.
    """
    row = DATASETS[name]
    if data not in CHOICES["data"]:
        how = "Choose 'auto', 'real' or 'synthetic'; the folder of the files is data_dir."
        raise ValueError(f"Unknown kind of data. Received: {data=}. {how}")
    if text is not None:
        if data == "synthetic" or row.class_names:
            what = "Images are learned here" if row.class_names else "Synthetic text was asked for"
            raise ValueError(f"{what}, and a text given. Received: {data=}, text={str(text)!r}. Choose one.")
        return _packed(Path(text).stem, "real", (), read_text(Path(text)))
    if data == "synthetic" or not have(name, data, data_dir):
        return _packed(row.stand_in.name, "synthetic", row.stand_in.class_names, row.stand_in.make())
    try:
        return _packed(name, "real", row.class_names, row.read(status(name, data_dir).files))
    except ValueError as error:
        raise ValueError(f"{error} Or delete it and run `{fetching(name, data_dir)}`.") from error


def _packed(name: str, source: str, class_names: tuple[str, ...], content: Any) -> Images | Text:
    if isinstance(content, str):
        split = len(content) * 9 // 10
        return Text(name, source, content[:split], content[split:])
    x_train, y_train, x_test, y_test = content
    return Images(name, source, class_names, x_train, y_train, x_test, y_test)


def verify(name: str, data_dir: str | Path = "datasets") -> dict[Path, str]:
    """Reads the whole of a data set, and compares its files with the published ones.

    Returns for each file `"SHA-256 as published"` or, where it differs and can be used all the same, `"structure
    checked"`. Raises FileNotFoundError for a missing and ValueError for a damaged one.
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
