"""The arrays and the metadata of a weights file, whichever format it has, whoever made it.

Nothing but arrays and JSON is read. What a file claims is compared with its length before anything is allocated.
"""

import contextlib
import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import safetensors.numpy

FORMATS = (".weights.h5", ".keras", ".safetensors")
METADATA = "keras_examples"
LIMIT = 1 << 22  # bytes of metadata, and of a safetensors header
MOST = 512  # arrays
FLOATS = {"float32": 4, "float16": 2, "bfloat16": 2}  # bytes a number
KINDS = {"epochs": int, "seed": int, "sizes": dict, "classes": list} | dict.fromkeys(
    ("example", "data", "dataset", "data_sha256", "vocabulary", "sha256"), str
)


class Tensor(NamedTuple):
    """An array that is still in its file.

    Attributes:
        shape: As in the file.
        dtype: `float32`, `float16` or `bfloat16`, as in the file.
        read: Reads it, as float32.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def check_format(path: str | Path, formats: tuple[str, ...] = FORMATS) -> None:
    """Raises ValueError unless the path ends in one of the formats."""
    if not str(path).endswith(formats):
        raise ValueError(
            f"Unknown weights format. Received: path={str(path)!r}. Let the name end in "
            f"{', '.join(formats[:-1])} or {formats[-1]}."
        )


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """Opens a weights file and lends its tensors by name, readable as long as it is open, and its metadata.

    Raises:
        FileNotFoundError: no such file.
        OSError: the file may not be read.
        ValueError: not a weights file; also when a tensor is read.
    """
    path = Path(path)
    try:
        if present := path.is_file():
            path.open("rb").close()
    except OSError as error:
        raise OSError(
            f"Cannot read {path.name}: {error.strerror}. Received: path={str(path)!r}. Correct its permissions."
        ) from error
    if not present:
        raise FileNotFoundError(
            f"No such weights file. Received: path={str(path)!r}. Train first, or correct the path."
        )
    check_format(path)
    with contextlib.ExitStack() as stack:
        with _refusing(path):
            tensors, text = {".h5": _hdf5, ".keras": _archive, ".safetensors": _safetensors}[path.suffix](path, stack)
            _check_tensors(tensors, path.stat().st_size)
            metadata = _parse(text)
        yield {name: tensor._replace(read=_refusing(path)(tensor.read)) for name, tensor in tensors.items()}, metadata


def write(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """Writes a `.weights.h5` or `.safetensors` file, in place.

    Args:
        path: The file.
        arrays: By name; in HDF5 slashes make groups.
        metadata: As JSON takes it.
    """
    text = _dump(metadata)
    if path.suffix == ".safetensors":
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        path.write_bytes(safetensors.numpy.save(contiguous, {METADATA: text.decode()}))
    else:
        content = io.BytesIO()  # h5py can crash when it closes a file on a full disk
        with h5py.File(content, "w") as file:
            # Not an attribute: HDF5 reads those of any length from a heap that a damaged file can make endless.
            file[METADATA] = np.frombuffer(text, np.uint8)
            for name, array in arrays.items():
                file[name] = array
        path.write_bytes(content.getbuffer())


def add_to_archive(path: Path, metadata: dict[str, Any]) -> None:
    """Puts metadata into the `.keras` file that Keras wrote."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{METADATA}.json", _dump(metadata))


def _dump(metadata: dict[str, Any]) -> bytes:
    return json.dumps(metadata, ensure_ascii=False).encode()


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # h5py, zipfile, safetensors and json raise a dozen kinds on damaged files
        reason = "".join(filter(str.isprintable, str(error).strip("'")))[:200] or type(error).__name__
        raise ValueError(
            f"Not a weights file ({reason}). Received: path={str(path)!r}. Give one that `fit` or `save` wrote."
        ) from error


def _check_tensors(tensors: dict[str, Tensor], size: int) -> None:
    total = 0
    for name, tensor in tensors.items():
        if not name.isprintable():
            raise ValueError(f"an array called {name!a}")
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{name} is {tensor.dtype}, not {', '.join(FLOATS)}")
        if 0 in tensor.shape:
            raise ValueError(f"{name} is empty")
        total += math.prod(tensor.shape) * FLOATS[tensor.dtype]
    if total > size:
        raise ValueError(f"arrays of {total:,} bytes in {size:,}")


