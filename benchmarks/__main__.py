"""Our models and their peers, side by side, on this machine, in one run.

\b
python -m benchmarks throughput --examples mnist-linear,charrnn --peers ours,pytorch --plot chart.png
python -m benchmarks models --plot models.png
python -m benchmarks command
python -m benchmarks processes
python -m benchmarks growth
python -m benchmarks sampling
python -m benchmarks loading
python -m benchmarks demo
python -m benchmarks memory --json memory.json
python -m benchmarks pages

Run it in the repository's root and leave the machine alone meanwhile; `pip install -e .[benchmarks]` brings peers.
Without a command it measures throughput.
Every peer has a process of its own. They take turns, a round each (A B A B), so that whatever else the machine does
meets all of them, and the median round counts. Ratios are ours over the peer's; --json keeps every round.
"""

import importlib.metadata
import itertools
import json
import math
import os
import platform
import re
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from benchmarks.contest import alternate, by_figure, medians, repeat
from benchmarks.models import BY_HAND, MODELS
from benchmarks.workloads import WORKLOADS
from keras_examples.commands import DefaultCommands
from keras_examples.files import whole_file

PEERS = ["ours", "keras-torch", "keras-jax", "keras-tensorflow", "pytorch", "pytorch-compile"]
ON_GPUS = "ours-cuda-graph"
CORPUS = "corpus"


