"""Weight files: what was trained, and in the same file what it takes to build the model again.

The only code that touches `weights/`. A file is written whole or not at all.
"""

import hashlib
import inspect
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_examples import models
from keras_examples.data.readers import read_text
from keras_examples.data.vocabulary import Vocabulary
from keras_examples.examples import EXAMPLES
from keras_examples.files import check_writable, whole_file
from keras_examples.models import build, default_sizes
from keras_examples.weights import formats, layouts
from keras_examples.weights import onnx as exports

WRITTEN = (*formats.FORMATS, ".onnx")


def label(example: str, source: str) -> str:
    """What files of an example are called: its id, with `-synthetic` behind it if `source` is `synthetic`."""
    return f"{example}-synthetic" if source == "synthetic" else example


def run_name(example: str, text: str | Path | None) -> str:
    """An example's id, with the stem and a part of the SHA-256 of the text behind it if it learns one of the user's."""
    if not text:
        return example
    return f"{example}-{Path(text).stem}-{hashlib.sha256(read_text(Path(text)).encode()).hexdigest()[:8]}"


def default_path(example: str, source: str, folder: str | Path = "weights") -> Path:
    """Where training leaves its weights.

    Args:
        example: Example id, such as `mnist-cnn`.
        source: `real` or `synthetic`: which data it was trained on.
        folder: Folder of the weights.
    """
    return Path(folder) / f"{label(example, source)}.weights.h5"


def shipped(example: str) -> Path:
    """Where the weights of an example are that come with the project, trained on real data."""
    return Path(__file__).parent / "shipped" / f"{example}.safetensors"


def find(name: str, path: str | Path | None = None, source: str | None = None, folder: str | Path = "weights") -> Path:
    """Finds the weights to use: what was last trained on real data, else what is shipped, else what on stand-ins.

    Args:
        name: What `run_name` calls the files of an example.
        path: The file asked for, `shipped` for the one that comes with the project, or None.
        source: `real` or `synthetic`: which data it has to be trained on; None for any.
        folder: Folder of the weights.

    Raises:
        FileNotFoundError: There are none.
    """
    if path and str(path) != "shipped":
        return Path(path)
    real, stand_in = (default_path(name, kind, folder) for kind in ("real", "synthetic"))
    candidates = {None: [real, shipped(name), stand_in], "real": [real, shipped(name)], "synthetic": [stand_in]}[source]
    candidates = [shipped(name)] if path else candidates
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    example = next(example for example in EXAMPLES if name.startswith(example))
    row = EXAMPLES[example]
    command = f"{row.command}{f' --arch {row.arch}' if row.arch else ''}{' --text PATH' if name != example else ''}"
    raise FileNotFoundError(
        f"No trained weights for {name}. Received: {' and '.join(map(str, candidates))} missing. Train first "
        f"(`python cli.py {command}`), or give --weights."
    )


def restore(
    path: str | Path,
    example: str,
    sizes: dict[str, Any] | None = None,
    vocabulary: Vocabulary | None = None,
) -> tuple[keras.Sequential, dict[str, Any]]:
    """Builds the model that a weights file is of, and loads the weights. Nothing but arrays and JSON is read.

    Args:
        path: A `.weights.h5`, `.keras` or `.safetensors` file, ours or with the names of `layouts.LAYOUTS`.
        example: Example id that the file has to be of.
        sizes: Builder's arguments that the model has to have; what is not given comes from the file.
        vocabulary: The characters that the model has to know.

    Returns:
        The model, uncompiled, and the file's metadata: `example`, `data` and `sizes` at least.

    Raises:
        FileNotFoundError: no such file.
        OSError: the file may not be read.
        ValueError: not a weights file, a damaged one, or one of another example, architecture or vocabulary.
    """
    with formats.opened(path) as (tensors, metadata):
        metadata = {"example": example, "data": "unknown", "sizes": {}} | metadata
        if metadata["example"] != example:
            found = metadata["example"]
            raise _other(path, f"they are of {found}, asked for {example}", f"command and --arch of {found}")
        try:
            tensors = layouts.to_keras(example, tensors)
            inferred = layouts.sizes(example, tensors)
        except ValueError as error:
            raise _other(path, str(error)) from error
        metadata["sizes"] = {
            **default_sizes(example),
            **_sizes(path, example, metadata["sizes"], inferred),
            **(sizes or {}),
        }
        if vocabulary:
            _check_vocabulary(path, metadata, vocabulary)
        model = build(example, metadata["sizes"])
        expected = dict(_variables(model))
        for name in [*expected, *tensors]:
            shapes = [tuple(group[name].shape) if name in group else None for group in (expected, tensors)]
            if shapes[0] != shapes[1]:
                here, there = (shape or "absent" for shape in shapes)
                raise _other(path, f"{name} is {here} in {model.name} and {there} in the file")
        values = {name: tensors[name].read() for name in expected}
    found = digest(values.values())
    if metadata.get("sha256", found) != found:
        raise ValueError(
            f"Damaged weights: they are not those that were written. Received: path={str(path)!r}. Give another copy."
        )
    for name, variable in expected.items():
        variable.assign(values[name])
    return model, metadata