def _parse(text: bytes) -> dict[str, Any]:
    parsed = json.loads(text)
    if type(parsed) is not dict:
        raise ValueError("the metadata is no object")
    metadata = {name: value for name, value in parsed.items() if value is not None}
    for name in KINDS.keys() & metadata.keys():
        if type(metadata[name]) is not KINDS[name]:
            raise ValueError(f"the metadata's {name} is no {KINDS[name].__name__}")
    printed = [*metadata, *metadata.get("classes", ()), *metadata.get("sizes", ())]
    printed += [metadata.get(name, "") for name in ("example", "data", "dataset")]
    if not all(type(text) is str and text.isprintable() for text in printed):
        raise ValueError("the metadata's names cannot be printed")
    return metadata


def _hdf5(source: Path | io.BytesIO, stack: contextlib.ExitStack) -> tuple[dict[str, Tensor], bytes]:
    file = stack.enter_context(h5py.File(source, "r"))
    found: dict[str, h5py.Dataset] = {}

    def collect(name: str, item: h5py.HLObject) -> bool | None:
        if isinstance(item, h5py.Dataset) and (name.startswith("layers/") or name == METADATA):
            found[name] = item
        return True if len(found) > MOST else None  # True ends the walk, which follows no links to elsewhere

    if file.visititems(collect):
        raise ValueError(f"more than {MOST} arrays")
    for name, item in found.items():
        # The length of external storage counts as stored; that of a compressed array rarely is what it holds.
        plain = item.shape is not None and not (item.external or item.is_virtual or item.chunks)
        if not plain or item.id.get_storage_size() != math.prod(item.shape) * item.dtype.itemsize:
            raise ValueError(f"{name} is compressed, incomplete or in another file")
    text = found.pop(METADATA, None)
    if text is not None and (text.dtype != np.uint8 or text.ndim != 1 or text.size > LIMIT):
        raise ValueError(f"metadata of {text.size:,} {text.dtype}")
    # Keras writes bfloat16 as two bytes without a type.
    tensors = {
        name: Tensor(item.shape, "bfloat16" if item.dtype == "V2" else item.dtype.name, partial(_single, item))
        for name, item in found.items()
    }
    return tensors, b"{}" if text is None else text[()].tobytes()


def _single(stored: h5py.Dataset | np.ndarray) -> np.ndarray:
    array = stored[()]
    if array.dtype == "V2":  # bfloat16 is the upper half of a float32
        return (array.view("<u2").astype("<u4") << 16).view("<f4")
    return array.astype(np.float32)


def _archive(path: Path, stack: contextlib.ExitStack) -> tuple[dict[str, Tensor], bytes]:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:

        def member(name: str, limit: int) -> bytes:
            info = archive.getinfo(name)
            if info.compress_type != zipfile.ZIP_STORED or max(info.file_size, info.compress_size) > limit:
                raise ValueError(f"{name} is compressed, or longer than {limit:,} bytes")
            return archive.read(info)

        content = io.BytesIO(member("model.weights.h5", size))
        name = f"{METADATA}.json"
        text = member(name, min(LIMIT, size)) if name in archive.namelist() else b"{}"
    return _hdf5(content, stack)[0], text


def _safetensors(path: Path, stack: contextlib.ExitStack) -> tuple[dict[str, Tensor], bytes]:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if length > LIMIT:
        raise ValueError(f"a header of {length:,} bytes")
    file = stack.enter_context(safetensors.safe_open(path, "numpy"))
    names = file.keys()
    if len(names) > MOST:
        raise ValueError(f"more than {MOST} arrays")
    dtypes = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

    def tensor(name: str) -> Tensor:
        part = file.get_slice(name)
        dtype = part.get_dtype()
        return Tensor(tuple(part.get_shape()), dtypes.get(dtype, dtype), lambda: _single(file.get_tensor(name)))

    return {name: tensor(name) for name in names}, (file.metadata() or {}).get(METADATA, "{}").encode()