def _names(option: str, known: list[str], text: str, default: str | None = None) -> Callable[[Any], Any]:
    def chosen(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
        if unknown := set(value.split(",")) - set(known):
            raise click.BadParameter(f"Received: {', '.join(sorted(unknown))}. Choose from {', '.join(known)}.")
        return value.split(",")

    return click.option(option, default=default or ",".join(known), show_default=True, callback=chosen, help=text)


def _rounds(default: int) -> Callable[[Any], Any]:
    return click.option("--rounds", type=click.IntRange(1), default=default, show_default=True, help="Turns of each.")


_plot = click.option("--plot", type=click.Path(dir_okay=False), help="Where to draw a chart (PNG).")
_json = click.option("--json", "path", type=click.Path(dir_okay=False), help="Where to write all measurements.")


class Benchmarks(DefaultCommands):
    default = "throughput"


@click.group(cls=Benchmarks, help=__doc__)
def main() -> None:
    pass


@main.command()
@_names("--examples", [*WORKLOADS], "Example ids.")
@_names("--peers", [*PEERS, ON_GPUS], "Whom to compare.", ",".join(PEERS))
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@_rounds(5)
@_json
@_plot
def throughput(
    examples: list[str], peers: list[str], precision: str, rounds: int, path: str | None, plot: str | None
) -> None:
    """Milliseconds a training step: batches of 128 (charrnn: 64 × 180), Adam, loss and metric kept.

    In bfloat16 our float32 step is measured too. `limit` is what the step's matrix products and convolutions would
    take at the speed of one large matrix product, measured in turn with the peers.
    """
    if plot and "pytorch" not in peers:
        raise click.UsageError(f"--plot shows times over pytorch's. Received: --peers {','.join(peers)}. Add pytorch.")
    against = ["pytorch", "best", "limit"]
    if precision == "bfloat16":
        peers, against = [*peers, "ours-float32"], ["ours-float32", *against]
    peers = [*peers, "limit"]
    rows = ((example, alternate(["step", example, precision], peers, rounds)) for example in examples)
    values, about = _report(f"ms a step, {precision}", peers, against, rows, rounds, path)
    if plot:
        from benchmarks.chart import draw

        draw(plot, f"Training step, {precision}", values, about)


@main.command()
@_names("--models", [*MODELS], "Names of models.")
@_names(
    "--peers", ["ours", "keras-torch", "keras-jit", "pytorch", ON_GPUS], "Whom to compare.", "ours,keras-torch,pytorch"
)
@_rounds(5)
@_json
@_plot
def models(models: list[str], peers: list[str], rounds: int, path: str | None, plot: str | None) -> None:
    """Twelve models that are not ours: accelerated, in stock Keras with and without jit_compile, six by hand.

    A first step is one of a new model, and the peak that of its process.
    """
    step = "ms a step"
    measured: dict[str, dict[str, Any]] = {"s the first step": {}, step: {}, "peak MB": {}}

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        for name in models:
            present = [peer for peer in peers if peer != "pytorch" or name in BY_HAND]
            for figure, turns in by_figure([*measured], alternate(["model", name], present, rounds)):
                measured[figure][name] = turns
                yield f"{name}, {figure}", turns

    _, about = _report("models of others", peers, ["keras-torch", "pytorch"], rows(), rounds, path)
    for figure, peer in itertools.product(measured, peers[1:]):
        found = map(medians, measured[figure].values())
        if ratios := [row["ours"] / row[peer] for row in found if {"ours", peer} <= row.keys()]:
            middle, highest = statistics.median(ratios), max(ratios)
            click.echo(f"{figure}, ours / {peer}: median {middle:.2f} of {len(ratios)}, highest {highest:.2f}")
    if plot:
        from benchmarks.chart import draw

        draw(plot, "Training step, float32", measured[step], about, base="keras-torch")


@main.command()
@_names("--examples", [*WORKLOADS], "Example ids.")
@_names("--peers", PEERS[:5], "Whom to compare.", "ours,keras-jax,pytorch")
@click.option("--data-dir", default="datasets", show_default=True, help="Where the data files are.")
@_rounds(5)
@_json
def command(examples: list[str], peers: list[str], data_dir: str, rounds: int, path: str | None) -> None:
    """Each example by its recipe but for 10 epochs, 2 of the large models, from process start to exit.

    What others wait for: imports, data, recording or compilation, training on augmented batches, validation,
    checkpoints, test, saving. PyTorch by hand is benchmarks/pytorch_script.py.
    """
    figures = ["s to exit", "s an epoch", "peak MB"]

    def rows(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for example in examples:
            epochs = "10" if example in ("mnist-linear", "mnist-mlp") else "2"
            turns = alternate(["command", example, epochs, data_dir, folder], peers, rounds)
            yield from ((f"{example}, {name}", row) for name, row in by_figure(figures, turns))

    with tempfile.TemporaryDirectory() as folder:
        _report("the command", peers, peers[1:], rows(folder), rounds, path)


@main.command()
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True, help="Passes over the data.")
@click.option("--data-dir", default="datasets", show_default=True, help="Where the MNIST files are.")
@_rounds(3)
@_json
def processes(epochs: int, data_dir: str, rounds: int, path: str | None) -> None:
    """What `cli.py mnist --arch cnn` takes with two processes, against one process of one thread and of two."""
    peers = ["ours", "1-thread", "2-threads"]
    with tempfile.TemporaryDirectory() as folder:
        turns = alternate(["processes", data_dir, folder, str(epochs)], peers, rounds)
    rows = by_figure(["processor s of all processes", "s to exit"], turns)
    _report("mnist-cnn, ours in 2 processes", peers, peers[1:], rows, rounds, path)


@main.command()
@_names("--peers", PEERS[:4], "Whom to compare.", "ours,keras-torch")
@_rounds(3)
@_json
def growth(peers: list[str], rounds: int, path: str | None) -> None:
    """Whether steps slow down or memory grows in 10,000 steps of mnist-linear, and what 10 times the data costs."""
    names = ["ms a step, first 1,000", "ms a step, last 1,000", "peak MB, first 1,000", "peak MB, last 1,000"]
    rows = by_figure([*names, "time for 10 times the data / for 1"], repeat(["growth"], peers, rounds))
    _report("mnist-linear", peers, [], rows, rounds, path)


@main.command()
@_rounds(7)
@_json
def sampling(rounds: int, path: str | None) -> None:
    """Characters a second of one text from a char_lstm: ours against stepping a torch.nn.LSTM by hand."""
    peers = ["ours", "pytorch", "pytorch-1-thread"]
    rows = [("65 characters, 1×256", alternate(["sample"], peers, rounds))]
    _report("characters a second", peers, ["best"], rows, rounds, path, better=max)


@main.command()
@click.option("--data-dir", default="datasets", show_default=True, help="Where the .bin files are.")
@_rounds(7)
@_json
def loading(data_dir: str, rounds: int, path: str | None) -> None:
    """All of CIFAR-10 from the .bin files: ours against numpy.fromfile and one transposed copy.

    Files of random bytes stand in where the real ones are missing. All are in the system's cache when timed.
    """
    from benchmarks.loading import cifar10_folder

    peers = ["ours", "numpy"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = cifar10_folder(data_dir, temporary)
        times = alternate(["cifar10", folder], peers, rounds)
        peaks = repeat(["cifar10-peak", folder], peers, rounds)
    _report("CIFAR-10", peers, ["numpy"], [("ms", times), ("peak memory / uint8 arrays", peaks)], rounds, path)


@main.command()
@_rounds(7)
@_json
def demo(rounds: int, path: str | None) -> None:
    """Milliseconds on the server for a digit drawn on the demo's page, from the drawing to its bars."""
    rows = [("280×280 pixels, mnist-cnn", alternate(["demo"], ["ours"], rounds))]
    _report("ms a drawing", ["ours"], [], rows, rounds, path)


@main.command()
@_names("--examples", [*WORKLOADS, CORPUS], f"Example ids, or {CORPUS}.")
@_names("--peers", PEERS, "Whom to compare.", "ours,keras-torch")
@_rounds(3)
@_json
def memory(examples: list[str], peers: list[str], rounds: int, path: str | None) -> None:
    """Peak resident megabytes of a process that fits a few steps.

    `corpus` is charrnn's default recipe on 10 MB of text with 5,000 distinct characters: six steps, then validated
    and measured on the last tenth; and the seconds from that file to ids.
    """
    from benchmarks.loading import write_corpus

    def rows(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name in examples:
            yield name, repeat(["fit-peak", name, file], ["ours"] if name == CORPUS else peers, rounds)
        if CORPUS in examples:
            yield f"{CORPUS}: s to load", alternate(["corpus", file], ["ours"], rounds)

    with tempfile.TemporaryDirectory() as folder:
        file = write_corpus(folder) if CORPUS in examples else ""
        _report("peak MB of fit", peers, ["keras-torch"], rows(file), rounds, path)


@main.command()
@click.option("--count", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Digits of each kind.")
@click.option("--data-dir", default="datasets", show_default=True, help="Where the MNIST files are.")
@_json
def pages(count: int, data_dir: str, path: str | None) -> None:
    """Per cent of MNIST's test digits that `sample --image` reads off generated paper, by its kind.

    `over plain` is what is read of that kind over what is read of the plain page. The network is the mnist-cnn that
    ships; the pages are the same each time.
    """
    from benchmarks.pages import score

    _report(f"% of {count} digits", ["right", "over plain"], [], score(count, data_dir), 1, path)


def _report(
    title: str,
    peers: list[str],
    against: list[str],
    rows: Iterable[tuple[str, dict[str, Any]]],
    rounds: int,
    path: str | None,
    better: Callable[..., float] = min,
) -> tuple[dict[str, dict[str, Any]], str]:
    """Prints medians and ours over those `against`, a row as soon as it is measured, and a line about the machine.

    `best` is the best median of a peer, ours left out. Returns all measurements and that line.
    """
    heads = [title, *peers, *(f"ours / {peer}" for peer in against)]
    click.echo("| " + " | ".join(heads) + " |\n|---|" + "---:|" * (len(heads) - 1))
    values = {}
    for name, values[name] in rows:
        found = medians(values[name])
        others = [median for peer, median in found.items() if not peer.startswith(("ours", "limit"))]
        found["best"] = better(others, default=math.nan)
        cells = [_cell(found[peer]) if peer in found else values[name].get(peer, "–") for peer in peers]
        ratios = [found.get("ours", math.nan) / found.get(peer, math.nan) for peer in against]
        cells += [f"{ratio:.2f}".replace("nan", "–") for ratio in ratios]
        click.echo(f"| {name} | " + " | ".join(cell.split(":")[0] for cell in cells) + " |")
    about = _machine() | {"rounds": rounds}
    line = ", ".join(f"{name} {value}" for name, value in about.items())
    click.echo()
    for name, row in values.items():
        for peer, why in row.items():
            if str(why).startswith("failed"):
                click.echo(f"{name}, {peer} {why}")
    click.echo(line)
    if path:
        report = {"measured": title, "about": about, "values": values}
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")
    return values, line


def _cell(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _machine() -> dict[str, Any]:
    import torch

    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):  # where Python knows the architecture only
        named = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        processor = named[1] if named else processor
    packages = [name for name in ("keras", "torch", "numpy", "jax", "tensorflow") if find_spec(name)]
    return {
        "machine": processor,
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
