"""Checkpoints: all that a run needs to go on, to the bit, as if it had never stopped.

An HDF5 file beside the weights: the variables of model and optimizer, the state of torch's random generators and, as
JSON, the run's options and how far it came. Its first 512 bytes, which HDF5 leaves to us, hold the SHA-256 of the rest.
The checkpoint before is kept, so that there is an intact one at any moment.
"""

import contextlib
import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from keras_examples import weights
from keras_examples.devices import device_of
from keras_examples.examples import Options
from keras_examples.files import claimed, whole_file
from keras_examples.ranges import check, fits
from keras_examples.training import processes
from keras_examples.training.run import WRITTEN, Run

MOVABLE = ("data_dir", "text")  # a checkpoint knows its data by their hash
USER_BLOCK = 512  # bytes, the least that HDF5 knows


@contextlib.contextmanager
def claim(run: Run) -> Iterator["Checkpoints | None"]:
    """Lends the checkpoints of a run, whose weights file nobody else writes meanwhile; None if it writes nothing.

    Raises OSError if another process writes there, or a new run would overwrite what an interrupted one left.
    """
    if (path := run.path) is None:
        yield None
        return
    checkpoints = Checkpoints(path, run.checkpoint)
    with contextlib.nullcontext() if processes.rank else claimed(checkpoints.path):
        if not run.checkpoint and not processes.rank and (left := checkpoints.present()):
            raise OSError(
                f"A run was interrupted here. Received: {left[0]}. Add --resume to go on with it, give another --save, "
                f"or delete {' and '.join(map(str, left))} to start anew."
            )
        yield checkpoints


class Checkpoints:
    """The newest checkpoint of a run, and the one before; `resumed` is the one that it goes on from, if any."""

    def __init__(self, weights_path: str | Path, resumed: Path | None = None):
        self.path = Path(weights_path)
        stem = str(Path(weights_path).with_suffix("")).removesuffix(".weights")
        self.newest, self.previous = Path(f"{stem}.checkpoint.h5"), Path(f"{stem}.checkpoint.previous.h5")
        self.keeps_newest = resumed == self.newest
        self.written = self.cost = 0.0  # seconds

    def present(self) -> list[Path]:
        return [path for path in (self.newest, self.previous) if path.is_file()]

    def choose(self) -> Path:
        """The newest that is intact. Raises ValueError if there is none."""
        for path in self.present():
            with path.open("rb") as file:
                digest = file.read(USER_BLOCK)[:32]
                if hashlib.file_digest(file, "sha256").digest() == digest:
                    return path
        found = " and ".join(map(str, self.present()))
        raise ValueError(f"Damaged checkpoint. Received: {found}. Train anew without --resume.")

    def write_if_due(self, model: keras.Model, run: Run, best: dict[str, np.ndarray]) -> None:
        """Writes, unless that would take more than a twentieth of the time."""
        due = time.monotonic() - self.written > 20 * self.cost
        if processes.gathered(due)[0]:
            self.write(model, run, best)

    def write(self, model: keras.Model, run: Run, best: dict[str, np.ndarray]) -> None:
        """Writes a checkpoint; all processes call this, and the first one writes.

        `best` is what `weights_of` returned after the best epoch, if the run may stop early. Raises OSError if the file
        cannot be written; the checkpoint before is intact.
        """
        start = time.monotonic()
        random = random_state(model)
        if processes.rank:
            return
        content = io.BytesIO()
        with h5py.File(content, "w", userblock_size=USER_BLOCK) as file:
            file["run"] = np.frombuffer(to_json(run).encode(), np.uint8)
            for name, array in (_arrays(model) | random | best).items():
                file[name] = array
        buffer = content.getbuffer()
        buffer[:32] = hashlib.sha256(buffer[USER_BLOCK:]).digest()
        with whole_file(self.newest) as temporary:
            temporary.write_bytes(buffer)
            if self.keeps_newest and self.newest.exists():
                self.newest.replace(self.previous)
        self.keeps_newest = True
        self.written = time.monotonic()
        self.cost = self.written - start

    def remove(self) -> None:
        """Removes them, and what was left by runs that were killed while they wrote."""
        temporary = re.escape(f".{self.newest.name.partition('.')[0]}.") + "[0-9]+[.]"  # see `whole_file`
        left = [path for path in self.newest.parent.glob(".*") if re.match(temporary, path.name)]
        for path in (self.newest, self.previous, *left):
            path.unlink(missing_ok=True)


def restore(path: Path, model: keras.Model, best: bool = False) -> dict[str, np.ndarray]:
    """Gives a model and its optimizer, which is built, the variables of a checkpoint.

    Returns the random state, and the best epoch's weights if asked for. Raises ValueError if the file is of another
    model, which then is as it was.
    """
    expected = _arrays(model) | random_state(model) | (weights_of(model) if best else {})
    with _open(path) as file:
        found = {name: _read(file, name, array.dtype, array.shape, array.nbytes) for name, array in expected.items()}
    for name, variable in _variables(model).items():
        variable.assign(found.pop(name))
    return found


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Copies of a model's weights, as a checkpoint keeps those of the best epoch."""
    return {f"best {place}": np.array(array) for place, array in enumerate(model.get_weights())}


