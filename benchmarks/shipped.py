"""Trains the weights that ship with the project: each example by its recipe, from several seeds, on real data.

\b
python -m benchmarks.shipped --seeds 3

Weights of every seed are kept under weights/seeds/, so that the command goes on where it was interrupted. Those of the
first seed, and not of the best, become the shipped <example>.safetensors in float16, and the table in
weights/README.md is written anew.
"""

from pathlib import Path
from typing import Any

import click

from keras_examples import weights
from keras_examples.examples import EXAMPLES
from keras_examples.files import whole_file
from keras_examples.show import reports
from keras_examples.training import fit
from keras_examples.training.checkpoints import Checkpoints

README = Path("weights/README.md")


@click.command(help=__doc__)
@click.option("--examples", default=",".join(EXAMPLES), show_default=True, help="Example ids.")
@click.option("--seeds", type=click.IntRange(2), default=3, show_default=True, help="How many, from 0.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--jpeg-copies", is_flag=True, help="Note that the CIFAR-10 files here come from JPEG copies.")
def main(examples: str, seeds: int, precision: str, jpeg_copies: bool) -> None:
    for example in examples.split(","):
        paths = [train(example, seed, precision) for seed in range(seeds)]
        runs = [weights.describe(path)["metadata"] for path in paths]
        model, metadata = weights.restore(paths[0], example)
        if jpeg_copies and metadata["dataset"] == "cifar10":
            metadata["dataset"] = "cifar10 from JPEG copies"
        metadata["seeds"] = [{name: run["test"].get(name) for name in ("accuracy", "loss")} for run in runs]
        weights.write(weights.shipped(example), model, metadata, dtype="float16")
    tables()


def train(example: str, seed: int, precision: str) -> Path:
    """Trains an example from a seed, unless that is done; an interrupted run goes on."""
    path = Path(f"weights/seeds/{example}-{seed}.weights.h5")
    if path.is_file() and "test" in weights.describe(path)["metadata"]:
        return path
    if Checkpoints(path).present():
        report = fit(example, resume=True, save=path)
    else:
        report = fit(example, seed=seed, data="real", precision=precision, save=path)
    if report["interrupted"]:
        raise click.Abort
    return path


def tables() -> None:
    """Writes the table that ends weights/README.md from what is in the files."""
    rows = [
        "| file | command | data | seed | epochs | seconds | test figure | mean ± standard deviation |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for example in EXAMPLES:
        path = weights.shipped(example)
        if path.is_file():
            rows.append(row(example, path, weights.describe(path)["metadata"]))
    before = README.read_text("utf-8").partition("\n| file |")[0].rstrip()
    with whole_file(README) as temporary:
        temporary.write_text("\n".join([before, "", *rows, ""]), "utf-8")


def row(example: str, path: Path, metadata: dict[str, Any]) -> str:
    which = EXAMPLES[example]
    precision = "" if metadata["precision"] == "float32" else f" --precision {metadata['precision']}"
    first, spread = reports.figures_of_seeds(metadata["seeds"])
    columns = [
        f"`{path.name}`",
        f"`python cli.py {which.command}{f' --arch {which.arch}' if which.arch else ''}{precision}`",
        metadata["dataset"],
        metadata["seed"],
        metadata["epochs"],
        round(metadata["seconds"]),
        f"{first} {MEASURES.get(example, 'accuracy')}",
        spread,
    ]
    return f"| {' | '.join(map(str, columns))} |"


MEASURES = {"autoencoder": "mean squared error", "charrnn": "nats a character"}

if __name__ == "__main__":
    main()
