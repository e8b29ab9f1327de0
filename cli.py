"""The command line: parse, one library call, echo.

Nothing heavier than Click is imported until a command runs.
"""

import os
import signal
import sys

if __name__ == "__main__" or os.path.basename(sys.argv[0]) == "keras-examples":  # until a command takes over
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))

import ast
import contextlib
import json
import math
import re
import tomllib
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import click
from click_default_group import DefaultGroup

Command = Callable[..., Any]
Echo = Callable[..., None]
COMMANDLINE, FILE = click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.DEFAULT_MAP


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


def place(metavar: str) -> dict[str, Any]:
    """What makes a parameter one for a PATH, a FILE or a DIR, which the shell completes."""
    return {"metavar": metavar, "shell_complete": click.Path(file_okay=metavar != "DIR").shell_complete}


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


def configure(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    """Has options that are not on the command line come from a TOML file."""
    if path is None:
        return
    try:
        with open(path, "rb") as file:
            given = tomllib.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise click.BadParameter(f"Cannot read {path!r}: {getattr(error, 'strerror', None) or error}.") from error
    options = {name: other for other in ctx.command.params for name in other.opts if other is not param}
    ctx.default_map = {}
    for key, value in given.items():
        if (known := options.get(f"--{key}")) is None:
            raise click.BadParameter(f"{path!r} has {key!r}, which is no option of {ctx.command_path!r}.")
        kind, words = kind_of(known)
        if type(value) is not kind and (kind, type(value)) != (float, int):
            raise click.BadParameter(f"{key!r} in {path!r} has to be {words}. Received: {value!r}.")
        ctx.default_map[str(known.name)] = ",".join(map(str, value)) if isinstance(value, list) else value


def kind_of(param: click.Parameter) -> tuple[type, str]:
    """The type that an option has in a TOML file, and what it is called."""
    if isinstance(param, click.Option) and param.is_flag:
        return bool, "true or false"
    if param.callback is widths:
        return list, "a list of whole numbers"
    if isinstance(param.type, click.IntRange):
        return int, "a whole number"
    return (float, "a number") if param.type is click.FLOAT else (str, "a string")


def choose_backend(ctx: click.Context, param: click.Parameter, name: str) -> None:
    """Tells Keras, which reads its backend when it is imported."""
    if not find_spec(name):
        raise click.ClickException(f"{name} is not installed. Received: --backend {name}. Run `pip install {name}`.")
    if (other := os.environ.get("KERAS_BACKEND") or name) != name:
        click.echo(f"--backend {name} is used, not KERAS_BACKEND={other}", err=True)
    os.environ["KERAS_BACKEND"] = name
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reports on itself at length


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
    option("--data-dir", **place("DIR"), default="datasets", show_default=True, help="Folder of the data files."),
)
BACKEND_OPTION = option(
    "--backend",
    type=click.Choice(["torch", "jax", "tensorflow"]),
    default="torch",
    show_default=True,
    envvar="KERAS_BACKEND",
    show_envvar=True,
    expose_value=False,
    callback=choose_backend,
    help="What Keras computes with.",
)
DEVICE_OPTIONS = (
    BACKEND_OPTION,
    option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda", "mps"]),
        default="auto",
        show_default=True,
        help="auto: cuda if there is one, else mps, else cpu.",
    ),
)
WEIGHTS_OPTION = option(
    "--weights", "path", **place("PATH"), help="Weights to use.  [default: what was last trained, else what is shipped]"
)
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
    "--output-dir", **place("DIR"), default="samples", show_default=True, help="Folder of the pictures."
)


def command(group: click.Group, name: str, shown: str, *params: click.Parameter) -> Callable[[Command], Command]:
    """Registers a command that returns its report, and gives it `--json`, `--traceback` and one-line errors.

    The function's first argument prints to standard output, or to standard error under `--json`. The help ends with the
    command called with the arguments `shown`.
    """
    words = f"python cli.py {'' if group is main else group.name} {name} {shown}".split()

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
                # torchrun's comes when a process died: the error says more.
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, lambda *_: None)
                if show_traceback:
                    traceback.print_exc()
                raise click.ClickException(" ".join(str(error).split()) or type(error).__name__) from error

        common = (
            option("--json", "as_json", is_flag=True, help="Print one JSON object, the report to standard error."),
            option("--traceback", "show_traceback", is_flag=True, help="Show where an error came from."),
        )
        help = f"{function.__doc__}\n\n\b\n{' '.join(words)}"
        group.add_command(click.Command(name, callback=run, params=[*params, *common], help=help))
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


