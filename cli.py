"""The command line: parse, one library call, echo.

Nothing heavier than Click is imported until a command runs.
"""

import os
import signal

if __name__ == "__main__":  # until a command takes over
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))

import contextlib
import json
import math
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import click
from click_default_group import DefaultGroup

Command = Callable[..., Any]
Echo = Callable[..., None]
COMMANDLINE = click.core.ParameterSource.COMMANDLINE


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, but amid an import leaves at once: NumPy and torch lose or crash on the exception."""
    while frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            os.write(2, b"Interrupted.\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def option(*names: str, **how: Any) -> click.Option:
    return click.Option(names, **how)


def finite(report: Any) -> Any:
    """The report with None for numbers that JSON does not know."""
    if isinstance(report, dict):
        return {key: finite(value) for key, value in report.items()}
    if isinstance(report, (list, tuple)):
        return [finite(value) for value in report]
    return None if isinstance(report, float) and not math.isfinite(report) else report


def positive(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise click.BadParameter(f"{value} is not a finite number above 0.")
    return value


def fraction(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 <= value < 1:  # also NaN, which FloatRange lets through
        raise click.BadParameter(f"{value} is not in the range 0<=x<1.")
    return value


def widths(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    parts = [] if value is None else value.split(",")
    if not all(part.isascii() and part.isdecimal() and 0 < int(part) <= 65536 for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of whole numbers from 1 to 65536, such as 128,64.")
    return tuple(map(int, parts)) or None


COUNT = click.IntRange(min=1)
PICTURES = click.IntRange(1, 100)
SEED = click.IntRange(min=0, max=2**32 - 1)
DATA_OPTIONS = (
    option(
        "--data",
        type=click.Choice(["auto", "real", "synthetic"]),
        default="auto",
        show_default=True,
        help="auto: local files, else download, else made up here, which every report then says.",
    ),
    option("--data-dir", metavar="DIR", default="datasets", show_default=True, help="Folder of the data files."),
)
DEVICE_OPTION = option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="auto: cuda if there is one, else mps, else cpu.",
)
WEIGHTS_OPTION = option("--weights", "path", metavar="PATH", help="Weights to use instead of what was last trained.")
TENSORS = ".safetensors"
NAMES_OPTION = option(
    "--names",
    type=click.Choice(["candle", "tch", "keras"]),
    default="candle",
    show_default=True,
    help="Whose names and layout a .safetensors file has.",
)
SEED_OPTION = option("--seed", type=SEED, default=0, show_default=True, help="Seed of all that is random.")
OUTPUT_OPTION = option(
    "--output-dir", metavar="DIR", default="samples", show_default=True, help="Folder of the pictures."
)


def command(group: click.Group, name: str, *params: click.Parameter) -> Callable[[Command], Command]:
    """Registers a command that returns its report, and gives it `--json`, `--traceback` and one-line errors.

    The function's first argument prints to standard output, or to standard error under `--json`.
    """

    def register(function: Command) -> Command:
        def run(*, as_json: bool, show_traceback: bool, **arguments: Any) -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, interrupt)
            try:
                if "device" in arguments:  # Keras reads its device once, when it is imported
                    from keras_examples import devices

                    devices.choose(arguments.pop("device"))
                with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
                    report = function(click.echo, **arguments)
                if as_json:
                    click.echo(json.dumps(finite(report)))
                if report and report.get("interrupted"):
                    sys.exit(130)
            except (click.ClickException, click.exceptions.Exit):
                raise
            except KeyboardInterrupt:
                click.echo("Interrupted.", err=True)
                sys.exit(130)
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: end quietly
            except Exception as error:
                if show_traceback:
                    traceback.print_exc()
                raise click.ClickException(" ".join(str(error).split()) or type(error).__name__) from error

        common = (
            option("--json", "as_json", is_flag=True, help="Print one JSON object, the report to standard error."),
            option("--traceback", "show_traceback", is_flag=True, help="Show where an error came from."),
        )
        group.add_command(click.Command(name, callback=run, params=[*params, *common], help=function.__doc__))
        return function

    return register


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="keras-examples")
def main() -> None:
    """Seven classic deep-learning models in Keras 3, torch first.

    \b
    python cli.py mnist --arch cnn --epochs 10     train, measure, save
    python cli.py mnist evaluate --arch cnn        measure again, class by class
    python cli.py mnist sample --arch cnn          look at predictions
    """


HIDDEN_UNITS = option(
    "--hidden-units", metavar="N,N,…", callback=widths, help="Widths of the hidden layers, such as 128,64."
)
DROPOUT = option("--dropout", type=float, callback=fraction, help="Fraction of units dropped.")
UNITS = option("--units", type=click.IntRange(1, 65536), help="Width of each LSTM layer.")
LAYERS = option("--layers", type=click.IntRange(1, 64), help="Number of LSTM layers.")
TEXT = option("--text", metavar="PATH", help="UTF-8 text to learn instead of tinyshakespeare.")
SIZES = ("hidden_units", "dropout", "units", "layers")

FIT_OPTIONS = (
    option("--epochs", type=COUNT, help="Passes over the training data."),
    option("--batch-size", type=COUNT, help="Samples a step."),
    option("--learning-rate", type=float, callback=positive, help="Peak of the one-cycle schedule."),
    option("--optimizer", type=click.Choice(["sgd", "adam", "adamw"]), help="How steps are taken."),
    option(
        "--precision",
        type=click.Choice(["float32", "bfloat16"]),
        default="float32",
        show_default=True,
        help="bfloat16 keeps variables and logits in float32.",
    ),
    SEED_OPTION,
    option(
        "--validation-split",
        type=float,
        callback=fraction,
        help="Last fraction of the training data to validate on; 0 validates on the test data.",
    ),
    option("--augment/--no-augment", default=None, help="Shift (and flip photos) at random in training."),
    option("--limit", type=COUNT, metavar="N", help="Use the first N training samples."),
    option("--dry-run", is_flag=True, help="One batch, nothing saved."),
    option(
        "--accelerate/--no-accelerate", "accelerated", default=True, help="On torch, replay captured steps (default)."
    ),
    option("--cuda-graph", is_flag=True, help="On an NVIDIA GPU, launch a captured step as one (not measured yet)."),
    option("--load", metavar="PATH", help="Start from these weights."),
    option("--save", metavar="PATH", help="Where the weights go.  [default: weights/<example>.weights.h5]"),
    option("--resume", is_flag=True, help="Go on with an interrupted run, with the options it was started with."),
)


def example(name: str, arches: tuple[str, ...], help: str, *sizes: click.Option) -> click.Group:
    """Adds an example: a group with `fit`, which is its default command, `evaluate` and `save`."""
    group = DefaultGroup(name, default="fit", default_if_no_args=True, help=help)
    main.add_command(group)
    arch_options = [arch_option(arches)] if arches else []
    text_options = [TEXT] if name == "charrnn" else []

    @command(group, "fit", *arch_options, *sizes, *FIT_OPTIONS, *text_options, *DATA_OPTIONS, DEVICE_OPTION)
    def fit(echo: Echo, resume: bool, arch: str | None = None, **given: Any) -> Any:
        """Trains, measures on the test data, saves the weights. What is not given comes from the recipe."""
        from keras_examples import reports, resuming, training

        context = click.get_current_context()
        given = {key: value for key, value in given.items() if context.get_parameter_source(key) is COMMANDLINE}
        sizes = {key: given.pop(key) for key in SIZES if key in given}
        run = resuming.resume if resume else training.fit
        report = run(identify(name, arch), sizes=sizes, echo=echo, **given)
        echo(reports.fitted(report))
        return report

    @command(group, "evaluate", *arch_options, *text_options, WEIGHTS_OPTION, *DATA_OPTIONS, DEVICE_OPTION)
    def evaluate(echo: Echo, arch: str | None = None, **given: Any) -> Any:
        """Measures trained weights on the test data."""
        from keras_examples import reports, training

        report = training.evaluate(identify(name, arch), **given)
        echo(reports.evaluated(report))
        return report

    @command(group, "save", click.Argument(["target"], metavar="PATH"), *arch_options, NAMES_OPTION, WEIGHTS_OPTION)
    def save(echo: Echo, target: str, names: str, path: str | None, arch: str | None = None) -> Any:
        """Writes trained weights to PATH, in the format it ends in: .weights.h5, .keras, .safetensors or .onnx."""
        from keras_examples import weights

        if click.get_current_context().get_parameter_source("names") is COMMANDLINE and not target.endswith(TENSORS):
            raise click.UsageError(f"--names is for {TENSORS} files. Received: {target}. Leave it out.")
        source = weights.find(identify(name, arch), path)
        model, metadata = weights.restore(source, identify(name, arch))
        weights.write(target, model, metadata, names)
        echo(f"{source} written to {target}")
        return {"example": metadata["example"], "data": metadata["data"], "weights": target}

    return group


def arch_option(arches: tuple[str, ...]) -> click.Option:
    return option("--arch", type=click.Choice(arches), default=arches[0], show_default=True, help="Architecture.")


def identify(name: str, arch: str | None) -> str:
    return f"{name}-{arch}" if arch else name


def add_classify(group: click.Group, arches: tuple[str, ...]) -> None:
    """Gives a classifier its `sample`."""

    @command(
        group,
        "sample",
        arch_option(arches),
        option("--count", type=PICTURES, default=20, show_default=True, help="Test images to show."),
        option("--image", metavar="PATH", help="Classify this picture instead."),
        SEED_OPTION,
        OUTPUT_OPTION,
        WEIGHTS_OPTION,
        *DATA_OPTIONS,
        DEVICE_OPTION,
    )
    def sample(echo: Echo, arch: str, image: str | None, **given: Any) -> Any:
        """Shows test images with what the model reads in them, or the probabilities for a picture of yours."""
        from keras_examples import reports, sampling

        if image:
            report = sampling.classify_image(identify(str(group.name), arch), image, given["path"])
            echo(reports.probabilities(report))
        else:
            report = sampling.classify(identify(str(group.name), arch), **given)
            echo(reports.classified(report))
        return report


MNIST = ("linear", "mlp", "cnn")
CIFAR = ("cnn", "dense")
add_classify(
    example(
        "mnist", MNIST, "Handwritten digits: linear, multilayer perceptron or convolutional.", HIDDEN_UNITS, DROPOUT
    ),
    MNIST,
)
add_classify(example("cifar", CIFAR, "CIFAR-10 photos in ten classes: convolutional or dense.", HIDDEN_UNITS), CIFAR)
autoencoder = example("autoencoder", (), "CIFAR-10 photos through a code of 8×8×8 numbers and back.")
charrnn = example("charrnn", (), "Text, a character at a time, by an LSTM.", UNITS, LAYERS, DROPOUT)


@command(
    autoencoder,
    "sample",
    option("--count", type=PICTURES, default=5, show_default=True, help="Test images to show."),
    SEED_OPTION,
    OUTPUT_OPTION,
    WEIGHTS_OPTION,
    *DATA_OPTIONS,
    DEVICE_OPTION,
)
def sample_autoencoder(echo: Echo, **given: Any) -> Any:
    """Draws test images over their reconstructions."""
    from keras_examples import reports, sampling

    report = sampling.reconstruct("autoencoder", **given)
    echo(reports.reconstructed(report))
    return report


@command(
    charrnn,
    "sample",
    option("--prompt", default="", help="Text to continue; - reads it from standard input."),
    option("--length", type=COUNT, default=500, show_default=True, help="Characters to draw."),
    option("--temperature", type=float, default=0.8, show_default=True, help="0 takes the likeliest character."),
    option("--top-k", type=COUNT, metavar="K", help="Draw from the K likeliest characters only."),
    option("--seed", type=SEED, help="The same seed gives the same text."),
    option("--count", type=COUNT, default=1, show_default=True, help="Texts to draw."),
    option("--text", metavar="PATH", help="Use what was last trained on this text."),
    WEIGHTS_OPTION,
)
def sample_charrnn(
    echo: Echo, prompt: str, seed: int | None, count: int, text: str | None, path: str | None, **how: Any
) -> Any:
    """Streams text, a character at a time."""
    from keras_examples import weights
    from keras_examples.generation import generate

    source = weights.find(weights.run_name("charrnn", text), path)
    model, metadata = weights.restore(source, "charrnn")
    vocabulary = weights.vocabulary_of(source, metadata)
    prompt = sys.stdin.read() if prompt == "-" else prompt
    texts = []
    for index in range(count):
        stream = generate(model, vocabulary, prompt, seed=None if seed is None else seed + index, **how)
        echo(prompt, nl=False)
        characters = []
        for character in stream:
            echo(character, nl=False)
            characters.append(character)
        echo("\n" if index + 1 < count else "")
        texts.append(prompt + "".join(characters))
    return {"example": "charrnn", "data": metadata["data"], "texts": texts, "weights": str(source)}


@command(main, "weights", click.Argument(["path"], metavar="PATH"))
def show_weights(echo: Echo, path: str) -> Any:
    """Shows what is in a weights file: the metadata, and each tensor's name, shape and type."""
    from keras_examples.weights import describe

    report = describe(path)
    for name, value in report["metadata"].items():
        echo(f"{name}: {json.dumps(value)}")
    for tensor in report["tensors"]:
        echo(f"{tensor['name']}  {'×'.join(map(str, tensor['shape']))}  {tensor['dtype']}")
    return report


