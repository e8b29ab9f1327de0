"""Idx files, CIFAR-10 records and text into memory, or one line (ValueError) about what is wrong with them."""

import gzip
import math
import struct
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase, BufferedReader, RawIOBase
from pathlib import Path
from typing import Any, cast

import numpy as np

CIFAR10_FILES = tuple(
    f"cifar-10-batches-bin/{name}.bin" for name in [*(f"data_batch_{i}" for i in "12345"), "test_batch"]
)
CIFAR10_RECORDS = 10_000  # in each file
IDX_LIMIT = 1 << 31  # bytes: no image set in idx form comes near it
GZIP = b"\x1f\x8b"  # how such a file begins
SMALL, RATIO = 16 << 20, 20  # bytes that any gzipped file may unpack to, and how many times its length if that is more
BLOCK = 1 << 20  # bytes read at a time


def read_mnist(files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Reads MNIST, or a set in its form: training images and labels, test images and labels, plain or gzipped.

    Returns `x_train` `(N, 28, 28)` uint8 in 0–255, `y_train` `(N,)` int32 in 0–9, `x_test` and `y_test`.
    """
    return *_read_split(*files[:2]), *_read_split(*files[2:])


def _read_split(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    with _reading(images) as stream:
        x = _read_array(stream, 3)
        if x.shape[1:] != (28, 28):
            raise ValueError(f"the images are {x.shape[1]}×{x.shape[2]} pixels, not 28×28")
    with _reading(labels) as stream:
        y = _read_array(stream, 1)
        if len(y) != len(x):
            raise ValueError(f"it has {len(y):,} labels for the {len(x):,} images in {images.name}")
        _check_labels(y)
    return x, y.astype(np.int32)


def read_cifar10(files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Reads the binary version of CIFAR-10: the six of `CIFAR10_FILES`, or the archive alone.

    Of an archive, members are read by name as streams; nothing is extracted. Returns `x_train` `(50_000, 32, 32, 3)`
    uint8 in 0–255, `y_train` `(50_000,)` int32 in 0–9, and 10,000 of each to test.
    """
    x = np.empty((len(CIFAR10_FILES), CIFAR10_RECORDS, 32, 32, 3), np.uint8)
    y = np.empty((len(CIFAR10_FILES), CIFAR10_RECORDS), np.int32)
    records = np.empty((CIFAR10_RECORDS, 1 + 3 * 32 * 32), np.uint8)  # the label, then planes of red, green and blue

    def take(stream: BufferedIOBase, index: int) -> None:
        _fill(records, stream)
        _check_labels(records[:, 0])
        y[index] = records[:, 0]
        # Channel by channel, twice as fast as one transposed copy.
        for channel, planes in enumerate(np.split(records[:, 1:], 3, axis=1)):
            x[index, ..., channel] = planes.reshape(-1, 32, 32)

    if len(files) == len(CIFAR10_FILES):
        for index, path in enumerate(files):
            with _reading(path) as stream:
                take(stream, index)
    else:
        wanted = {name: index for index, name in enumerate(CIFAR10_FILES)}
        with _reading(files[0]) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if name not in wanted:
                    continue
                if not member.isreg():
                    raise ValueError(f"{name} is a link or a folder")
                try:
                    take(cast(BufferedIOBase, archive.extractfile(member)), wanted.pop(name))
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
            if wanted:
                raise ValueError(f"it lacks {', '.join(wanted)}")
            stream.read(BLOCK)  # as far as the checksum at the end
    images, labels, split = x.reshape(-1, 32, 32, 3), y.reshape(-1), 5 * CIFAR10_RECORDS
    return images[:split], labels[:split], images[split:], labels[split:]


def read_text(path: Path) -> str:
    """Reads a UTF-8 file, its line ends as they are, without a byte order mark. Raises OSError if there is none."""
    remedy = "Give a UTF-8 text file"
    try:
        present = path.exists()
    except OSError as error:  # as for a text that was given in the place of its file's path
        raise OSError(f"{error.strerror}. Received: path={str(path)[:60]!r}. {remedy}.") from error
    if path.is_dir():
        raise IsADirectoryError(f"{path.name or path} is a folder. Received: path={str(path)!r}. {remedy}.")
    if not present:
        raise FileNotFoundError(f"{path.name} does not exist. Received: path={str(path)!r}. {remedy}.")
    if not path.is_file():
        raise ValueError(f"{path.name} is no regular file, and is read twice. Received: path={str(path)!r}. {remedy}.")
    with _reading(path, remedy) as stream:
        try:
            text = stream.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 at byte {error.start:,} ({error.reason})") from error
        if not text:
            raise ValueError("it is empty")
        if text.count("\0") > len(text) / 4:
            raise ValueError("not UTF-8: each second character is 0, as in UTF-16")
    return text


class _Unpacked(RawIOBase):
    """A gzipped file, but for one that would fill the memory: images and text shrink to a third, or a tenth."""

    def __init__(self, path: Path):
        self.file, self.left = gzip.GzipFile(path), max(SMALL, RATIO * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer)
        self.left -= count
        if self.left < 0:
            raise ValueError(f"it unpacks to more than {RATIO} times its length; unpack it by hand if that is right")
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


@contextmanager
def _reading(path: Path, remedy: str = "Replace it") -> Iterator[BufferedIOBase]:
    """Opens a file, gzipped or not whatever it is called, and says in one line what is wrong with its content."""
    with path.open("rb") as stream:
        packed = stream.read(2) == GZIP
    try:
        with BufferedReader(_Unpacked(path), BLOCK) if packed else path.open("rb") as stream:
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
    """Reads as many bytes as the array has, into it; the stream must end there."""
    view, filled = array.reshape(-1).data, 0
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
        raise ValueError(
            f"label {labels[first]} at position {first:,}, where 9 is the highest (of EMNIST, take digits or mnist)"
        )
