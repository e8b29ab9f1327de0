"""Idx files, CIFAR-10 records and text into memory, or one line about what is wrong with them."""

import gzip
import math
import struct
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import cast

import numpy as np

CIFAR10_FILES = tuple(
    f"cifar-10-batches-bin/{name}.bin" for name in [*(f"data_batch_{i}" for i in "12345"), "test_batch"]
)
CIFAR10_RECORDS = 10_000  # in each file
IDX_LIMIT = 1 << 31  # bytes: no image set in idx form comes near it
BLOCK = 1 << 20  # bytes read at a time


def read_idx(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one split of MNIST, or of a set in its form, plain or (by extension) gzip.

    Returns:
        x: `(N, 28, 28)` uint8 in 0–255.
        y: `(N,)` int32 in 0–9.

    Raises:
        ValueError: the files are damaged, do not belong together, or hold something else.
    """
    remedy = "Replace it, or delete it and run the command `datasets fetch mnist`"
    with _reading(images, remedy) as stream:
        x = _read_array(stream, 3)
        if x.shape[1:] != (28, 28):
            raise ValueError(f"the images are {x.shape[1]}×{x.shape[2]} pixels, not 28×28")
    with _reading(labels, remedy) as stream:
        y = _read_array(stream, 1)
        if len(y) != len(x):
            raise ValueError(f"it has {len(y):,} labels for the {len(x):,} images in {images.name}")
        _check_labels(y)
    return x, y.astype(np.int32)


def read_cifar10(files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Read the binary version of CIFAR-10.

    Args:
        files: the six of `CIFAR10_FILES`, or the archive alone. Of that, members are read by exact name as streams;
            nothing is extracted.

    Returns:
        x: `(60_000, 32, 32, 3)` uint8 in 0–255, the 10,000 test images last.
        y: `(60_000,)` int32 in 0–9.

    Raises:
        ValueError: a file or member is damaged or, in the archive, missing.
    """
    remedy = "Replace it, or delete it and run the command `datasets fetch cifar10`"
    x = np.empty((len(CIFAR10_FILES), CIFAR10_RECORDS, 32, 32, 3), np.uint8)
    y = np.empty((len(CIFAR10_FILES), CIFAR10_RECORDS), np.int32)
    # A record is the label, then a plane each of red, green and blue.
    records = np.empty((CIFAR10_RECORDS, 1 + 3 * 32 * 32), np.uint8)

    def take(stream: BufferedIOBase, index: int) -> None:
        _fill(records, stream)
        _check_labels(records[:, 0])
        y[index] = records[:, 0]
        # Channel by channel, twice as fast as one transposed copy.
        for channel, planes in enumerate(np.split(records[:, 1:], 3, axis=1)):
            x[index, ..., channel] = planes.reshape(-1, 32, 32)

    if len(files) == len(CIFAR10_FILES):
        for index, path in enumerate(files):
            with _reading(path, remedy) as stream:
                take(stream, index)
    else:
        wanted = {name: index for index, name in enumerate(CIFAR10_FILES)}
        with _reading(files[0], remedy) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.name not in wanted:
                    continue
                if not member.isreg():
                    raise ValueError(f"{member.name} is a link or a folder")
                try:
                    take(cast(BufferedIOBase, archive.extractfile(member)), wanted.pop(member.name))
                except ValueError as error:
                    raise ValueError(f"{member.name}: {error}") from error
            if wanted:
                raise ValueError(f"it lacks {', '.join(wanted)}")
            stream.read(BLOCK)  # as far as the checksum at the end
    return x.reshape(-1, 32, 32, 3), y.reshape(-1)


def read_text(path: Path) -> str:
    """Read a UTF-8 file, line ends as they are.

    Raises:
        ValueError: it is empty or not UTF-8.
        OSError: there is no such file.
    """
    remedy = "Give a UTF-8 text file"
    if path.is_dir():
        raise IsADirectoryError(f"{path.name} is a folder. Received: path={str(path)!r}. {remedy}.")
    if not path.exists():
        raise FileNotFoundError(f"{path.name} does not exist. Received: path={str(path)!r}. {remedy}.")
    with _reading(path, remedy) as stream:
        try:
            text = stream.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 at byte {error.start:,} ({error.reason})") from error
        if not text:
            raise ValueError("it is empty")
    return text


@contextmanager
def _reading(path: Path, remedy: str) -> Iterator[BufferedIOBase]:
    """Open a file, gzip or not, and put what turns out to be wrong with its content into one line."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            yield stream
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
        raise ValueError(f"Cannot use {path.name}: {error}. Received: path={str(path)!r}. {remedy}.") from error


def _read_array(stream: BufferedIOBase, dimensions: int) -> np.ndarray:
    header = stream.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions:
        raise ValueError(f"ends after {len(header)} bytes, within its header")
    magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
    if magic != 0x800 + dimensions:
        raise ValueError(f"wrong magic number 0x{magic:08x}, expected 0x{0x800 + dimensions:08x}")
    if not 0 < math.prod(shape) <= IDX_LIMIT:
        raise ValueError(f"its header promises an array of shape {tuple(shape)}")
    array = np.empty(shape, np.uint8)
    _fill(array, stream)
    return array


def _fill(array: np.ndarray, stream: BufferedIOBase) -> None:
    """Read as many bytes as the array has, into it; the stream must end there."""
    view = array.reshape(-1).data
    filled = 0
    while filled < len(view):
        count = stream.readinto(view[filled : filled + BLOCK])
        if not count:
            raise ValueError(f"ends after {filled:,} of {len(view):,} bytes")
        filled += count
    if stream.read(1):
        raise ValueError(f"goes on after the {len(view):,} bytes that it should have")


def _check_labels(labels: np.ndarray) -> None:
    if labels.max() > 9:
        first = int(np.argmax(labels > 9))
        raise ValueError(f"label {labels[first]} at position {first:,}, where 9 is the highest")
