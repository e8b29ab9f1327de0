"""One peer at one job in a process of its own: for each line on standard input, one measurement on standard output.

The first, an empty list, says that it is ready, and a string why it cannot go on.
"""

import base64
import importlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks import loading
from benchmarks.workloads import WORKLOADS, Workload
from keras_examples.examples import EXAMPLES

LENGTH = 2000  # characters of a sample


def measurement(peer: str, job: str, *arguments: str) -> Callable[[], float | list[float]]:
    """Does a job once, untimed: captures, compiles, caches files, takes memory. Returns what measures it."""
    match job:
        case "step":
            workload = WORKLOADS[arguments[0]]
            if peer == "limit":
                from benchmarks import pytorch_peer

                return pytorch_peer.limit(workload, arguments[1])
            epoch = training(peer, workload, arguments[1])
            return timed(epoch, lambda seconds: seconds / workload.steps * 1e3)
        case "model":
            from benchmarks import models

            turn = models.training(peer, *arguments)
            return lambda: [*turn(), peak() / 1e6]
        case "command":
            return lambda: command(peer, *arguments)
        case "processes":
            return lambda: processes(peer, *arguments)
        case "growth":
            return lambda: growth(peer)
        case "sample":
            return timed(sampler(peer), lambda seconds: LENGTH / seconds)
        case "demo":
            return timed(drawing(), lambda seconds: seconds * 1e3)
        case "cifar10":
            read = loading.read_ours if peer == "ours" else loading.read_numpy
            return timed(lambda: read(*arguments), lambda seconds: seconds * 1e3)
        case "corpus":
            return timed(lambda: loading.read_corpus(*arguments), lambda seconds: seconds)
        case "cifar10-peak":
            read = loading.read_ours if peer == "ours" else loading.read_numpy
            size = sum(array.nbytes for array in read(*arguments))
            return lambda: peak() / size
        case "fit-peak":
            example, corpus = arguments
            if example == "corpus":
                loading.fit_corpus(corpus)
            else:
                workload = WORKLOADS[example]
                steps = min(workload.steps, 500)  # with which the digits are as many as MNIST's
                epoch = training(peer, replace(workload, steps=steps), "float32")
                epoch()
                epoch()
            return lambda: peak() / 1e6
    raise ValueError(job)


def timed(work: Callable[[], object], figure: Callable[[float], float]) -> Callable[[], float]:
    def measure() -> float:
        start = time.perf_counter()
        work()
        return figure(time.perf_counter() - start)

    work()
    return measure


def peak() -> int:
    """The most bytes that this process has had resident."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss would count what the parent had before this program was loaded
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def command(peer: str, example: str, epochs: str, data_dir: str, folder: str) -> list[float]:
    """Trains an example by its recipe in a new process; returns the seconds to exit and an epoch, and its peak MB.

    An epoch's are those between two lines, so that the first does not count, in which steps are recorded or compiled.
    """
    row = EXAMPLES[example]
    script = ["-m", "benchmarks.pytorch_script", example, data_dir, epochs, f"{folder}/pytorch.pt"]
    if peer != "pytorch":
        script = ["cli.py", row.command, *(["--arch", row.arch] if row.arch else []), "--epochs", epochs]
        script += ["--data", "real", "--data-dir", data_dir, "--save", f"{folder}/{peer}.weights.h5"]
        script += ["--no-accelerate"] if peer == "keras-torch" else []
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        marks = [time.perf_counter() for line in process.stdout if line.startswith("epoch ")]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"it ended with status {process.returncode}")
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return [seconds, statistics.median(late - early for early, late in itertools.pairwise(marks)), peak_bytes / 1e6]


def processes(peer: str, data_dir: str, folder: str, epochs: str) -> list[float]:
    """Trains mnist-cnn from process start to exit; returns the processor seconds of all processes, and the seconds."""
    import resource

    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2"] if peer == "ours" else []
    command += ["cli.py", "mnist", "--arch", "cnn", "--epochs", epochs, "--data", "real", "--data-dir", data_dir]
    command += ["--save", f"{folder}/{peer}.weights.h5"]
    threads = "2" if peer == "2-threads" else "1"
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, env=environment, check=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return [after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds]


def growth(peer: str) -> list[float]:
    """Trains mnist-linear in one `fit` of 11,000 steps, the first thousand untimed, then on 1 and 10 times the data.

    Returns:
        Milliseconds a step in the first and the last thousand, peak MB after each, and tenfold over single time, each
        the median of five turns.
    """
    marks: list[tuple[float, float]] = []
    workload = WORKLOADS["mnist-linear"]
    train = training(peer, replace(workload, steps=1000), "float32")
    train(epochs=11, mark=lambda: marks.append((time.perf_counter(), peak() / 1e6)))
    times, megabytes = zip(*marks)
    sizes = (replace(workload, steps=steps) for steps in (500, 5000))
    epochs = [timed(training(peer, size, "float32"), float) for size in sizes]
    once, tenfold = map(statistics.median, zip(*([epoch() for epoch in epochs] for _ in range(5))))
    return [times[1] - times[0], times[-1] - times[-2], megabytes[1], megabytes[-1], tenfold / once]


def training(peer: str, workload: Workload, precision: str) -> Callable[..., object]:
    """A function that trains one epoch."""
    if peer.startswith("pytorch"):
        from benchmarks import pytorch_peer

        return pytorch_peer.epoch(workload, precision, compiled=peer == "pytorch-compile")
    from benchmarks import keras_peer

    warnings.filterwarnings("error", message=".*not accelerated.*")
    ours = peer.startswith("ours")
    precision = "float32" if peer == "ours-float32" else precision
    return keras_peer.epoch(workload, precision, accelerated=ours, cuda_graph=peer == "ours-cuda-graph")


def sampler(peer: str) -> Callable[[], object]:
    """A function that draws a text."""
    characters = "".join(map(chr, range(32, 32 + WORKLOADS["charrnn"].classes)))
    if peer == "ours":
        from keras_examples import Vocabulary, char_lstm, generate

        model = char_lstm(len(characters))
        return lambda: "".join(generate(model, Vocabulary(characters), "", LENGTH, seed=0))
    import torch

    from benchmarks import pytorch_peer

    if peer == "pytorch-1-thread":
        torch.set_num_threads(1)
    by_hand = pytorch_peer.CharLSTM(len(characters))
    return lambda: pytorch_peer.sample(by_hand, characters, LENGTH)


def drawing() -> Callable[[], object]:
    """A function that reads a seven which came from the demo's page."""
    from PIL import Image, ImageDraw

    from keras_examples import mnist_cnn
    from keras_examples.show.demo import read_drawing

    image, file = Image.new("RGB", (280, 280), "white"), io.BytesIO()
    ImageDraw.Draw(image).line([(60, 50), (200, 50), (120, 230)], "black", 22)
    image.save(file, "PNG")
    model, sent = mnist_cnn(), "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return lambda: read_drawing(model, {}, sent)


def main() -> None:
    try:
        # While the others do the same; what follows they do in turn.
        importlib.import_module("torch" if sys.argv[1].startswith(("pytorch", "limit")) else "keras")
        sys.stdin.readline()
        measure = measurement(*sys.argv[1:])
        print("[]", flush=True)
        for _ in sys.stdin:
            print(json.dumps(measure()), flush=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        print(json.dumps(f"failed: {type(error).__name__}: {reason}"), flush=True)
        raise


if __name__ == "__main__":
    main()
