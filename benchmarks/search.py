"""Trains an example by other recipes and notes their validation figures, never a test figure.

\b
python -m benchmarks.search mnist-mlp "epochs=60" "epochs=60 weight_decay=0.05"

A recipe is the fields, in TOML's notation, that differ from the example's own. A sixth of the training data, which no
recipe trains on unless it sets another validation_split, tells them apart.
"""

import csv
import tempfile
import tomllib
from pathlib import Path

import click

from keras_examples.examples import EXAMPLES
from keras_examples.training import fit


@click.command(help=__doc__)
@click.argument("example", type=click.Choice([*EXAMPLES]))
@click.argument("recipes", nargs=-1, required=True)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="How many, from 0.")
@click.option("--log", type=click.Path(path_type=Path), default="docs/search.csv", show_default=True, help="Grows.")
def main(example: str, recipes: tuple[str, ...], seeds: int, log: Path) -> None:
    for seed in range(seeds):
        for recipe in recipes:
            row = trial(example, recipe, seed)
            is_new = not log.exists()
            with log.open("a", newline="") as file:
                writer = csv.DictWriter(file, row, lineterminator="\n")
                if is_new:
                    writer.writeheader()
                writer.writerow(row)
            click.echo(row)


def trial(example: str, recipe: str, seed: int) -> dict[str, object]:
    """What a run came to in its last epoch."""
    options = {"validation_split": 1 / 6} | tomllib.loads("\n".join(recipe.split()))
    with tempfile.TemporaryDirectory() as folder:
        save = Path(folder, "trial.weights.h5")
        report = fit(example, **options, seed=seed, data="real", save=save, echo=lambda line: None)
    if report["interrupted"]:
        raise click.Abort
    history = report["history"]
    last = {
        name: f"{history[name][-1]:.6g}" if name in history else "" for name in ("loss", "val_loss", "val_accuracy")
    }
    return {
        "example": example,
        "recipe": recipe,
        "validation_split": f"{options['validation_split']:.3g}",
        "seed": seed,
        "epochs": report["epochs"],
        **last,
        "seconds": round(report["seconds"]),
    }


if __name__ == "__main__":
    main()
