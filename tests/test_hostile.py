"""Damaged and hostile files: each is loaded or refused in one line, soon, in little memory, without harm.

python -m tests.test_hostile 100000         # so many files, from number 0 on; each number is always the same file
python -m tests.test_hostile 50000 50000    # the 50,000 after the first 50,000
"""

import contextlib
import gzip
import io
import json
import os
import random
import re
import resource
import select
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import click
import h5py
import numpy as np
import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
SECONDS = 1  # of processor time, for one file
MEGABYTES = 500
PATIENCE = 60  # seconds without a word until a worker is taken to hang
TEXT = {"example": "charrnn", "sizes": {"units": 4, "layers": 2}, "vocabulary": "abcdefghi", "classes": None}
KINDS = ("idx", "idx.gz", "labels", "labels.gz", "bin", "tar", "tar.gz", "text", "text.gz", "png", "jpg")
KINDS += ("weights.h5", "plain.weights.h5", "keras", "safetensors", "plain.safetensors", "checkpoint.h5")
KINDS *= 3  # those made up take longer
KINDS += ("made.weights.h5", "made.keras", "made.safetensors", "named.safetensors", "described.keras")
KINDS += ("made.idx.gz", "made.labels.gz", "made.tar.gz", "made.text.gz")


def good_files(folder):
    """A valid file of each kind, small ones."""
    from keras_examples import weights
    from keras_examples.data.readers import CIFAR10_FILES
    from keras_examples.models import build
    from keras_examples.weights import layouts

    model = build("charrnn", {"vocabulary_size": 9, "units": 4, "layers": 2})
    for suffix in ("weights.h5", "keras", "safetensors"):
        weights.write(folder / f"good.{suffix}", model, TEXT)
    model.save_weights(folder / "plain.weights.h5")
    plain = layouts.tensors(layouts.layers_of(model), model.get_weights(), "tch", "char_lstm")
    (folder / "plain.safetensors").write_bytes(safetensors_bytes({n: (a.shape, a.tobytes()) for n, a in plain.items()}))
    compiled(model, folder / "good.checkpoint.h5")
    generator = np.random.default_rng(0)
    images = struct.pack(">4I", 0x803, 20, 28, 28) + generator.bytes(20 * 784)
    labels = struct.pack(">2I", 0x801, 20) + bytes(range(10)) * 2
    records = b"".join(bytes([label % 10]) + generator.bytes(3072) for label in range(5))
    files = {"idx": images, "labels": labels, "bin": records}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in CIFAR10_FILES:
            member = tarfile.TarInfo(name)
            member.size = len(records)
            tar.addfile(member, io.BytesIO(records))
    files |= {"tar": archive.getvalue(), "text": "First Citizen: “Sprich, Hör mich an.”\n".encode() * 40}
    files |= {f"{kind}.gz": gzip.compress(files[kind]) for kind in ("idx", "labels", "tar", "text")}
    for kind in ("png", "jpg"):
        paper = Image.effect_noise((90, 60), 20).point(lambda grey: min(255, grey + 90))
        ImageDraw.Draw(paper).line([(40, 10), (48, 50)], 0, 6)
        paper.save(folder / f"good.{kind}")
        files[kind] = (folder / f"good.{kind}").read_bytes()
    for kind in ("weights.h5", "keras", "safetensors"):
        files[kind] = (folder / f"good.{kind}").read_bytes()
    for kind in ("plain.weights.h5", "plain.safetensors"):
        files[kind] = (folder / kind).read_bytes()
    files["checkpoint.h5"] = (folder / "good.checkpoint.h5").read_bytes()
    return files


def compiled(model, checkpoint=None):
    """A model as `fit` compiles it; writes a checkpoint of it if there is a path."""
    from keras_examples.training.checkpoints import Checkpoints
    from keras_examples.training.optimizers import optimizer
    from keras_examples.training.run import Run

    run = Run.begin("charrnn", {"data": "synthetic", "sizes": TEXT["sizes"]})
    model.compile(optimizer(run.options, 10), "mse")
    model.optimizer.build(model.trainable_variables)
    if checkpoint:
        kept = Checkpoints(checkpoint)
        kept.newest = checkpoint
        kept.write(model, run, {})
    return model


