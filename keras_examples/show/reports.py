"""What the command line tells a person about a run, from the reports of `training`."""

import statistics
import sys
from collections.abc import Mapping
from typing import Any

from keras_examples.calls import call
from keras_examples.examples import EXAMPLES


def has_progress_bar() -> bool:
    """Whether Keras's progress bars are wanted: on a terminal."""
    return bool(sys.stdout and sys.stdout.isatty())  # None where standard output is closed


def counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count != 1)}"


def epoch_line(epoch: int, epochs: int, logs: Mapping[str, float], seconds: float) -> str:
    """An epoch's figures on the training data, and behind each that on the validation data."""
    figures = [
        f"{name} {float(value):.4f} (val {float(logs[f'val_{name}']):.4f})"
        for name, value in logs.items()
        if f"val_{name}" in logs
    ]
    return "  ".join([f"epoch {epoch}/{epochs}", *figures, f"{seconds:.1f} s"])


def fitted(report: dict[str, Any], **given: Any) -> str:
    """What came of a training run that the given options were asked of, and what to type next."""
    if report["interrupted"]:
        lines = [f"interrupted after {counted(report['epochs'], 'epoch')} and {report['seconds']:.1f} s"]
        if report["checkpoint"]:
            lines += [f"checkpoint in {report['checkpoint']}", "try: the same command with --resume"]
        return "\n".join(lines)
    figures, early = _figures(report), " (stopped early)" if report["stopped_early"] else ""
    best = f" of epoch {report['best_epoch']}" if report["best_epoch"] != report["epochs"] else ""
    return "\n".join(
        [
            f"{report['example']} ({report['data']} data, {report['device']}): test {figures[0]}",
            *figures[1:],
            f"{counted(report['epochs'], 'epoch')}{early} in {report['seconds']:.1f} s, "
            f"{report['samples_per_second']:,.0f} samples/s",
            f"weights{best} in {report['weights']}" if report["weights"] else "no weights saved",
            *[f"picture in {report['plot']}"] * bool(report["plot"]),
            f"try: {_next(report, given)}",
        ]
    )


def _next(report: dict[str, Any], given: dict[str, Any]) -> str:
    """The line that shows what a model has learned, with the weights and on the data of its run."""
    example, weights = report["example"], report["weights"]
    if not weights:
        return "the same command without --dry-run"
    if weights.lower().endswith(".onnx"):
        return "onnxruntime, or whatever else reads it"
    made_up, text = report["data"] == "synthetic", EXAMPLES[example].task == "NextCharacter"
    data = {"text": given.get("text")}
    if not text:
        data = {"data": "synthetic" if made_up else None, "data_dir": given.get("data_dir")}
    return call(example, "sample", **data, weights=weights if given.get("save") or (text and made_up) else None)


def evaluated(report: dict[str, Any]) -> str:
    """All figures of a model on the test data."""
    lines = [
        f"{report['example']} ({report['data']} data, {report['device']}), {report['samples']:,} test samples",
        f"weights in {report['weights']}",
        *_figures(report),
    ]
    if "confusion" in report:
        names = report["classes"]
        width = max(5, *map(len, names))
        lines += ["", "accuracy by class, and confusion (rows: true, columns: predicted)"]
        lines += [" ".join([" " * (width + 8), *(name[:5].rjust(5) for name in names)])]
        for name, accuracy, row in zip(names, report["class_accuracy"], report["confusion"]):
            lines += [" ".join([name.rjust(width), f"{accuracy:7.2%}", *(str(count).rjust(5) for count in row)])]
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
            f"mean squared error {report['loss']:.6f}",
            f"least possible for this architecture {report['bound']:.6f}",
            f"PSNR {report['psnr']:.2f} dB",
            f"correlation red {red:.4f}, green {green:.4f}, blue {blue:.4f}",
        ]
    if "bits" in report:
        return [f"loss {report['loss']:.4f} nats a character", f"{report['bits']:.4f} bits a character"]
    return [f"loss {report['loss']:.4f}, accuracy {report['accuracy']:.2%}"]
