"""The data sets, a row each: files, mirrors, hashes, how they are read, classes, and what stands in for them.

docs/adding-an-example.md adds one. Paths are below the data folder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from keras_examples.data.readers import CIFAR10_FILES, read_cifar10, read_mnist, read_text
from keras_examples.data.standins import SHAPES, synthetic_digits, synthetic_shapes, synthetic_text

DIGITS = tuple("0123456789")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

PICKLES = "is the Python version, whose pickles could run anything and are not read; take the binary version"


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
        look_alikes: What people have in its place, by path, and why that is not read.
    """

    files: tuple[Published, ...]
    read: Callable[[Sequence[Path]], Any]
    stand_in: StandIn
    class_names: tuple[str, ...] = ()
    look_alikes: Mapping[str, str] = field(default_factory=dict)


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
        stems = name, name.replace("-idx", ".idx"), f"{name}/{name}"  # the last as Kaggle unpacks them
        places = [f"{folder}/{stem}" for folder in (*folders, ".") for stem in stems]
        forms = tuple((f"{place}{suffix}",) for place in places for suffix in ("", ".gz"))
        mirrors = tuple(f"{host}/{name}.gz" for host in hosts)
        files.append(Published(f"{folders[0]}/{name}.gz", size, sha256, mirrors, forms))
    return tuple(files)


DATASETS: dict[str, Dataset] = {
    "mnist": Dataset(
        idx_files(
            ("mnist", "MNIST/raw", "mnist/MNIST/raw"),
            ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
            (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
        read_mnist,
        StandIn("drawn digits", synthetic_digits, DIGITS),
        DIGITS,
        dict.fromkeys(("mnist.npz", "mnist/mnist.npz"), "is Keras's form; take the idx files")
        | dict.fromkeys(("mnist_train.csv", "mnist/mnist_train.csv"), "is a table; take the idx files")
        | dict.fromkeys(("mnist.zip", "mnist/mnist.zip", "archive.zip"), "is packed; unpack it there"),
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
        dict.fromkeys(("cifar-10-batches-py", "cifar-10-python.tar.gz"), PICKLES)
        | dict.fromkeys(("cifar-10-batches-mat", "cifar-10-matlab.tar.gz"), "is for Matlab; take the binary version")
        | dict.fromkeys(("cifar-100-binary", "cifar-100-binary.tar.gz", "cifar-100-python"), "has 100 classes"),
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