@main.group("datasets")
def datasets_group() -> None:
    """What data is there; fetch and verify it."""


NAMES = ("mnist", "cifar10", "tinyshakespeare")
DATA_DIR_OPTION = DATA_OPTIONS[1]


@command(datasets_group, "list", DATA_DIR_OPTION)
def list_datasets(echo: Echo, data_dir: str) -> Any:
    """Lists the data sets, and which of their files are missing."""
    from keras_examples.datasets import status

    report = {}
    for name in NAMES:
        state, files, missing = status(name, data_dir)
        report[name] = {"state": state, "files": [*map(str, files)], "missing": [*map(str, missing)]}
        echo(f"{name}: {state}")
        for path in files:
            echo(f"  {path}{' (missing)' if path in missing else ''}")
    return report


@command(datasets_group, "fetch", click.Argument(["name"], type=click.Choice(NAMES)), DATA_DIR_OPTION)
def fetch_dataset(echo: Echo, name: str, data_dir: str) -> Any:
    """Downloads the files of a data set that are missing, and checks their hashes."""
    from keras_examples.datasets import fetch

    fetched = [str(path) for path in fetch(name, data_dir)]
    echo(f"{name}: {', '.join(fetched) if fetched else 'nothing was missing'}")
    return {"fetched": fetched}


@command(datasets_group, "verify", click.Argument(["name"], type=click.Choice(NAMES)), DATA_DIR_OPTION)
def verify_dataset(echo: Echo, name: str, data_dir: str) -> Any:
    """Reads a data set whole and compares its files with the published ones."""
    from keras_examples.datasets import verify

    findings = {str(path): finding for path, finding in verify(name, data_dir).items()}
    for path, finding in findings.items():
        echo(f"{path}: {finding}")
    return findings


@command(main, "devices")
def devices(echo: Echo) -> Any:
    """Shows which device would be used, and why."""
    from keras_examples.devices import choose

    chosen = choose()
    echo(f"{chosen.name} ({chosen.description}): {chosen.reason}")
    if chosen.hint:
        echo(chosen.hint)
    return chosen._asdict()


if __name__ == "__main__":
    main()
