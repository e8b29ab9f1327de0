"""Weight files: what was trained, and in the same file what it takes to build the model again.

The only code that touches `weights/`. A file is written whole or not at all.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np

from keras_examples.calls import call, fetching
from keras_examples.data import Images, Text, load, status
from keras_examples.data.readers import read_text
from keras_examples.data.vocabulary import Vocabulary
from keras_examples.examples import EXAMPLES
from keras_examples.files import check_writable, whole_file
from keras_examples.models import build, default_sizes
from keras_examples.weights import formats, layouts
from keras_examples.weights import onnx as exports
from keras_examples.weights.formats import wrong
from keras_examples.weights.networks import difference, layers_in
from keras_examples.weights.recognition import recognise

WRITTEN = (*formats.FORMATS, ".onnx")
PATHLESS = re.compile(r"(weight|bias)(_(ih|hh)_l[0-9]+)?(__[0-9]+)?")  # what tch-rs calls a variable without a path


def label(example: str, source: str) -> str:
    """What files of an example are called: its id, with `-synthetic` behind it if `source` is `synthetic`."""
    return f"{example}-synthetic" if source == "synthetic" else example


def run_name(example: str, text: str | Path | None) -> str:
    """An example's id, with the stem and a part of the SHA-256 of the text behind it if it learns one of the user's."""
    if not text:
        return example
    return f"{example}-{Path(text).stem}-{hashlib.sha256(read_text(Path(text)).encode()).hexdigest()[:8]}"


def default_path(name: str, source: str, folder: str | Path = "weights") -> Path:
    """Where training on `real` or `synthetic` data leaves the weights of what `run_name` calls `name`."""
    return Path(folder) / f"{label(name, source)}.weights.h5"


def shipped(example: str) -> Path:
    """Where the weights of an example are that come with the project, trained on real data."""
    return Path(__file__).parent / "shipped" / f"{example}.safetensors"


def find(name: str, path: str | Path | None = None, source: str | None = None, folder: str | Path = "weights") -> Path:
    """Finds the weights of what `run_name` calls `name`: last trained on real data, else shipped, else on stand-ins.

    Args:
        path: The file asked for, `shipped` for the one that comes with the project, or None.
        source: `real` or `synthetic`: which data it has to be trained on; None for any.

    Raises:
        OSError: There are none, or they may not be read.
    """
    if path and str(path) != "shipped":
        formats.check_readable(Path(path))
        return Path(path)
    example = max((example for example in EXAMPLES if name.startswith(example)), key=len)
    candidates = [default_path(name, "real", folder), shipped(name)] * (source != "synthetic")
    candidates += [default_path(name, "synthetic", folder)] * (source != "real")
    candidates = [shipped(example)] if path else candidates
    for candidate in filter(Path.is_file, candidates):
        return candidate
    train = call(example, text="PATH" if name != example else None)
    raise FileNotFoundError(
        f"No trained weights for {name}. Received: {' and '.join(map(str, candidates))} missing. Train first "
        f"(`{train}`), or give --weights."
    )


def restore(
    path: str | Path, example: str, sizes: dict[str, Any] | None = None, dataset: Images | Text | None = None
) -> tuple[keras.Sequential, dict[str, Any]]:
    """Builds the model that a weights file is of, and loads the weights. Nothing but arrays and JSON is read.

    Args:
        path: A `.weights.h5`, `.keras` or `.safetensors` file, whoever wrote it.
        sizes: Builder's arguments that the model has to have; what is not given comes from the file.
        dataset: What the model is to read: a text has to have the characters that the model knows.

    Returns:
        The model, uncompiled, and the file's metadata: `example`, `data` and `sizes` at least.

    Raises:
        OSError: there is no such file, or it may not be read.
        ValueError: not a weights file, a damaged one, or one of another example, architecture or vocabulary.
    """
    tensors, metadata, network = formats.read(path)
    metadata = {"example": example, "data": "unknown", "sizes": {}} | metadata
    if metadata["example"] != example:
        raise _misfit(path, example, f"they are of {metadata['example']}, asked for {example}")
    try:
        with np.errstate(over="raise"):  # of float64
            singles = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
        arrays, found, note = recognise(example, singles)
    except (ValueError, FloatingPointError) as error:
        raise _misfit(path, example, *error.args) from error
    if not all(np.isfinite(array).all() for array in arrays):
        raise wrong(path, "Damaged weights: some numbers are not finite", "Give another copy, or train anew.")
    for name, value in metadata["sizes"].items():
        if not (value == found[name] if name in found else _harmless(example, name, value)):
            what = f"{name} is {value!r:.60} by the metadata and {found.get(name, 'unknown')} by the arrays"
            raise wrong(path, f"Damaged weights: {what}", "Give another copy.")
    for name, value in (sizes or {}).items():
        if name in found and found[name] != ([*value] if isinstance(value, tuple) else value):
            raise _misfit(path, example, f"{name} is {found[name]} in the file, asked for {value}")
    metadata["sizes"] = {**default_sizes(example), **metadata["sizes"], **found, **(sizes or {})}
    notes = [note]
    if "vocabulary_size" in found:
        characters, note = _characters(path, metadata, tensors, dataset)
        arrays = _renumbered(arrays, np.argsort([*map(ord, characters)])) if characters else arrays
        metadata["vocabulary"] = "".join(sorted(characters)) or None
        notes.append(note)
    model = build(example, metadata["sizes"])
    if network and (reason := difference(network, layers_in(json.loads(model.to_json())))):
        raise _misfit(path, example, reason)
    if metadata.get("sha256", sha256 := digest(arrays)) != sha256:
        raise wrong(path, "Damaged weights: they are not those that were written", "Give another copy.")
    model.set_weights(arrays)
    for note in filter(None, notes):
        click.echo(f"{path}: {note}", err=True)
    return model, metadata


def convert(
    source: str | Path, target: str | Path, example: str, names: str | None = None, text: str | Path | None = None
) -> dict[str, Any]:
    """Reads a weights file of an example and writes another, see `write`; returns the metadata.

    `text` is what a character model was trained on; tch-rs numbers the characters by it.
    """
    check_target(target)
    dataset = load(EXAMPLES[example].dataset, "real", text=text) if text else None
    model, metadata = restore(source, example, dataset=dataset)
    if "vocabulary_size" in metadata["sizes"]:
        vocabulary_of(source, metadata)
    write(target, model, metadata, names, text=dataset)
    return metadata


def describe(path: str | Path) -> dict[str, Any]:
    """Lists a file's `metadata`, and of its `tensors` the `name`, `shape` and `dtype`; raises what `restore` does."""
    tensors, metadata, _ = formats.read(path)
    listed = [{"name": name, "shape": [*array.shape], "dtype": array.dtype.name} for name, array in tensors.items()]
    return {"metadata": metadata, "tensors": listed}


