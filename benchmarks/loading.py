"""Files to read: CIFAR-10 in its binary version, and a corpus with many distinct characters."""

from pathlib import Path

import numpy as np

from keras_examples.data import load_cifar10, load_text
from keras_examples.data.readers import CIFAR10_FILES, CIFAR10_RECORDS


def cifar10_folder(data_dir: str, temporary: str) -> str:
    """Returns `data_dir` if it has the files, else `temporary`, filled with random ones of their size."""
    if all(Path(data_dir, name).is_file() for name in CIFAR10_FILES):
        return data_dir
    generator = np.random.default_rng(0)
    for name in CIFAR10_FILES:
        records = generator.integers(0, 256, (CIFAR10_RECORDS, 3073), np.uint8)
        records[:, 0] %= 10
        path = Path(temporary, name)
        path.parent.mkdir(exist_ok=True)
        records.tofile(path)
    return temporary


def read_ours(folder: str) -> list[np.ndarray]:
    """Returns the images, training and test."""
    dataset = load_cifar10("real", folder)
    return [dataset.x_train, dataset.x_test]


def read_numpy(folder: str) -> list[np.ndarray]:
    """Returns the images of each file: read, then copied once, transposed; not even checked for their size."""
    records = (np.fromfile(Path(folder, name), np.uint8).reshape(-1, 3073) for name in CIFAR10_FILES)
    return [file[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy() for file in records]


def write_corpus(folder: str, characters: int = 3_400_000, distinct: int = 5_000) -> str:
    """Writes 10.2 MB of UTF-8, three bytes a character; returns the path."""
    codes = np.random.default_rng(0).integers(0x3000, 0x3000 + distinct, characters, np.uint16)
    path = Path(folder, "corpus.txt")
    path.write_text(codes.tobytes().decode("utf-16-le"), encoding="utf-8")
    return str(path)


def read_corpus(path: str) -> None:
    """Does what `fit` does between the file and the ids."""
    from keras_examples.training.tasks import NextCharacter

    NextCharacter().split(load_text(path), 0)


def fit_corpus(path: str) -> None:
    """Trains six steps by the default recipe, validates and measures."""
    from keras_examples.examples import EXAMPLES
    from keras_examples.training import fit

    fit(
        "charrnn",
        text=path,
        epochs=1,
        limit=6 * EXAMPLES["charrnn"].recipe.batch_size,  # windows
        save=Path(path).with_name("corpus.weights.h5"),
        echo=lambda line: None,
    )