def outline() -> dict[str, dict[str, Any]]:
    """For each example what is literal in its recipe, its builder's defaults, and as `help` what the arguments mean.

    Read from the source, since importing Keras takes seconds.
    """
    folder = Path(__file__).parent / "keras_examples"
    models, recipes = (ast.parse((folder / f"{name}.py").read_text("utf-8")).body for name in ("models", "recipes"))
    builders = {node.name: node for node in models if isinstance(node, ast.FunctionDef)}
    rows: dict[str, Any] = {}

    def row(call: Any) -> dict[str, Any]:
        return rows[call.func.id] | {field.arg: literal(field.value) for field in call.keywords}

    node: Any
    for node in recipes:
        match type(node).__name__:
            case "ClassDef":
                fields = {field.target.id: literal(field.value) for field in node.body if hasattr(field, "target")}
                rows["Recipe"] = rows["partial"] = fields
            case "Assign":
                rows[node.targets[0].id] = row(node.value)
            case "AnnAssign":
                table = {key.value: row(call) for key, call in zip(node.value.keys, node.value.values)}
    for found in table.values():
        builder = builders[found["build"]]
        pairs = [*zip(reversed(builder.args.args), reversed(builder.args.defaults))]
        defaults = {argument.arg: literal(default) for argument, default in reversed(pairs)}
        text = " ".join(str(ast.get_docstring(builder)).split())
        found |= defaults | (found["sizes"] or {})
        found["help"] = {name: re.findall(rf" {name}: (.*?\.)(?: |$)", text)[0] for name in defaults}
    return table


def literal(node: Any) -> Any:
    """What a node stands for; of `models.mnist_cnn` the last name, and None of what is no literal."""
    with contextlib.suppress(ValueError):
        return ast.literal_eval(node)
    return getattr(node, "attr", None)


OUTLINE = outline()
TEXT = option("--text", **place("PATH"), help="UTF-8 text to learn instead of tinyshakespeare.")
FIT_OPTIONS = (
    option(
        "--precision",
        type=click.Choice(["float32", "bfloat16"]),
        default="float32",
        show_default=True,
        help="bfloat16 keeps variables and logits in float32.",
    ),
    SEED_OPTION,
    option("--limit", type=COUNT, metavar="N", help="Use the first N training samples."),
    option("--dry-run", is_flag=True, help="One batch, nothing saved."),
    option(
        "--early-stopping",
        type=COUNT,
        metavar="N",
        help="Stop when the validation loss has not fallen for N epochs; keep the best epoch's weights.",
    ),
    option(
        "--accelerate/--no-accelerate", "accelerated", default=True, help="On torch, replay captured steps (default)."
    ),
    option("--cuda-graph", is_flag=True, help="On an NVIDIA GPU, launch a captured step as one (not measured yet)."),
    option("--load", **place("PATH"), help="Start from these weights."),
    option("--save", **place("PATH"), help="Where the weights go.  [default: weights/<example>.weights.h5]"),
    option("--plot/--no-plot", default=True, help="Draw the run beside the weights, as <example>.png (default)."),
    option("--log-dir", **place("DIR"), help="Write TensorBoard's event files and history.csv there, epoch by epoch."),
    option("--resume", is_flag=True, help="Go on with an interrupted run, with the options it was started with."),
    option(
        "--config",
        **place("FILE"),
        callback=configure,
        is_eager=True,
        expose_value=False,
        help="TOML file of options, such as batch-size = 64; those on the command line win.",
    ),
    option("--save-config", **place("FILE"), help="Write all options of this run to a TOML file for --config."),
)


