"""Files that appear whole or not at all, and that one process writes at a time."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Lends a temporary path that replaces `path` once everything is written, and vanishes if anything fails.

    The temporary lies beside `path`, or beside what that links to, in a folder that is made if need be, and keeps the
    extension, in small letters, which decides the format in Keras and Pillow. HDF5 belongs into an `io.BytesIO` first:
    h5py crashes when it closes a file on a full disk. Raises OSError, as which the body's own count too; what was there
    before is intact.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))  # a link stays one
    stem, dot, extension = path.name.partition(".")
    temporary = target.parent / f".{stem}.{os.getpid()}{dot}{extension.lower()}"
    try:
        if target.exists() and not target.is_file():  # as root, renaming onto /dev/null would replace the device
            raise OSError("it is there and is no file")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise OSError(
            f"Cannot write {path.name}: {error.strerror or error}. Received: path={str(path)!r}. Choose a writable "
            "folder with space left."
        ) from error
    finally:
        with suppress(OSError):  # renamed already, unless something failed
            temporary.unlink()


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Keeps a file to this process until the block ends. Raises OSError if another one on this machine has it."""
    lock = path.parent / f".{path.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except Timeout as error:
        raise OSError(
            f"Another run is writing {path.name}. Received: path={str(path)!r}. Wait for it, or give another --save."
        ) from error
    finally:
        with suppress(OSError):
            path.parent.rmdir()  # if nothing came of it


def check_writable(path: str | Path) -> None:
    """Raises OSError if a path is that of no file, or its folder, or where that would be made, takes no files."""
    folder = Path(path).absolute()
    try:
        if folder.exists() and not folder.is_file():
            raise OSError("it is there and is no file")
        folder = next(parent for parent in folder.parents if parent.exists())
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(
            f"Cannot write to {folder}: {error.strerror or error}. Received: path={str(path)!r}. Choose a writable "
            "folder."
        ) from error
