import gzip
import io
import os
import struct
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from keras_examples.data import readers
from keras_examples.data.readers import CIFAR10_FILES, read_cifar10, read_mnist, read_text

RECORDS = 20


def idx(array):
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


X = np.random.default_rng(0).integers(256, size=(30, 28, 28), dtype=np.uint8)
Y = np.arange(30) % 10
IMAGES, LABELS = idx(X), idx(Y)


@pytest.fixture
def read(tmp_path):
    """Write the bytes of an images and a labels file, by default good ones, and read them."""

    def write_and_read(images=IMAGES, labels=LABELS, suffix=""):
        paths = tmp_path / f"images{suffix}", tmp_path / f"labels{suffix}"
        for path, content in zip(paths, (images, labels), strict=True):
            path.write_bytes(content)
        return read_mnist([*paths, *paths])[:2]

    return write_and_read


def check_line(caught, path):
    message = str(caught.value)
    assert message.startswith(f"Cannot use {path.name}: ")
    assert f"Received: path={str(path)!r}. " in message
    assert "\n" not in message


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_gzipped_or_not_whatever_it_is_called(read, pack, suffix):
    x, y = read(pack(IMAGES), pack(LABELS), suffix)
    assert (x.dtype, y.dtype) == (np.uint8, np.int32)
    assert x.flags.c_contiguous
    assert x.flags.writeable
    assert np.array_equal(x, X)
    assert np.array_equal(y, Y)


def damaged(content, offset, byte):
    return content[:offset] + bytes([byte]) + content[offset + 1 :]


IDX_DAMAGE = {
    "empty": (b"", LABELS, "ends after 0 bytes, within its header"),
    "within the header": (IMAGES[:9], LABELS, "ends after 9 bytes, within its header"),
    "truncated": (IMAGES[:-5], LABELS, "ends after 23,515 of 23,520 bytes"),
    "trailing": (IMAGES + b"\0", LABELS, "goes on after the 23,520 bytes"),
    "magic": (damaged(IMAGES, 2, 9), LABELS, "wrong magic number 0x00000903, expected 0x00000803"),
    "exchanged": (LABELS, IMAGES, "wrong magic number 0x00000801"),
    "counts": (IMAGES, idx(Y[:-1]), "29 labels for the 30 images in images"),
    "label": (IMAGES, idx(np.where(Y == 9, 10, Y)), "label 10 at position 9,"),
    "no images": (idx(X[:0]), LABELS, r"promises an array of shape \(0, 28, 28\)"),
    "huge": (struct.pack(">4I", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1), LABELS, "promises an array of shape"),
    "size": (idx(X[:, :27]), LABELS, "27×28 pixels, not 28×28"),
}