def recipe_options(rows: dict[str, dict[str, Any]]) -> list[click.Option]:
    """The options for the builder's arguments and the recipe's fields.

    Args:
        rows: The outline of each architecture.
    """

    def told(field: str, help: str, names: str = "", **how: Any) -> click.Option:
        shown = {arch: str(row[field]).lower().strip("(,)") for arch, row in rows.items() if field in row}
        if len(shown) == len(rows) and len({*shown.values()}) == 1:
            shown = {"": shown.popitem()[1]}
        defaults = ", ".join(f"{arch} {value}".strip() for arch, value in shown.items())
        return option(names or f"--{field.replace('_', '-')}", help=f"{help}  [default: {defaults}]", **how)

    kinds: dict[type, dict[str, Any]] = {
        tuple: {"metavar": "N,N,…", "callback": widths},
        float: {"type": float, "callback": fraction},
        int: {"type": click.IntRange(1, 65536)},
    }
    sizes = {name: (help, type(row[name])) for row in rows.values() for name, help in row["help"].items()}
    split = "Last fraction of the training data to validate on; 0 validates on the test data."
    return [
        *(told(name, help, **kinds[kind]) for name, (help, kind) in sizes.items()),
        told("epochs", "Passes over the training data.", type=COUNT),
        told("batch_size", "Samples a step.", type=COUNT),
        told("learning_rate", "Peak of the one-cycle schedule.", type=float, callback=positive),
        told("optimizer", "How steps are taken.", type=click.Choice(["sgd", "adam", "adamw"])),
        told("validation_split", split, type=float, callback=fraction),
        told("augment", "Shift (and flip photos) at random in training.", "--augment/--no-augment", default=None),
    ]


