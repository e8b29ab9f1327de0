"""What the command line tells a person about a run, from the reports of `training`."""

import os
import statistics
import sys
from typing import Any

from keras_examples.examples import EXAMPLES


def has_progress_bar() -> bool:
    """Whether Keras's progress bars are wanted: on a terminal, unless NO_COLOR is set, for they are coloured."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def fitted(report: dict[str, Any]) -> str:
    """The last line of a training run."""
    if report["interrupted"]:
        done = f"interrupted after {report['epochs']} epochs and {report['seconds']:.1f} s"
        checkpoint = report["checkpoint"]
        return f"{done}: the same command with --resume goes on from {checkpoint}" if checkpoint else done
    weights = f"weights in {report['weights']}" if report["weights"] else "no weights saved"
    weights += f", picture in {report['plot']}" if report["plot"] else ""
    early = " (stopped early)" if report["stopped_early"] else ""
    best = f", weights of epoch {report['best_epoch']}" if report["best_epoch"] != report["epochs"] else ""
    return (
        f"{report['example']} ({report['data']} data, {report['device']}): test {', '.join(_figures(report))}{best}; "
        f"{report['epochs']} epochs{early} in {report['seconds']:.1f} s, "
        f"{report['samples_per_second']:,.0f} samples/s; {weights}"
    )


def evaluated(report: dict[str, Any]) -> str:
    """All figures of a model on the test data."""
    lines = [
        f"{report['example']} ({report['data']} data, {report['device']}), weights {report['weights']}, "
        f"{report['samples']:,} test samples",
        *_figures(report),
    ]
    if "confusion" in report:
        names = report["classes"]
        width = max(5, *map(len, names))
        lines += ["", "accuracy by class, and confusion (rows: true, columns: predicted)"]
        lines += [" ".join([" " * (width + 8), *(name.rjust(width) for name in names)])]
        for name, accuracy, row in zip(names, report["class_accuracy"], report["confusion"]):
            lines += [" ".join([name.rjust(width), f"{accuracy:7.2%}", *(str(count).rjust(width) for count in row)])]
    return "\n".join(lines)


def result(report: dict[str, Any], seeds: list[dict[str, Any]]) -> str:
    """A row of the table of results: the figure measured now, that of several seeds, and the source's."""
    measured, _ = figures_of_seeds([report] * 2)
    reached = EXAMPLES[report["example"]].source_reaches
    source = f"the source {reached}" if reached else ""
    return f"{report['example']:12}  test {measured}  {figures_of_seeds(seeds)[1]}  {source}".rstrip()


def figures_of_seeds(seeds: list[dict[str, Any]]) -> tuple[str, str]:
    """The first seed's figure, and mean ± standard deviation of all, at least two, by `accuracy` or else `loss`."""
    metric, form = ("loss", ".5f") if seeds[0]["accuracy"] is None else ("accuracy", ".2%")
    values = [figures[metric] for figures in seeds]
    spread = f"{statistics.mean(values):{form}} ± {statistics.stdev(values):{form}} of {len(values)} seeds"
    return f"{values[0]:{form}}", spread


def _figures(report: dict[str, Any]) -> list[str]:
    if "psnr" in report:
        red, green, blue = report["correlation"]
        return [
            f"mean squared error {report['loss']:.6f} (least possible for this architecture: {report['bound']:.6f})",
            f"PSNR {report['psnr']:.2f} dB",
            f"correlation red {red:.4f}, green {green:.4f}, blue {blue:.4f}",
        ]
    if "bits" in report:
        return [f"loss {report['loss']:.4f} nats a character", f"{report['bits']:.4f} bits a character"]
    return [f"loss {report['loss']:.4f}", f"accuracy {report['accuracy']:.2%}"]