def vocabulary_of(path: str | Path, metadata: dict[str, Any]) -> Vocabulary:
    """The characters a model was trained on, by its file's metadata. Raises ValueError if these have none."""
    if not metadata.get("vocabulary"):
        what = "No vocabulary: the file does not say which characters the ids stand for"
        raise wrong(path, what, "Give weights that `fit` or `save` wrote, or with those of tch-rs the --text.")
    return Vocabulary(metadata["vocabulary"])


def write(
    path: str | Path,
    model: keras.Model,
    metadata: dict[str, Any],
    names: str | None = None,
    dtype: str = "float32",
    text: Text | None = None,
) -> None:
    """Writes weights and metadata, in the format that the extension names.

    Args:
        path: File ending in `.weights.h5`, `.keras`, `.safetensors` or `.onnx`. Its folder is made if it is missing.
        model: Built model. Its optimizer is left out.
        metadata: What is needed to build the model again, as JSON takes it; `.onnx` has no place for it.
        names: What the tensors of a `.safetensors` file are called, one of `layouts.NAMES`; None for candle's.
        dtype: `float32`, or `float16` for a `.safetensors` file of half the size.
        text: What the model was trained on, by which tch-rs numbers its characters; None for the example's own.

    Raises:
        ValueError: another extension, names that the model cannot have, an `.onnx` file that computes something else.
        OSError: the file cannot be written; what was there before is intact.
    """
    formats.check_format(path, WRITTEN)
    arrays = [keras.ops.convert_to_numpy(variable).astype(dtype) for variable in model.weights]
    versions = {name: import_module(name).__version__ for name in ("keras_examples", "keras", keras.backend.backend())}
    metadata = {"versions": versions} | metadata | {"sha256": digest(array.astype(np.float32) for array in arrays)}
    with whole_file(path) as temporary:
        if temporary.suffix == ".onnx":
            exports.write_onnx(temporary, model, metadata["example"], metadata["sizes"])
        elif temporary.suffix == ".keras":
            bare = type(model).from_config(model.get_config())  # without the optimizer
            bare.set_weights(model.get_weights())
            bare.save(temporary)
            formats.add_to_archive(temporary, metadata)
        else:
            layers = layouts.layers_of(model)
            candle = layouts.names_of(layers, "candle", model.name)
            names = "keras" if temporary.suffix == ".h5" else names or ("candle" if candle else "keras")
            if names == "tch" and metadata.get("vocabulary"):
                arrays, metadata = _as_tch(arrays, metadata, text)
            formats.write(temporary, layouts.tensors(layers, arrays, names, model.name), metadata)