class Example(DefaultGroup):
    """A group that trains by default; the shell completes its commands, and the options of the default one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return (click.Group if ctx.resilient_parsing else DefaultGroup).parse_args(self, ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        if not incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        default = self.commands[self.default_cmd_name]
        return default.shell_complete(click.Context(default, parent=ctx), incomplete)


def example(name: str, arches: tuple[str, ...], help: str) -> click.Group:
    """Adds an example: a group with `fit`, which is its default command, `evaluate` and `save`."""
    group = Example(name, default="fit", default_if_no_args=True, help=help)
    main.add_command(group)
    arch_options = [arch_option(arches)] if arches else []
    text_options = [TEXT] if name == "charrnn" else []
    shown = f"--arch {arches[-1]}" if arches else ""
    rows = {arch: OUTLINE[identify(name, arch)] for arch in arches or ("",)}
    fit_options = (*recipe_options(rows), *FIT_OPTIONS, *text_options, *DATA_OPTIONS, *DEVICE_OPTIONS)

    @command(group, "fit", f"{shown} --epochs 10", *arch_options, *fit_options)
    def fit(echo: Echo, resume: bool, plot: bool, arch: str | None = None, **given: Any) -> Any:
        """Trains, measures on the test data, saves the weights. What is not given comes from the recipe."""
        from keras_examples.show import reports
        from keras_examples.training import fitting as training
        from keras_examples.training import processes as distributed
        from keras_examples.training import resuming

        context = click.get_current_context()
        given = {key: value for key, value in given.items() if context.get_parameter_source(key) in (COMMANDLINE, FILE)}
        sizes = {key: given.pop(key) for row in rows.values() for key in row["help"] if key in given}
        run = resuming.resume if resume else training.fit
        with distributed.together():
            report = run(identify(name, arch), sizes=sizes, plot=plot, echo=echo, **given)
            echo(reports.fitted(report))
        return report

    @command(group, "evaluate", shown, *arch_options, *text_options, WEIGHTS_OPTION, *DATA_OPTIONS, *DEVICE_OPTIONS)
    def evaluate(echo: Echo, arch: str | None = None, **given: Any) -> Any:
        """Measures trained weights on the test data."""
        from keras_examples.show import reports
        from keras_examples.training import fitting as training

        report = training.evaluate(identify(name, arch), **given)
        echo(reports.evaluated(report))
        return report

    @command(
        group,
        "save",
        f"{name}{TENSORS} {shown}",
        click.Argument(["target"], **place("PATH")),
        *arch_options,
        NAMES_OPTION,
        WEIGHTS_OPTION,
        BACKEND_OPTION,
    )
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
        f"--arch {arches[-1]} --count 10",
        arch_option(arches),
        option("--count", type=PICTURES, default=20, show_default=True, help="Test images to show."),
        option("--image", **place("PATH"), help="Classify this picture instead."),
        SEED_OPTION,
        OUTPUT_OPTION,
        WEIGHTS_OPTION,
        *DATA_OPTIONS,
        *DEVICE_OPTIONS,
    )
    def sample(echo: Echo, arch: str, image: str | None, **given: Any) -> Any:
        """Shows test images with what the model reads in them, or the probabilities for a picture of yours."""
        from keras_examples.show import reports, sampling

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
    example("mnist", MNIST, "Handwritten digits: linear, multilayer perceptron or convolutional."),
    MNIST,
)
add_classify(example("cifar", CIFAR, "CIFAR-10 photos in ten classes: convolutional or dense."), CIFAR)
autoencoder = example("autoencoder", (), "CIFAR-10 photos through a code of 8×8×8 numbers and back.")
charrnn = example("charrnn", (), "Text, a character at a time, by an LSTM.")


@command(
    autoencoder,
    "sample",
    "--count 3",
    option("--count", type=PICTURES, default=5, show_default=True, help="Test images to show."),
    SEED_OPTION,
    OUTPUT_OPTION,
    WEIGHTS_OPTION,
    *DATA_OPTIONS,
    *DEVICE_OPTIONS,
)
def sample_autoencoder(echo: Echo, **given: Any) -> Any:
    """Draws test images over their reconstructions."""
    from keras_examples.show import reports, sampling

    report = sampling.reconstruct("autoencoder", **given)
    echo(reports.reconstructed(report))
    return report


@command(
    charrnn,
    "sample",
    '--prompt "We " --temperature 0.7',
    option("--prompt", default="", help="Text to continue; - reads it from standard input."),
    option("--length", type=COUNT, default=500, show_default=True, help="Characters to draw."),
    option("--temperature", type=float, default=0.8, show_default=True, help="0 takes the likeliest character."),
    option("--top-k", type=COUNT, metavar="K", help="Draw from the K likeliest characters only."),
    option("--seed", type=SEED, help="The same seed gives the same text."),
    option("--count", type=COUNT, default=1, show_default=True, help="Texts to draw."),
    option("--text", **place("PATH"), help="Use what was last trained on this text."),
    WEIGHTS_OPTION,
    BACKEND_OPTION,
)
def sample_charrnn(
    echo: Echo, prompt: str, seed: int | None, count: int, text: str | None, path: str | None, **how: Any
) -> Any:
    """Streams text, a character at a time."""
    from keras_examples import weights
    from keras_examples.show.text import generate

    source = weights.find(weights.run_name("charrnn", text), path)
    model, metadata = weights.restore(source, "charrnn")
    vocabulary = weights.vocabulary_of(source, metadata)
    prompt = sys.stdin.read() if prompt == "-" else prompt
    if not path:
        click.echo(f"weights {source}", err=True)  # not into the text
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


@command(main, "weights", "weights/mnist-cnn.weights.h5", click.Argument(["path"], **place("PATH")))
def show_weights(echo: Echo, path: str) -> Any:
    """Shows what is in a weights file: the metadata, and each tensor's name, shape and type."""
    from keras_examples.weights import describe

    report = describe(path)
    for name, value in report["metadata"].items():
        echo(f"{name}: {json.dumps(value)}")
    for tensor in report["tensors"]:
        echo(f"{tensor['name']}  {'×'.join(map(str, tensor['shape']))}  {tensor['dtype']}")
    return report


@command(main, "results", "", DATA_OPTIONS[1], *DEVICE_OPTIONS)
def results(echo: Echo, data_dir: str) -> Any:
    """Measures the weights that ship with the project on the real test data."""
    from keras_examples import weights
    from keras_examples.recipes import RECIPES
    from keras_examples.show import reports
    from keras_examples.training import fitting as training

    rows = {}
    for example in RECIPES:
        path = weights.shipped(example)
        rows[example] = training.evaluate(example, data="real", data_dir=data_dir, path=path)
        echo(reports.result(rows[example], weights.describe(path)["metadata"]["seeds"]))
    return rows