def describe(path: str | Path) -> dict[str, Any]:
    """Lists what is in a weights file.

    Returns:
        `metadata`, and `tensors`: `name`, `shape` and `dtype` of each, as in the file.

    Raises:
        FileNotFoundError: no such file.
        OSError: the file may not be read.
        ValueError: not a weights file.
    """
    with formats.opened(path) as (tensors, metadata):
        listed = [{"name": name, "shape": [*tensor.shape], "dtype": tensor.dtype} for name, tensor in tensors.items()]
        return {"metadata": metadata, "tensors": listed}


def vocabulary_of(path: str | Path, metadata: dict[str, Any]) -> Vocabulary:
    """The characters a model was trained on, by its file's metadata.

    Raises:
        ValueError: the metadata has none, or no proper ones.
    """
    if not metadata.get("vocabulary"):
        raise ValueError(
            f"No vocabulary: the file does not say which characters the ids stand for. Received: path={str(path)!r}. "
            "Give weights that `fit` or `save` wrote."
        )
    return Vocabulary(metadata["vocabulary"])


def write(
    path: str | Path, model: keras.Model, metadata: dict[str, Any], names: str = "candle", dtype: str = "float32"
) -> None:
    """Writes weights and metadata, in the format that the extension names.

    Args:
        path: File ending in `.weights.h5`, `.keras`, `.safetensors` or `.onnx`. Its folder is made if it is missing.
        model: Built model. Its optimizer is left out.
        metadata: What is needed to build the model again, as JSON takes it; `.onnx` has no place for it.
        names: What the tensors of a `.safetensors` file are called, one of `layouts.NAMES`.
        dtype: `float32`, or `float16` for a `.safetensors` file of half the size.

    Raises:
        ValueError: another extension; an `.onnx` file that computes something else than the model.
        OSError: the file cannot be written; what was there before is intact.
    """
    formats.check_format(path, WRITTEN)
    arrays = {name: keras.ops.convert_to_numpy(variable) for name, variable in _variables(model)}
    versions = {name: import_module(name).__version__ for name in ("keras_examples", "keras", keras.backend.backend())}
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    read_back = (array.astype(np.float32) for array in arrays.values())
    metadata = {"versions": versions} | metadata | {"sha256": digest(read_back)}
    with whole_file(path) as temporary:
        if temporary.suffix == ".onnx":
            exports.write_onnx(temporary, model, metadata)
        elif temporary.suffix == ".keras":
            bare = type(model).from_config(model.get_config())  # without the optimizer
            bare.set_weights(model.get_weights())
            bare.save(temporary)
            formats.add_to_archive(temporary, metadata)
        else:
            if temporary.suffix == ".safetensors":
                arrays = layouts.from_keras(metadata.get("example", ""), names, arrays)
            formats.write(temporary, arrays, metadata)


def check_target(path: str | Path) -> None:
    """Makes sure, before anything is computed, that `write` will know the format and may write there.

    Raises:
        ValueError: unknown format, or one that cannot be written here.
        OSError: the folder, or where it would be made, is not writable.
    """
    formats.check_format(path, WRITTEN)
    if Path(path).suffix == ".onnx":
        exports.check_onnx()
    check_writable(path)


def _other(path: str | Path, reason: str, remedy: str = "--arch and the sizes it was trained with") -> ValueError:
    return ValueError(f"Weights of another architecture: {reason}. Received: path={str(path)!r}. Choose the {remedy}.")


def _sizes(path: str | Path, example: str, stored: dict[str, Any], inferred: dict[str, Any]) -> dict[str, Any]:
    """The builder's arguments by the metadata, which may not contradict the arrays, and by the arrays."""
    known = inspect.signature(getattr(models, EXAMPLES[example].builder)).parameters
    for name, value in stored.items():
        dropout = name.endswith("dropout") and type(value) in (int, float) and 0 <= value < 1
        if not (dropout or (value == inferred[name] if name in inferred else not inferred)) or name not in known:
            raise ValueError(
                f"Damaged weights: {name} is {value!r:.60} by the metadata and {inferred.get(name, 'unknown')} by the "
                f"arrays. Received: path={str(path)!r}. Give another copy."
            )
    return {**stored, **{name: value for name, value in inferred.items() if name in known}}


def _check_vocabulary(path: str | Path, metadata: dict[str, Any], vocabulary: Vocabulary) -> None:
    trained, size = metadata.get("vocabulary"), metadata["sizes"].get("vocabulary_size")
    if size != len(vocabulary) or trained not in (None, vocabulary.characters):
        raise ValueError(
            f"Weights of another vocabulary: {size} characters, the text has {len(vocabulary)}. "
            f"Received: path={str(path)!r}. Give the text they were trained on."
        )


def digest(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 over arrays as they lie in memory, in hexadecimal; weights are in Keras's layout, whatever the file's."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).data.cast("B"))
    return total.hexdigest()


def _variables(model: keras.Model) -> Iterator[tuple[str, keras.Variable]]:
    """Each variable under the name that Keras gives it in an HDF5 file: by the layer's class and its place."""
    count: dict[str, int] = {}
    for layer in model.layers:
        kind = re.sub(r"_\d+$", "", layer.name)
        index = count[kind] = count.get(kind, -1) + 1
        folder = f"{kind}_{index}" if index else kind
        cell = "/cell" if hasattr(layer, "cell") else ""
        for place, variable in enumerate(layer.weights):
            yield f"layers/{folder}{cell}/vars/{place}", variable
