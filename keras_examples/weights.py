"""Weight files: what was trained, and in the same file what it takes to build the model again.

The only code that touches `weights/`. A file is written whole or not at all.
"""

import contextlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras

from keras_examples.files import whole_file
from keras_examples.recipes import build
from keras_examples.vocabulary import Vocabulary

FORMATS = (".weights.h5", ".keras")
METADATA = "keras_examples"


def label(example: str, source: str) -> str:
    """What files of an example are called: its id, with `-synthetic` behind it if `source` is `synthetic`."""
    return f"{example}-synthetic" if source == "synthetic" else example


def default_path(example: str, source: str, folder: str | Path = "weights") -> Path:
    """Where training leaves its weights.

    Args:
        example: Example id, such as `mnist-cnn`.
        source: `real` or `synthetic`: which data it was trained on.
        folder: Folder of the weights.
    """
    return Path(folder) / f"{label(example, source)}.weights.h5"


def find(
    example: str, path: str | Path | None = None, source: str | None = None, folder: str | Path = "weights"
) -> Path:
    """Finds the weights to use: the file given, else what was last trained.

    Args:
        example: Example id, such as `mnist-cnn`.
        path: The file asked for, or None.
        source: `real` or `synthetic`: which data it was trained on; None prefers real.
        folder: Folder of the weights.

    Raises:
        FileNotFoundError: nothing was trained yet.
    """
    if path:
        return Path(path)
    candidates = [default_path(example, kind, folder) for kind in ((source,) if source else ("real", "synthetic"))]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    command = example.replace("-", " --arch ")
    raise FileNotFoundError(
        f"No trained weights for {example}. Received: {' and '.join(map(str, candidates))} missing. Train first "
        f"(`python cli.py {command}`), or give --weights."
    )


def restore(path: str | Path, example: str) -> tuple[keras.Sequential, dict[str, Any]]:
    """Builds a model with the sizes that its weights file names, and loads the weights.

    Args:
        path: A `.weights.h5` or `.keras` file.
        example: Example id that the file has to be of.

    Returns:
        The model, uncompiled, and the file's metadata.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weights file, or one of another example or architecture.
    """
    metadata = {"example": example, "data": "unknown", "sizes": {}} | read_metadata(path)
    found = metadata["example"]
    if found != example:
        raise ValueError(
            f"Weights of another architecture: they are of {found}, asked for {example}. Received: path={str(path)!r}. "
            f"Give the weights of {example}, or the command and --arch of {found}."
        )
    model = build(example, metadata["sizes"])
    read(path, model)
    return model, metadata


def check_vocabulary(path: str | Path, vocabulary: Vocabulary) -> None:
    """Raises ValueError if a weights file was trained on other characters than these."""
    trained = read_metadata(path).get("vocabulary") or ""
    if trained != vocabulary.characters:
        raise ValueError(
            f"Weights of another vocabulary: {len(trained)} characters, the text has {len(vocabulary)}. "
            f"Received: path={str(path)!r}. Give the text they were trained on."
        )


def write(path: str | Path, model: keras.Model, metadata: dict[str, Any]) -> None:
    """Writes weights and metadata, in the format that the extension names.

    Args:
        path: File ending in `.weights.h5` or `.keras`. Its folder is made if it is missing.
        model: Built model. Its optimizer is left out.
        metadata: What is needed to build the model again, as JSON takes it.

    Raises:
        ValueError: another extension.
        OSError: the file cannot be written; what was there before is intact.
    """
    check_format(path)
    text = json.dumps(metadata)
    with whole_file(path) as temporary:
        if temporary.suffix == ".keras":
            bare = type(model).from_config(model.get_config())  # without the optimizer
            bare.set_weights(model.get_weights())
            bare.save(temporary)
            with zipfile.ZipFile(temporary, "a") as archive:
                archive.writestr(f"{METADATA}.json", text)
        else:
            content = io.BytesIO()  # h5py can crash when it closes a file on a full disk
            with h5py.File(content, "w") as file:
                file.attrs[METADATA] = text
                for name, variable in _variables(model):
                    file[name] = keras.ops.convert_to_numpy(variable)
            temporary.write_bytes(content.getbuffer())


def check_target(path: str | Path) -> None:
    """Makes sure, before anything is computed, that `write` will know the format and may write there.

    Raises:
        ValueError: unknown format.
        OSError: the folder, or where it would be made, is not writable.
    """
    check_format(path)
    folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise OSError(f"Cannot write to {folder}. Received: path={str(path)!r}. Choose a writable folder.")


def check_format(path: str | Path) -> None:
    """Raises ValueError unless the path ends in a format that weights are kept in."""
    if not str(path).endswith(FORMATS):
        raise ValueError(
            f"Unknown weights format. Received: path={str(path)!r}. Let the name end in {' or '.join(FORMATS)}."
        )


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Reads what `write` stored beside the weights; empty for a file that Keras itself wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weights file.
    """
    with _open(path) as (file, text):
        text = text or file.attrs.get(METADATA, "{}")
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Damaged metadata in a weights file ({error}). Received: path={str(path)!r}. Give another file."
        ) from error


def read(path: str | Path, model: keras.Model) -> None:
    """Loads weights into a model of the same architecture. Nothing but arrays is read from the file.

    Args:
        path: A `.weights.h5` or `.keras` file.
        model: Built model; left as it was if anything does not fit.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weights file, or one of another architecture.
    """
    with _open(path) as (file, _):
        expected = dict(_variables(model))
        found: dict[str, h5py.Dataset] = {}
        file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        found = {name: item for name, item in found.items() if name.startswith("layers/")}
        for name in [*expected, *found]:
            shapes = [tuple(group[name].shape) if name in group else None for group in (expected, found)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"Weights of another architecture: {name} is {shapes[0] or 'absent'} in {model.name} and "
                    f"{shapes[1] or 'absent'} in the file. Received: path={str(path)!r}. Choose the --arch and the "
                    "sizes it was trained with."
                )
        values = {name: found[name][()] for name in expected}
    for name, variable in expected.items():
        variable.assign(values[name])


@contextlib.contextmanager
def _open(path: str | Path) -> Iterator[tuple[h5py.File, str | None]]:
    """Opens a weights file as HDF5, straight or inside a `.keras` archive, with the archive's metadata or None."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"No such weights file. Received: path={str(path)!r}. Train first, or correct the path."
        )
    check_format(path)
    source: Any = path
    text = None
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                source = io.BytesIO(archive.read("model.weights.h5"))
                if f"{METADATA}.json" in archive.namelist():
                    text = archive.read(f"{METADATA}.json").decode()
        file = h5py.File(source, "r")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0].strip("'")
        raise ValueError(
            f"Not a weights file ({reason}). Received: path={str(path)!r}. Give one that `fit` or `save` wrote."
        ) from error
    with file:
        yield file, text


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