def safetensors_bytes(tensors, metadata=None, dtype="F32"):
    header, content = {"__metadata__": metadata} if metadata else {}, b""
    for name, (shape, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(content), len(content) + len(array)]}
        content += array
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def mutated(draw, content):
    """Flipped bits, overwritten bytes and lengths, and parts cut off, left out, doubled or inserted."""
    content = bytearray(content)
    header = min(len(content), draw.choice([16, 200, 4000, 1 << 30]))
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        place = draw.randrange(min(header, len(content)))
        how = draw.randrange(8)
        if how < 3:
            content[place] ^= 1 << draw.randrange(8)
        elif how == 3:
            content[place] = draw.choice([0, 1, 9, 10, 127, 128, 255])
        elif how < 6:
            number = draw.choice([0, 1, 255, 65535, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1, len(content)])
            width = draw.choice([2, 4, 8])
            content[place : place + width] = (number % 256**width).to_bytes(width, draw.choice(["little", "big"]))
        elif how == 6:
            del content[place : place + draw.choice([1, 8, 512])]
        else:
            content[place:place] = content[place : place + draw.choice([1, 8, 512])]
        content = content or bytearray(1)
    return bytes(content[: draw.randrange(len(content))] if draw.random() < 0.1 else content)


def hostile_text(draw):
    """Metadata that lies, nests, is endless or of other types."""
    odd = [10**9, -1, 0, 2.5, True, "x", "\x1b[2J", [10**9], {}, None, [[]], "a" * 100_000, float("nan"), [1] * 10_000]
    field = draw.choice([*TEXT, "sha256", "data", "epochs"])
    size = draw.choice(["units", "layers", "vocabulary_size", "dropout", "hidden_units", "__class__"])
    return draw.choice(
        [
            json.dumps(TEXT | {field: draw.choice(odd)}),
            json.dumps(TEXT | {"sizes": TEXT["sizes"] | {size: draw.choice(odd)}}),
            "[" * draw.choice([100, 10_000, 1_000_000]),
            '{"sizes":' * draw.choice([100, 10_000, 400_000]),
            f'{{"seed": {"9" * draw.choice([100, 10_000, 1_000_000])}}}',
            " " * (5 << 20),
            draw.choice(["", "null", "[]", "1", '"x"', "{", "\x00", '{"example": "\\ud800"}', "NaN"]),
        ]
    )


def made_hdf5(draw, folder):
    """An HDF5 file as its library writes it, with something in it that should not be there."""
    name = draw.choice(["layers/lstm/cell/vars/0", "layers/dense/vars/0", "layers/dense/vars/1", "keras_examples"])
    content = io.BytesIO((folder / "good.weights.h5").read_bytes())
    (folder / "secret").write_bytes(bytes(1 << 16))
    huge = draw.choice([(10**6, 10**6), (2**31,), (1, 2**40), (2**62, 2), (0,), (), (10**9, 16)])
    with h5py.File(content, "a") as file, contextlib.suppress(ValueError, TypeError, OSError):  # not all can be made
        del file[name]
        match draw.randrange(13):
            case 0:
                file[name] = h5py.ExternalLink(str(folder / "plain.weights.h5"), "/layers/dense/vars/0")
            case 1:
                file[name] = h5py.SoftLink(draw.choice(["/layers/lstm_1/cell/vars/0", f"/{name}", "/nowhere"]))
            case 2:
                file.create_dataset(name, (9, 16), "<f4", external=[(str(folder / "secret"), 0, h5py.h5f.UNLIMITED)])
            case 3:
                layout = h5py.VirtualLayout((4, 9), "<f4")
                layout[:] = h5py.VirtualSource(str(folder / "plain.weights.h5"), "layers/dense/vars/0", (4, 9))
                file.create_virtual_dataset(name, layout)
            case 4:
                file.create_dataset(name, huge or (1,), "<f4", chunks=True, compression="gzip")
            case 5:
                file.create_dataset(name, (4000, 4000), "<f4", data=np.zeros((4000, 4000), "f4"), compression="gzip")
            case 6:
                file.create_dataset(name, huge, draw.choice(["<f4", "u1", "<f2"]))
            case 7:
                odd = draw.choice(["<f8", ">f4", "<i4", "?", "S10", "<c8", "V2", "V3", h5py.string_dtype(), "f4,i4"])
                file.create_dataset(name, (4, 9), odd)
            case 8:
                file["layers/loop"] = file["layers"]
                file["layers/dense/loop"] = file["/"]
            case 9:
                for index in range(600):
                    file[f"layers/x{index}/vars/0"] = np.zeros(1, "f4")
            case 10:
                file[name] = h5py.Empty("<f4")
            case 11:
                file[name] = file["layers"].ref if draw.random() < 0.5 else np.zeros((9, 16), ">f4")
            case 12:
                file.pop("keras_examples", None)
                file["keras_examples"] = np.frombuffer(hostile_text(draw).encode("utf-8", "ignore") or b" ", np.uint8)
    return content.getvalue()