@command(
    main,
    "demo",
    "--port 8000",
    option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 lets the network in."),
    option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="Port to listen on."),
    *DEVICE_OPTIONS,
)
def demo(echo: Echo, host: str, port: int) -> None:
    """Serves a page to draw digits on, drop photos on and have texts continued, until Ctrl-C."""
    if not find_spec("gradio"):
        raise click.ClickException("The page needs gradio. Received: no such package. Run `pip install -e '.[demo]'`.")
    from keras_examples.show.demo import serve

    serve(host, port, echo)


@main.group("datasets")
def datasets_group() -> None:
    """What data is there; fetch and verify it."""


NAMES = ("mnist", "cifar10", "tinyshakespeare")
DATA_DIR_OPTION = DATA_OPTIONS[1]


@command(datasets_group, "list", "", DATA_DIR_OPTION)
def list_datasets(echo: Echo, data_dir: str) -> Any:
    """Lists the data sets, and which of their files are missing."""
    from keras_examples.data import status

    report = {}
    for name in NAMES:
        state, files, missing = status(name, data_dir)
        report[name] = {"state": state, "files": [*map(str, files)], "missing": [*map(str, missing)]}
        echo(f"{name}: {state}")
        for path in files:
            echo(f"  {path}{' (missing)' if path in missing else ''}")
    return report


@command(datasets_group, "fetch", "mnist", click.Argument(["name"], type=click.Choice(NAMES)), DATA_DIR_OPTION)
def fetch_dataset(echo: Echo, name: str, data_dir: str) -> Any:
    """Downloads the files of a data set that are missing, and checks their hashes."""
    from keras_examples.data import fetch

    fetched = [str(path) for path in fetch(name, data_dir)]
    echo(f"{name}: {', '.join(fetched) if fetched else 'nothing was missing'}")
    return {"fetched": fetched}


@command(datasets_group, "verify", "mnist", click.Argument(["name"], type=click.Choice(NAMES)), DATA_DIR_OPTION)
def verify_dataset(echo: Echo, name: str, data_dir: str) -> Any:
    """Reads a data set whole and compares its files with the published ones."""
    from keras_examples.data import verify

    findings = {str(path): finding for path, finding in verify(name, data_dir).items()}
    for path, finding in findings.items():
        echo(f"{path}: {finding}")
    return findings


@command(main, "devices", "", BACKEND_OPTION)
def devices(echo: Echo) -> Any:
    """Shows which device would be used, and why."""
    from keras_examples.devices import choose

    chosen = choose()
    echo(f"{chosen.backend} on {chosen.name} ({chosen.description}): {chosen.reason}")
    if chosen.hint:
        echo(chosen.hint)
    return chosen._asdict()


@command(
    main,
    "greeks",
    "--forward 105 --strike 100 --volatility 0.2 --maturity 0.5",
    option("--forward", type=float, default=100, show_default=True, help="Forward price."),
    option("--strike", type=float, default=100, show_default=True, help="Price that the call pays for it."),
    option("--volatility", type=float, default=0.3, show_default=True, help="A year; 0.3 is 30 %."),
    option("--maturity", type=float, default=1, show_default=True, help="Years left."),
    option("--rate", type=float, default=0.01, show_default=True, help="Continuously compounded; 0.01 is 1 %."),
    *DEVICE_OPTIONS,
)
def greeks(echo: Echo, **inputs: float) -> Any:
    """Prices a European call on a forward in Black's model, with its derivatives by automatic differentiation."""
    from keras_examples import greeks

    report = {name: float(figure) for name, figure in greeks.greeks(**inputs)._asdict().items()}
    figures = [f"{figure:z.4f}" for figure in report.values()]
    for name, figure in zip(report, figures):
        echo(f"{name:5}  {figure:>{max(map(len, figures))}}")
    return report


@command(main, "tensors", "", *DEVICE_OPTIONS)
def tensors(echo: Echo) -> Any:
    """Shows first steps with tensors: the code to read is keras_examples/tensors.py."""
    from keras_examples.tensors import tour

    report = {}
    for step, result in tour():
        report[step] = result
        echo(f"{step} → {result}")
    return report


if __name__ == "__main__":
    main()