def random_state(model: keras.Model) -> dict[str, np.ndarray]:
    """States `(processes, bytes)` uint8 of torch's generators on CPU and device; all others are in variables."""
    return {
        name: np.stack(processes.gathered(module.get_rng_state().numpy()))
        for name, module in _generators(model).items()
    }


def set_random_state(model: keras.Model, state: dict[str, np.ndarray]) -> None:
    """Has the generators go on from what `random_state` returned."""
    for name, module in _generators(model).items():
        tensor = module.get_rng_state()
        tensor.numpy()[:] = state[name][processes.rank]
        module.set_rng_state(tensor)


def _generators(model: keras.Model) -> dict[str, Any]:
    if keras.backend.backend() != "torch":
        return {}
    import torch

    device = device_of(model)
    return {"random cpu": torch} | ({} if device == "cpu" else {f"random {device}": getattr(torch, device)})


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    return {
        f"{owner} {place}": variable
        for owner, variables in (("model", model.variables), ("optimizer", model.optimizer.variables))
        for place, variable in enumerate(variables)
    }


def _arrays(model: keras.Model) -> dict[str, np.ndarray]:
    return {name: keras.ops.convert_to_numpy(variable) for name, variable in _variables(model).items()}


def resume(example: str, given: Mapping[str, Any], echo: Callable[[str], None]) -> Run:
    """The run of an example that was interrupted, as its newest intact checkpoint has it.

    Raises ValueError if that is damaged, or if options are given that say otherwise than the run was started with, but
    for what may have moved and what is only written; FileNotFoundError if there is none.
    """
    asked = Run.begin(example, given)
    sources = ("real", "synthetic") if asked.options.data == "auto" else (asked.options.data,)
    name = weights.run_name(example, asked.options.text)
    candidates = [Checkpoints(asked.options.save or weights.default_path(name, source)) for source in sources]
    found = next((candidate for candidate in candidates if candidate.present()), None)
    if not found:
        missing = " and ".join(dict.fromkeys(str(candidate.newest) for candidate in candidates))
        raise FileNotFoundError(
            f"No checkpoint to go on from. Received: {missing} missing. A run that has finished leaves none: train "
            "without --resume."
        )
    path = found.choose()
    if path != found.newest:
        echo(f"{found.newest} is missing or damaged: going on from {path}")
    run = read_run(path)
    known = json.loads(to_json(run))
    known = {"example": run.example} | known["options"] | known["options"]["sizes"]
    wanted = {"example": example} | {name: getattr(asked.options, name) for name in given} | asked.options.sizes
    for name, value in json.loads(json.dumps(wanted)).items():
        may_differ = name in ("sizes", *MOVABLE, *WRITTEN) or (name, value) == ("data", "auto")
        if not may_differ and value != known.get(name):
            raise ValueError(
                f"The run was started otherwise. Received: {name}={value!r}, was {known.get(name)!r}. Leave it out, "
                "or train anew without --resume: what a run was started with stays, even its epochs, since the "
                "learning rate follows their number."
            )
    free = {name: getattr(asked.options, name) for name in (*MOVABLE, *WRITTEN) if name in given}
    return replace(run, options=replace(run.options, **free), checkpoint=path)


def to_json(run: Run) -> str:
    content = asdict(run) | {"options": run.remembered()}
    del content["checkpoint"]
    return json.dumps(content)


def read_run(path: Path) -> Run:
    """The run that a checkpoint is of. Raises ValueError if the file is none, or of another version."""
    with _open(path) as file:
        content = json.loads(_read(file, "run", np.uint8, None, path.stat().st_size).tobytes())
        values = _checked(Run, content, ("checkpoint", "options"))
        options = _checked(Options, content.get("options"), WRITTEN)
        check(options)
        return Run(**values, options=Options(**options))


def _checked(kind: Any, content: Any, absent: tuple[str, ...]) -> dict[str, Any]:
    """What JSON has for the fields of a dataclass, if they are all there and of their types."""
    expected = {item.name: item.type for item in fields(kind) if item.name not in absent}
    if type(content) is not dict or not content.keys() >= expected.keys():
        raise ValueError("what it says of the run is not what this version writes")
    for name, kind in expected.items():
        if not fits(content[name], kind):
            raise ValueError(f"its {name} is {content[name]!r:.40}")
    return {name: content[name] for name in expected}


@contextlib.contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, LookupError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"Not a checkpoint of such a run ({reason}). Received: path={str(path)!r}. Train anew without --resume."
        ) from error


def _read(file: h5py.File, name: str, dtype: Any, shape: tuple[int, ...] | None, limit: int) -> np.ndarray:
    """An array that lies in the file itself, if it is of this type and shape, and not above the limit in bytes."""
    item = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(item, h5py.Dataset) or item.external or item.is_virtual:
        raise ValueError(f"{name} is missing, or not in the file itself")
    if item.dtype != dtype or (shape is not None and item.shape != shape) or item.nbytes > limit:
        raise ValueError(f"{name} is {item.dtype} {item.shape}, expected {np.dtype(dtype)} {shape or ''}")
    return np.asarray(item[()])
