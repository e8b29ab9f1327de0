"""The arrays and the metadata of a weights file, whichever format it has, whoever made it.

Nothing but arrays and JSON is read. What a file claims is compared with its length before anything is allocated.
"""

import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import safetensors.numpy

from keras_examples.weights.networks import Network, layers_in

FORMATS = (".weights.h5", ".keras", ".safetensors")
METADATA = "keras_examples"
LIMIT = 1 << 22  # bytes of metadata, of a network's description, and of a safetensors header
MOST = 512  # arrays
FLOATS = ("float64", "float32", "float16", "bfloat16")
KINDS = {"epochs": int, "seed": int, "sizes": dict, "classes": list} | dict.fromkeys(
    ("example", "data", "dataset", "data_sha256", "vocabulary", "sha256"), str
)


class Content(NamedTuple):
    """What is in a weights file."""

    arrays: dict[str, np.ndarray]  # of one of `FLOATS`
    metadata: dict[str, Any]
    network: Network | None = None  # only a `.keras` file has one


def wrong(path: str | Path, what: str, remedy: str, kind: type[Exception] = ValueError) -> Exception:
    """An error about a file: what is wrong with it, its path, and what to do."""
    return kind(f"{what}. Received: path={str(path)!r}. {remedy}")


def check_format(path: str | Path, formats: tuple[str, ...] = FORMATS) -> None:
    """Raises ValueError unless the path ends in one of the formats, in small letters or capitals."""
    ending = str(path).lower()
    if not ending.endswith(formats):
        remedy = f"Let the name end in {', '.join(formats[:-1])} or {formats[-1]}."
        if formats is FORMATS and ending.endswith((".pt", ".pth", ".ckpt", ".bin")):
            remedy = "Write it as .safetensors: `safetensors.torch.save_file(model.state_dict(), path)`."
        raise wrong(path, "Unknown weights format", remedy)


def check_readable(path: Path) -> None:
    """Raises OSError if a weights file is not there or may not be read."""
    try:
        if present := path.is_file():
            path.open("rb").close()
    except OSError as error:
        raise wrong(path, f"Cannot read {path.name}: {error.strerror}", "Correct its permissions.", OSError) from error
    if not present:
        if path.is_dir():
            raise wrong(path, f"{path} is a folder", "Give a weights file.", IsADirectoryError)
        raise wrong(path, "No such weights file", "Train first, or correct the path.", FileNotFoundError)


def read(path: str | Path) -> Content:
    """Reads a weights file. Raises OSError if it is not there or may not be read, ValueError if it is none."""
    path = Path(path)
    check_readable(path)
    check_format(path)
    try:
        return {".h5": _hdf5, ".keras": _archive, ".safetensors": _safetensors}[path.suffix.lower()](path)
    except Exception as error:  # h5py, zipfile, safetensors and json raise a dozen kinds on damaged files
        reason = "".join(filter(str.isprintable, str(error).strip("'")))[:200] or type(error).__name__
        raise wrong(path, f"Not a weights file ({reason})", "Give one that `fit` or `save` wrote.") from error


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """Writes a `.weights.h5` or `.safetensors` file, in place; in HDF5, slashes in names make groups."""
    text = json.dumps(metadata, ensure_ascii=False)
    if path.suffix == ".safetensors":
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        path.write_bytes(safetensors.numpy.save(contiguous, {METADATA: text}))
    else:
        content = io.BytesIO()  # h5py can crash when it closes a file on a full disk
        with h5py.File(content, "w") as file:
            # Not an attribute: HDF5 reads those of any length from a heap that a damaged file can make endless.
            file[METADATA] = np.frombuffer(text.encode(), np.uint8)
            for name, array in arrays.items():
                file[name] = array
        path.write_bytes(content.getbuffer())


def add_to_archive(path: Path, metadata: dict[str, Any]) -> None:
    """Puts metadata into the `.keras` file that Keras wrote."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{METADATA}.json", json.dumps(metadata, ensure_ascii=False))


def _hdf5(source: Path | io.BytesIO) -> Content:
    found: dict[str, h5py.Dataset] = {}

    def collect(name: str, item: h5py.HLObject) -> bool | None:
        if isinstance(item, h5py.Dataset) and (name.startswith("layers/") or name == METADATA):
            found[name] = item
        return True if len(found) > MOST else None  # True ends the walk, which follows no links to elsewhere

    with h5py.File(source, "r") as file:
        if file.visititems(collect):
            raise ValueError(f"more than {MOST} arrays")
        total = 0
        for name, item in found.items():
            # The length of external storage counts as stored; that of a compressed array rarely is what it holds.
            plain = item.shape is not None and not (item.external or item.is_virtual or item.chunks)
            if not plain or item.id.get_storage_size() != math.prod(item.shape) * item.dtype.itemsize:
                raise ValueError(f"{name} is compressed, incomplete or in another file")
            total += item.id.get_storage_size()
        if total > file.id.get_filesize():
            raise ValueError(f"arrays of {total:,} bytes in {file.id.get_filesize():,}")
        text = found.pop(METADATA, None)
        if text is not None and (text.dtype != np.uint8 or text.ndim != 1 or text.size > LIMIT):
            raise ValueError(f"metadata of {text.size:,} {text.dtype}")
        metadata = _parsed(b"{}" if text is None else text[()].tobytes())
        return Content(_checked({name: item[()] for name, item in found.items()}), metadata)


def _archive(path: Path) -> Content:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:

        def member(name: str, limit: int) -> bytes:
            info = archive.getinfo(name)
            if info.compress_type != zipfile.ZIP_STORED or max(info.file_size, info.compress_size) > limit:
                raise ValueError(f"{name} is compressed, or longer than {limit:,} bytes")
            return archive.read(info)

        name = f"{METADATA}.json"
        metadata = _parsed(member(name, min(LIMIT, size)) if name in archive.namelist() else b"{}")
        network = layers_in(json.loads(member("config.json", min(LIMIT, size))))
        return Content(_hdf5(io.BytesIO(member("model.weights.h5", size))).arrays, metadata, network)


def _safetensors(path: Path) -> Content:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if length > LIMIT:
        raise ValueError(f"a header of {length:,} bytes")
    with safetensors.safe_open(path, "numpy") as file:  # refuses tensors that overlap or end behind the file
        if len(names := file.keys()) > MOST:
            raise ValueError(f"more than {MOST} arrays")
        metadata = _parsed((file.metadata() or {}).get(METADATA, "{}").encode())
        return Content(_checked({name: file.get_tensor(name) for name in names}), metadata)


def _checked(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for name, array in arrays.items():
        if array.dtype == "V2":  # as which Keras writes bfloat16
            array = arrays[name] = array.view("bfloat16")
        if not name.isprintable() or len(name) > 200:
            raise ValueError(f"an array called {name!a:.60}")
        if array.dtype.name not in FLOATS:
            raise ValueError(f"{name} is {array.dtype.name}, not {', '.join(FLOATS)}")
        if 0 in array.shape:
            raise ValueError(f"{name} is empty")
    return arrays


def _parsed(text: bytes) -> dict[str, Any]:
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