def check_target(path: str | Path) -> None:
    """Raises ValueError or OSError, before anything is computed, if `write` does not know a format or cannot write."""
    formats.check_format(path, WRITTEN)
    if Path(path).suffix.lower() == ".onnx":
        exports.check_onnx()
    check_writable(path)


def digest(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 over arrays as they lie in memory, in hexadecimal; weights are in Keras's layout, whatever the file's."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).data.cast("B"))
    return total.hexdigest()


def _misfit(path: str | Path, example: str, reason: str, remedy: str = "") -> Exception:
    remedy = remedy or "Choose the command, the --arch and the sizes they were trained with."
    return wrong(path, f"Weights that do not fit {example}: {reason}", remedy)


def _harmless(example: str, name: str, value: Any) -> bool:
    """Whether a size that no array shows may be believed: a fraction, or a small whole number."""
    default = default_sizes(example).get(name)
    return type(value) in (int, float) and 0 <= value < {float: 1, int: 1024}.get(type(default), 0)


def _characters(
    path: str | Path, metadata: dict[str, Any], names: Iterable[str], dataset: Images | Text | None
) -> tuple[str, str]:
    """The characters of a model by their numbers in the file, or '', and what was taken for granted."""
    stored, size, note = metadata.get("vocabulary", ""), metadata["sizes"]["vocabulary_size"], ""
    text = None if stored or not all(map(PATHLESS.fullmatch, names)) else _text(metadata["example"], dataset)
    if text and (dataset or size == len(text.vocabulary)):
        stored = _by_appearance(text)
        note = f"characters are taken to be numbered by their first appearance in {text.name}, as by tch-rs"
    if isinstance(dataset, Text):
        vocabulary_of(path, {"vocabulary": "".join(sorted(stored))})
        known = dataset.vocabulary
        if size != len(known) or sorted(stored) != [*known.characters]:
            what = f"Weights of another vocabulary: {size} characters, the text has {len(known)}"
            raise wrong(path, what, "Give the text they were trained on.")
    if stored and not len(stored) == len(set(stored)) == size:
        what = f"{len(set(stored))} characters by the metadata and {size} by the arrays"
        raise wrong(path, f"Damaged weights: {what}", "Give another copy.")
    return stored, note


def _text(example: str, given: Images | Text | None) -> Text | None:
    """What a character model was trained on: what is given, else the example's own text if its files are there."""
    name = EXAMPLES[example].dataset
    text = load(name, "real") if given is None and status(name).state == "complete" else given
    return text if isinstance(text, Text) else None


def _by_appearance(text: Text) -> str:
    """The characters of a text in the order in which they appear, by which tch-rs numbers them."""
    characters = "".join(dict.fromkeys(text.train + text.validation))
    if not characters.isascii():
        raise ValueError(f"tch-rs reads bytes, not characters. Received: {text.name}, not in ASCII. Use other names.")
    return characters


def _as_tch(
    arrays: list[np.ndarray], metadata: dict[str, Any], text: Text | None
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """A character model's arrays and metadata with the characters numbered as tch-rs numbers those of the text."""
    text = _text(metadata["example"], text)
    characters = _by_appearance(text) if text else ""
    if sorted(characters) != [*metadata["vocabulary"]]:
        raise ValueError(
            "tch-rs numbers characters by their first appearance in the text that was learned. Received: "
            f"{text.name if text else 'no text'}. Give it with --text, or fetch it: `{fetching('tinyshakespeare')}`."
        )
    places = np.argsort(np.argsort([*map(ord, characters)]))  # of each character in the order of code points
    return _renumbered(arrays, places), metadata | {"vocabulary": characters}


def _renumbered(arrays: list[np.ndarray], order: np.ndarray) -> list[np.ndarray]:
    """A character model's arrays where character i was `order[i]`: characters go in first, and come out last."""
    first, *others, kernel, bias = arrays
    return [first[order], *others, kernel[:, order], bias[order]]