@pytest.mark.parametrize(("images", "labels", "reason"), IDX_DAMAGE.values(), ids=IDX_DAMAGE)
def test_damaged_idx(read, tmp_path, images, labels, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        read(images, labels)
    check_line(caught, tmp_path / ("images" if labels is LABELS or images is LABELS else "labels"))


GZIP_DAMAGE = {
    "empty": (b"", "ends after 0 bytes"),
    "cut short": (gzip.compress(IMAGES)[:-9], "ended before the end-of-stream marker"),
    "cut in the checksum": (gzip.compress(IMAGES)[:-3], "ended before the end-of-stream marker"),
    "checksum": (damaged(gzip.compress(IMAGES), -8 + len(gzip.compress(IMAGES)), 0), "CRC check failed"),
    "deflate": (damaged(gzip.compress(IMAGES), 10, 0xFF), "invalid block type"),
    "trailing": (gzip.compress(IMAGES) + b"!", "Not a gzipped file"),
}


@pytest.mark.parametrize(("images", "reason"), GZIP_DAMAGE.values(), ids=GZIP_DAMAGE)
def test_damaged_gzip(read, tmp_path, images, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        read(images, gzip.compress(LABELS), ".gz")
    check_line(caught, tmp_path / "images.gz")


def test_gzip_bomb_is_not_unpacked(read):
    bomb = gzip.compress(IMAGES + bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(ValueError, match="goes on after"):
        read(bomb, suffix=".gz")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_soon(tmp_path):
    images = struct.pack(">4I", 0x803, 200_000, 28, 28)
    for start, read in ((images, lambda path: read_mnist([path] * 4)), (b"a", read_text)):
        path = tmp_path / "bomb.gz"
        path.write_bytes(gzip.compress(start) + gzip.compress(bytes(1 << 20)) * 4000)
        tracemalloc.start()
        with pytest.raises(ValueError, match="it unpacks to more than 20 times its length") as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 300_000_000
        tracemalloc.stop()
        check_line(caught, path)


@pytest.fixture
def records(monkeypatch):
    """Make small files of CIFAR-10 records: name → bytes, with all images and labels in them."""
    monkeypatch.setattr(readers, "CIFAR10_RECORDS", RECORDS)
    generator = np.random.default_rng(0)
    x = generator.integers(256, size=(6 * RECORDS, 32, 32, 3), dtype=np.uint8)
    y = generator.integers(10, size=6 * RECORDS)
    lines = np.concatenate([y[:, None], x.transpose(0, 3, 1, 2).reshape(len(x), -1)], axis=1).astype(np.uint8)
    files = {name: part.tobytes() for name, part in zip(CIFAR10_FILES, np.split(lines, 6), strict=True)}
    return files, x, y


def joined(arrays):
    return np.concatenate(arrays[::2]), np.concatenate(arrays[1::2])


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return [folder / name for name in CIFAR10_FILES]


def pack(path, files, links=()):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if name in links:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return [path]


@pytest.mark.parametrize("packed", [None, "", "./"])
def test_cifar10(records, tmp_path, packed):
    files, x, y = records
    if packed is None:
        paths = write(tmp_path, files)
    else:
        members = {f"{packed}{name}": content for name, content in files.items()}
        paths = pack(tmp_path / "a.tar.gz", {"readme.html": b"a", **members})
    arrays = read_cifar10(paths)
    assert len(arrays[2]) == RECORDS
    assert [array.dtype for array in arrays] == [np.uint8, np.int32] * 2
    assert all(array.flags.c_contiguous and array.flags.writeable for array in arrays)
    read_x, read_y = joined(arrays)
    assert np.array_equal(read_x, x)
    assert np.array_equal(read_y, y)


CIFAR10_DAMAGE = {
    "short": (lambda content: content[:-1], "ends after 61,459 of 61,460 bytes"),
    "empty": (lambda content: b"", "ends after 0 of 61,460 bytes"),
    "long": (lambda content: content + b"\0", "goes on after the 61,460 bytes"),
    "label": (lambda content: damaged(content, 3073 * 7, 10), "label 10 at position 7"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("damage", "reason"), CIFAR10_DAMAGE.values(), ids=CIFAR10_DAMAGE)
def test_damaged_cifar10(records, tmp_path, packed, damage, reason):
    name = CIFAR10_FILES[3]
    files = {**records[0], name: damage(records[0][name])}
    paths = pack(tmp_path / "a.tar.gz", files) if packed else write(tmp_path, files)
    with pytest.raises(ValueError, match=f"{name}: {reason}" if packed else reason) as caught:
        read_cifar10(paths)
    check_line(caught, paths[0] if packed else paths[3])


@pytest.mark.parametrize(
    "name", ["../data_batch_4.bin", "/data_batch_4.bin", "cifar-10-batches-bin/../data_batch_4.bin"]
)
def test_archive_with_paths_that_lead_elsewhere(records, tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    files = dict(records[0])
    paths = pack(folder / "a.tar.gz", {name: b"evil", **files})
    assert np.array_equal(joined(read_cifar10(paths))[0], records[1])
    content = files.pop(CIFAR10_FILES[3])
    paths = pack(folder / "a.tar.gz", {**files, name: content})
    with pytest.raises(ValueError, match=f"it lacks {CIFAR10_FILES[3]}"):
        read_cifar10(paths)
    assert list(tmp_path.rglob("*")) == [folder, folder / "a.tar.gz"]


def test_archive_with_a_link(records, tmp_path):
    paths = pack(tmp_path / "a.tar.gz", records[0], links=CIFAR10_FILES[2])
    with pytest.raises(ValueError, match=f"{CIFAR10_FILES[2]} is a link or a folder"):
        read_cifar10(paths)


@pytest.mark.parametrize("cut", [10, 1000, 100_000])
def test_archive_cut_short(records, tmp_path, cut):
    (path,) = pack(tmp_path / "a.tar.gz", records[0])
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match="ended before the end-of-stream marker") as caught:
        read_cifar10([path])
    check_line(caught, path)


def test_archive_that_is_none(tmp_path):
    path = tmp_path / "a.tar.gz"
    for content in (b"<html>", gzip.compress(b"<html>"), b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="Cannot use") as caught:
            read_cifar10([path])
        check_line(caught, path)


def test_text_is_read_as_it_is(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("a\r\nß\u2028😀\0".encode())
    assert read_text(path) == "a\r\nß\u2028😀\0"


def test_damaged_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"abc\xffdef")
    with pytest.raises(ValueError, match=r"not UTF-8 at byte 3 \(invalid start byte\)") as caught:
        read_text(path)
    check_line(caught, path)
    path.write_bytes("UTF-16 without its mark".encode("utf-16-le"))
    with pytest.raises(ValueError, match="not UTF-8: each second character is 0, as in UTF-16") as caught:
        read_text(path)
    check_line(caught, path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="it is empty") as caught:
        read_text(path)
    check_line(caught, path)


def test_text_that_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder\. Received: path="):
        read_text(tmp_path)
    with pytest.raises(IsADirectoryError, match=r"^\. is a folder\. Received: path='\.'"):
        read_text(Path(""))
    with pytest.raises(OSError, match=r"^File name too long\. Received: path='To be"):
        read_text(Path("To be, or not to be, " * 300))
    with pytest.raises(FileNotFoundError, match=r"does not exist\. Received: path="):
        read_text(tmp_path / "none.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name")
def test_a_text_from_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "text")
    with pytest.raises(ValueError, match=r"^text is no regular file, and is read twice\. Received: path="):
        read_text(tmp_path / "text")
