"""Write a file whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Lend a temporary path that replaces `path` once everything is written, and vanishes if anything fails.

    The parent folder is made if it is missing. The temporary lies beside `path` and keeps its extension, which
    decides the format in Keras and Pillow: `.mnist-cnn.12345.weights.h5` becomes `mnist-cnn.weights.h5`.
    HDF5 belongs into an `io.BytesIO` first, because h5py crashes the interpreter when it closes a file on a full disk.

    Args:
        path: the file to write. What was there stays until the new one is complete.

    Yields:
        The path to write to. The body should only write: each `OSError` out of it is taken for a failure to do so.

    Raises:
        OSError: the folder or the disk refused.
    """
    path = Path(path)
    stem, dot, extension = path.name.partition(".")
    temporary = path.parent / f".{stem}.{os.getpid()}{dot}{extension}"
    try:
        # Renaming onto /dev/null, as root, would replace the device.
        if path.exists() and not path.is_file():
            raise OSError("it is there and is no file")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        message = f"Cannot write {path.name}: {error.strerror or error}. Received: path={str(path)!r}."
        raise OSError(f"{message} Choose a writable folder with space left.") from error
    finally:
        # Renamed already, unless something failed.
        with suppress(OSError):
            temporary.unlink()