def made_archive(draw, folder):
    """A `.keras` file with compressed, missing, doubled or lying members."""
    weights = draw.choice([made_hdf5(draw, folder), (folder / "good.weights.h5").read_bytes()])
    content = io.BytesIO()
    packing = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(content, "w", packing) as archive:
        for _ in range(draw.choice([0, 1, 1, 1])):
            archive.writestr("model.weights.h5", draw.choice([*[weights] * 9, bytes(50_000_000), b""]))
        archive.writestr("keras_examples.json", hostile_text(draw))
        archive.writestr("config.json", hostile_text(draw))
        archive.writestr("../../escaped", b"x")
    packed = content.getvalue()
    return mutated(draw, packed[-200:]).join([packed[:-200], b""]) if draw.random() < 0.3 else packed


def made_safetensors(draw, folder):
    """A safetensors file with a header that lies about lengths, shapes, types or offsets."""
    content = (folder / "good.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, arrays = json.loads(content[8 : 8 + length]), content[8 + length :]
    entry = header[draw.choice([name for name in header if name != "__metadata__"])]
    match draw.randrange(7):
        case 0:
            entry["shape"] = draw.choice([[10**6, 10**6], [2**63], [2**64], [-1], [0], [], [1] * 10_000, ["x"], [1.5]])
        case 1:
            entry["dtype"] = draw.choice(["F64", "I8", "BOOL", "F8_E4M3", "BF16", "F16", "F4", "X", 1, None])
        case 2:
            entry["data_offsets"] = draw.choice([[0, 2**63], [0, 2**64], [8, 0], [-8, 8], [0], [0, 4, 8], "x", None])
        case 3:
            header["__metadata__"] = {"keras_examples": hostile_text(draw)}
        case 4:
            header["__metadata__"] = draw.choice([{"keras_examples": 1}, [], "x", {"a": "b" * 10_000_000}, {"x": [[]]}])
        case 5:
            header |= {f"x{index}": entry for index in range(draw.choice([1, 600, 20_000]))}
        case 6:  # as consistent as can be, but far larger than the file
            entry["shape"] = [entry["shape"][0] * 10**6, *entry["shape"][1:]]
            entry["data_offsets"][1] = entry["data_offsets"][0] + 4 * int(np.prod(entry["shape"]))
    text = json.dumps(header).encode()
    text = draw.choice([text, text, text, b"[" * 1_000_000, b'{"a":' * 200_000, text + b" " * (5 << 20)])
    return struct.pack("<Q", draw.choice([len(text)] * 8 + [2**63, 2**64 - 1, 0, len(text) + 1, 10**8])) + text + arrays


def named_safetensors(draw, folder):
    """A safetensors file of the right shapes, or nearly, with names that fit, mislead, or take long to compare."""
    schemes = ["lstm.{n}_l{i}", "{n}_l{i}", "{n}_l0__{c}", "{n}__{c}", "cell{i}.{n}", "{r}.{n}", "{c}", "x{c}y{r}"]
    schemes += ["{n}" * 30, "{n}" + "_" * 150 + "{c}", "9" * 100 + "{c}.{n}", "w" * 5000 + "{c}", "layers/lstm/{c}"]
    scheme, letters, tensors = draw.choice([*schemes[:3] * 3, *schemes]), "", {}
    for count in range(4 * draw.choice([1, 2, 2, 2, 5, 10, 40, 120])):
        parameter = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[count % 4]
        shape = (16, 9 if count == 0 else 4) if count % 4 < 2 else (16,)
        shape = draw.choice([shape] * 100 + [shape[::-1], (4, 4), (1,) * 30, (16, 16)])
        letters = "".join(draw.choice("abcdefgh") for _ in range(3)) if count % 4 == 0 else letters
        tensors[scheme.format(n=parameter, i=count // 4, c=count, r=letters)] = shape
    head = draw.choice(["head.", "", "ln1.", letters])
    tensors |= {f"{head}weight": (9, 4), f"{head}bias": (9,)}
    number = struct.pack("<d", draw.choice([0.1, 0.1, 0.1, 1e300, float("nan"), float("inf")]))
    arrays = {name: (shape, number * int(np.prod(shape))) for name, shape in tensors.items()}
    return safetensors_bytes(arrays, draw.choice([None, None, {"keras_examples": hostile_text(draw)}]), "F64")


def described_keras(draw, folder):
    """A `.keras` file whose description of the network is of another one, or of none."""

    def changed(part):
        if isinstance(part, dict):
            return {
                draw.choice([key] * 1000 + ["layers", "name", "x\x1b"]): changed(value) for key, value in part.items()
            }
        if isinstance(part, list):
            return [changed(value) for value in part for _ in range(draw.choice([1] * 300 + [0, 2, 50]))]
        odd = [None, -1, "x", "\x1b[2J", "9" * 10_000, [], {}, [[]], 1e308, {"layers": []}, "Functional", "Sequential"]
        return draw.choice([part] * 1000 + odd)

    content = io.BytesIO()
    with zipfile.ZipFile(folder / "good.keras") as good, zipfile.ZipFile(content, "w") as archive:
        for name in good.namelist():
            data = good.read(name)
            if name == "config.json":
                nested = b'{"config": {"layers": [' * draw.choice([10, 1000, 100_000])
                data = draw.choice([json.dumps(changed(json.loads(data))).encode()] * 9 + [nested])
            archive.writestr(name, data)
    return content.getvalue()


def made_gzip(kind, draw):
    """A gzipped file that begins well, or nearly, and unpacks to up to four thousand times its length."""
    number = draw.choice([1, 20, 10**5, 10**6, 2**30, 2**32 - 1])
    member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    member.size, member.type = number, draw.choice([tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
    start = {"idx": struct.pack(">4I", 0x803, number, 28, 28), "labels": struct.pack(">2I", 0x801, number)}
    start |= {"tar": member.tobuf(), "text": b"a"}
    return gzip.compress(start[kind]) + gzip.compress(bytes(1 << 20)) * draw.choice([1, 10, 60, 4000])


def load(kind, path):
    """Loads the file of a case as a user's command would."""
    from keras_examples import weights
    from keras_examples.data import readers
    from keras_examples.show import images

    folder, kind = path.parent, kind.removeprefix("made.")
    if kind == "bin":
        readers.read_cifar10([path] * 6)
    elif kind.startswith("tar"):
        readers.read_cifar10([path])
    elif kind.startswith("text"):
        readers.read_text(path)
    elif kind in ("png", "jpg"):
        images.read_photo(path)
        images.read_digit(path)
    elif kind.startswith("labels"):
        readers.read_mnist([folder / "images", path] * 2)
    elif kind.startswith("idx"):
        readers.read_mnist([path, folder / "labels"] * 2)
    elif kind == "checkpoint.h5":
        from keras_examples.models import build
        from keras_examples.training import checkpoints

        checkpoints.read_run(path)
        checkpoints.restore(path, compiled(build("charrnn", {"vocabulary_size": 9, "units": 4, "layers": 2})))
    else:
        weights.describe(path)
        weights.restore(path, "charrnn")


def work(first, last, folder):
    """Tries the cases from `first` up to `last`; a line before each, and one after: outcome, seconds, megabytes."""
    import keras_examples  # noqa: F401  chooses torch
    from keras_examples.data import readers

    folder = Path(folder)
    readers.CIFAR10_RECORDS = 5
    files = good_files(folder)
    (folder / "images").write_bytes(files["idx"])
    (folder / "labels").write_bytes(files["labels"])
    for kind, content in files.items():
        load(kind, put(folder, kind, content))  # the undamaged file is valid
    makers = {"made.weights.h5": made_hdf5, "made.keras": made_archive, "made.safetensors": made_safetensors}
    makers |= {"named.safetensors": named_safetensors, "described.keras": described_keras}
    for case in range(first, last):
        draw = random.Random(case)
        kind = KINDS[case % len(KINDS)]
        if kind in makers:
            content = makers[kind](draw, folder)
        else:
            content = made_gzip(kind.split(".")[1], draw) if kind.startswith("made.") else mutated(draw, files[kind])
        path, before = put(folder, kind, content), state(folder)
        print(case, kind, flush=True)
        with contextlib.suppress(OSError):  # only Linux can forget the peak so far
            Path("/proc/self/clear_refs").write_text("5")
        occupied, start = peak(), time.process_time()
        try:
            load(kind, path)
            outcome = "valid"
        except (ValueError, OSError) as error:
            told = "Received: " in str(error) and str(error).isprintable()
            outcome = "refused" if told else f"unclear {type(error).__name__}: {error}"
        except BaseException as error:
            outcome = f"foreign {type(error).__name__}: {error}"
        seconds, growth = time.process_time() - start, peak() - occupied
        if state(folder) != before:
            outcome = "changed files"
        print(json.dumps([outcome, seconds, growth]), flush=True)


def put(folder, kind, content):
    path = folder / ("case." + re.sub("^(made|plain|named|described)[.]", "", kind))
    path.write_bytes(content)
    return path


def state(folder):
    return {entry.name: (entry.stat().st_size, entry.stat().st_mtime_ns) for entry in os.scandir(folder)}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # megabytes


def attempt(first, last, folder, advance=lambda cases: None):
    """Tries cases in worker processes; returns how many had which outcome, the worst figures, and what was wrong."""
    outcomes, worst, wrong = Counter(), [0.0, 0], []
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    while first < last:
        arguments = [sys.executable, "-m", "tests.test_hostile", str(first), str(last), str(folder)]
        worker = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, bufsize=0)
        case = ""
        while select.select([worker.stdout], [], [], PATIENCE)[0] and (line := worker.stdout.readline().decode()):
            if not line.startswith("["):
                case, first = line.strip(), int(line.split()[0]) + 1
                advance(1)
                continue
            outcome, *figures = json.loads(line)
            worst = [max(pair) for pair in zip(worst, figures)]
            outcomes[outcome.split()[0]] += 1
            if outcome not in ("valid", "refused") or figures[0] > SECONDS or figures[1] > MEGABYTES:
                wrong.append(f"{case}: {outcome}, {figures[0]:.2f} s, {figures[1]} MB")
            case = ""
        worker.kill()  # it is gone, unless it hangs
        status = worker.wait()
        if case:
            wrong.append(f"{case}: crashed or hung, status {status}")
        elif first < last:
            raise RuntimeError(f"The worker failed before case {first}, status {status}")
    return outcomes, worst, wrong


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_and_hostile_files_are_loaded_or_refused(tmp_path, count):
    outcomes, _, wrong = attempt(0, count, tmp_path)
    assert not wrong
    assert outcomes["valid"] > count // 20
    assert outcomes["refused"] > count // 2


if __name__ == "__main__":
    if len(sys.argv) > 3:
        work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    else:
        import tempfile

        count, first = [*map(int, sys.argv[1:]), 0][:2]
        with tempfile.TemporaryDirectory() as temporary:
            with click.progressbar(length=count, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
                outcomes, worst, wrong = attempt(first, first + count, temporary, bar.update)
        print(*wrong, sep="\n")
        print(f"{dict(outcomes)}, {len(wrong)} wrong; at most {worst[0]:.2f} s and {worst[1]} MB")
        sys.exit(bool(wrong))
