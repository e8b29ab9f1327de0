"""Our models and their peers, side by side, on this machine, in one run.

\b
python -m benchmarks throughput --examples mnist-linear,charrnn --peers ours,pytorch
python -m benchmarks sampling
python -m benchmarks loading
python -m benchmarks memory --json memory.json

Run it in the repository's root and leave the machine alone meanwhile; `pip install -e .[benchmarks]` brings the peers.
Every peer has a process of its own. They take turns, a round each (A B A B), so that whatever else the machine does
meets all of them, and the median round counts. Ratios are ours over the peer's; --json keeps every round.
"""

import importlib.metadata
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

from benchmarks.contest import BACKENDS, alternate, repeat
from benchmarks.workloads import WORKLOADS

PEERS = ["ours", "keras-torch", "keras-jax", "keras-tensorflow", "pytorch", "pytorch-compile"]
CORPUS = "corpus"


def _names(option: str, known: list[str], text: str) -> Callable[[Any], Any]:
    def chosen(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
        if unknown := set(value.split(",")) - set(known):
            raise click.BadParameter(f"Received: {', '.join(sorted(unknown))}. Choose from {', '.join(known)}.")
        return value.split(",")

    return click.option(option, default=",".join(known), show_default=True, callback=chosen, help=text)


def _rounds(default: int) -> Callable[[Any], Any]:
    return click.option("--rounds", type=click.IntRange(1), default=default, show_default=True, help="Turns of each.")


_json = click.option("--json", "path", type=click.Path(dir_okay=False), help="Where to write all measurements.")


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@_names("--examples", [*WORKLOADS], "Example ids.")
@_names("--peers", PEERS, "Whom to compare.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@_rounds(5)
@_json
def throughput(examples: list[str], peers: list[str], precision: str, rounds: int, path: str | None) -> None:
    """Milliseconds a training step: batches of 128 (charrnn: 64 × 180), Adam, loss and metric kept.

    In bfloat16 our float32 step is measured too.
    """
    against = ["pytorch", "best"]
    if precision == "bfloat16":
        peers, against = [*peers, "ours-float32"], ["ours-float32", *against]
    rows = ((example, alternate(["step", example, precision], peers, rounds)) for example in examples)
    _report(f"ms a step, {precision}", peers, against, rows, rounds, path)


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
@_names("--examples", [*WORKLOADS, CORPUS], f"Example ids, or {CORPUS}.")
@_rounds(3)
@_json
def memory(examples: list[str], rounds: int, path: str | None) -> None:
    """Peak resident megabytes of a process that fits a few steps: ours against stock Keras on torch.

    `corpus` is charrnn's default recipe on 10 MB of text with 5,000 distinct characters: six steps, then validated
    and measured on the last tenth; and the seconds from that file to ids.
    """
    from benchmarks.loading import write_corpus

    peers = ["ours", "keras-torch"]

    def rows(file: str) -> Iterator[tuple[str, dict[str, list[float]]]]:
        for name in examples:
            yield name, repeat(["fit-peak", name, file], ["ours"] if name == CORPUS else peers, rounds)
        if CORPUS in examples:
            yield f"{CORPUS}: s to load", alternate(["corpus", file], ["ours"], rounds)

    with tempfile.TemporaryDirectory() as folder:
        file = write_corpus(folder) if CORPUS in examples else ""
        _report("peak MB of fit", peers, ["keras-torch"], rows(file), rounds, path)


def _report(
    title: str,
    peers: list[str],
    against: list[str],
    rows: Iterable[tuple[str, dict[str, list[float]]]],
    rounds: int,
    path: str | None,
    better: Callable[..., float] = min,
) -> None:
    """Prints medians and ours over those `against`, a row as soon as it is measured, and a line about the machine.

    `best` is the best median that is not ours.
    """
    heads = [title, *peers, *(f"ours / {peer}" for peer in against)]
    click.echo("| " + " | ".join(heads) + " |\n|---|" + "---:|" * (len(heads) - 1))
    values = {}
    for name, values[name] in rows:
        medians = {peer: statistics.median(turns) for peer, turns in values[name].items() if turns}
        others = [median for peer, median in medians.items() if not peer.startswith("ours")]
        medians["best"] = better(others, default=math.nan)
        cells = [_cell(peer, values[name], medians) for peer in peers]
        ratios = [medians.get("ours", math.nan) / medians.get(peer, math.nan) for peer in against]
        cells += [f"{ratio:.2f}".replace("nan", "–") for ratio in ratios]
        click.echo(f"| {name} | " + " | ".join(cells) + " |")
    about = _machine() | {"rounds": rounds}
    click.echo("\n" + ", ".join(f"{name} {value}" for name, value in about.items()))
    if path:
        report = {"measured": title, "about": about, "values": values}
        Path(path).write_text(json.dumps(report, indent=1) + "\n")


def _cell(peer: str, measured: dict[str, list[float]], medians: dict[str, float]) -> str:
    if peer in medians:
        return f"{medians[peer]:,.0f}" if medians[peer] >= 100 else f"{medians[peer]:.3g}"
    if not find_spec(BACKENDS.get(peer, "torch")):
        return "not installed"
    return "failed" if peer in measured else "–"


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
