"""The command line: parse, one library call, echo.

Nothing heavier than Click is imported until a command runs.
"""

import os
import signal
import sys

if __name__ == "__main__" or os.path.basename(sys.argv[0]) == "keras-examples":  # until a command takes over
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))

import json
from importlib.util import find_spec
from typing import Any

import click
from click import echo

from keras_examples import ranges
from keras_examples.commands import Commands, DefaultCommands
from keras_examples.console import Choice, choose_backend, options, read_config, recipe_options, reported
from keras_examples.examples import COMMANDS, EXAMPLES

COUNT, SEED = click.IntRange(*ranges.COUNT), click.IntRange(*ranges.SEED)
PATH, FOLDER = click.Path(), click.Path(file_okay=False)


data_dir_option = click.option("--data-dir", type=FOLDER, default="datasets", help="Folder of the data files.")
data_options = options(
    click.option(
        "--data",
        type=Choice(ranges.CHOICES["data"]),
        default="auto",
        help="auto: local files, else download, else made up here, which every report then says.",
    ),
    data_dir_option,
    group="Data",
)
backend_option = options(
    click.option(
        "--backend",
        type=Choice(["torch", "jax", "tensorflow"]),
        default="torch",
        envvar="KERAS_BACKEND",
        show_envvar=True,
        expose_value=False,
        callback=choose_backend,
        help="What Keras computes with.",
    ),
    group="Device",
)
device_options = options(
    backend_option,
    click.option(
        "--device",
        type=Choice(["auto", "cpu", "cuda", "mps"]),
        default="auto",
        help="auto: cuda if there is one, else mps, else cpu.",
    ),
    group="Device",
)
text_option = click.option("--text", type=PATH, help="UTF-8 text to use instead of tinyshakespeare.")
weights_option = options(
    click.option(
        "--weights",
        "path",
        type=PATH,
        help="Weights to use, or shipped.  [default: last trained on real data, else shipped, else on synthetic]",
    ),
    group="Model",
)
seed_option = click.option("--seed", type=SEED, default=0, help="Seed of all that is random.")
name_argument = click.argument("name", type=Choice(sorted({row.dataset for row in EXAMPLES.values()})))
picture_options = options(
    click.option("--count", type=click.IntRange(1, 100), default=10, help="Test images to show."),
    seed_option,
    click.option("--output-dir", type=FOLDER, default="samples", help="Folder of the pictures."),
    weights_option,
    data_options,
    device_options,
    group="Pictures",
)
generation_options = options(
    click.option("--prompt", default="", show_default=False, help="Text to continue; - reads it from standard input."),
    click.option("--length", type=COUNT, default=500, help="Characters to draw."),
    click.option("--temperature", type=float, default=0.8, help="0 takes the likeliest character."),
    click.option("--top-k", type=COUNT, help="Draw from the N likeliest characters only."),
    click.option("--top-p", type=float, help="Draw from the likeliest characters that make up this share, 0 to 1."),
    click.option("--stop", default="", show_default=False, help="End with the first occurrence of this text."),
    click.option("--seed", type=SEED, help="The same seed gives the same text."),
    click.option("--count", type=COUNT, default=1, help="Texts to draw."),
    weights_option,
    backend_option,
    group="Text",
)
training_options = options(
    click.option("--early-stopping", type=COUNT, help="Stop after N epochs without lower loss; keep the best."),
    click.option(
        "--precision", type=Choice(ranges.CHOICES["precision"]), default="float32", help="Of all but variables."
    ),
    seed_option,
    click.option("--limit", type=COUNT, help="Use the first N training samples."),
    click.option("--accelerate/--no-accelerate", default=True, help="On torch, replay captured steps."),
    group="Training",
)
run_options = options(
    click.option("--dry-run", is_flag=True, help="One batch, nothing saved."),
    click.option("--load", type=PATH, help="Start from these weights."),
    click.option("--save", type=PATH, help="Where the weights go.  [default: weights/<example>.weights.h5]"),
    click.option("--plot/--no-plot", default=True, help="Draw the run beside the weights, as <example>.png."),
    click.option("--log-dir", type=FOLDER, help="Write TensorBoard's files and history.csv there, epoch by epoch."),
    click.option("--resume", is_flag=True, help="Go on with an interrupted run, with the options it was started with."),
    click.option(
        "--config",
        type=PATH,
        callback=read_config,
        is_eager=True,
        expose_value=False,
        help="TOML file of options, such as batch-size = 64; those on the command line win.",
    ),
    click.option("--save-config", type=PATH, help="Write all options of this run to a TOML file for --config."),
    group="Run",
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="keras-examples")
def main() -> None:
    """Seven classic deep-learning models in Keras 3, torch first.

    \b
    python cli.py mnist --arch cnn --epochs 10
    python cli.py mnist evaluate --arch cnn
    python cli.py mnist sample --arch cnn

    These train, measure and save a model; measure it again, class by class; and show what it predicts. --help after a
    command says more.
    """


def add_example(command: str) -> None:
    """Adds the commands of the examples that share a name, told apart by `--arch`."""
    ids = {row.arch: example for example, row in EXAMPLES.items() if row.command == command}
    rows = {arch: EXAMPLES[example] for arch, example in ids.items()}
    first, *others = rows
    shown, task = f" --arch {others[-1]}" if others else "", rows[first].task
    arch_option = click.option("--arch", type=Choice([*rows]), default=first, help="Architecture.")
    which = options(*[options(arch_option, group="Model")] * bool(others))
    which = options(which, *[text_option] * (task == "NextCharacter"), group="Data")

    @main.group(command, cls=DefaultCommands, help=COMMANDS[command])
    def group() -> None:
        pass

    @group.command()
    @which
    @recipe_options(rows)
    @training_options
    @data_options
    @run_options
    @device_options
    @reported(f"{command} fit{shown} --epochs 10")
    def fit(resume: bool, plot: bool, arch: str = first, **values: Any) -> Any:
        """Trains, measures on the test data, saves the weights. What is not given comes from the recipe."""
        from keras_examples.show.reports import fitted
        from keras_examples.training import fit

        origin, explicit = click.get_current_context().get_parameter_source, ("COMMANDLINE", "DEFAULT_MAP")
        given = {name: value for name, value in values.items() if getattr(origin(name), "name", "") in explicit}
        if sizes := {name: given.pop(name) for row in rows.values() for name in row.sizes if name in given}:
            given["sizes"] = sizes
        report = fit(ids[arch], resume=resume, echo=echo, plot=plot, **given)
        echo(fitted(report, **given))
        return report

    @group.command()
    @which
    @weights_option
    @data_options
    @device_options
    @reported(f"{command} evaluate{shown}")
    def evaluate(arch: str = first, **given: Any) -> Any:
        """Measures trained weights on the test data."""
        from keras_examples.show.reports import evaluated
        from keras_examples.training import evaluate

        report = evaluate(ids[arch], **given)
        echo(evaluated(report))
        return report

    @group.command()
    @click.argument("target", metavar="PATH", type=PATH)
    @which
    @click.option(
        "--names",
        type=Choice(["candle", "tch", "keras"]),
        help="Whose names and layout a .safetensors file has.  [default: candle]",
    )
    @weights_option
    @backend_option
    @reported(f"{command} save {command}.safetensors{shown}")
    def save(target: str, names: str | None, path: str | None, arch: str = first, text: str | None = None) -> Any:
        """Writes trained weights to PATH. Its ending is the format: .weights.h5, .keras, .safetensors or .onnx."""
        from keras_examples.weights import convert, find, run_name

        if names and not target.lower().endswith(".safetensors"):
            raise click.UsageError(f"--names is for .safetensors files. Received: {target}. Leave it out.")
        source = find(run_name(ids[arch], text), path)
        metadata = convert(source, target, ids[arch], names, text)
        echo(f"{source} written to {target}")
        return {"example": metadata["example"], "data": metadata["data"], "weights": target}

    def classify(arch: str = first, **given: Any) -> Any:
        """Shows what the model reads in test images, or in yours."""
        from keras_examples.show.sampling import classify

        return classify(ids[arch], echo=echo, **given)

    def reconstruct(arch: str = first, **given: Any) -> Any:
        """Draws test images, or yours, over their reconstructions."""
        from keras_examples.show.sampling import reconstruct

        return reconstruct(ids[arch], echo=echo, **given)

    def continue_text(prompt: str, arch: str = first, **given: Any) -> Any:
        """Streams text, a character at a time."""
        from keras_examples.show.sampling import continue_text

        return continue_text(ids[arch], sys.stdin.read() if prompt == "-" else prompt, echo=echo, **given)

    image_option = click.option("--image", "images", type=PATH, multiple=True, help="Picture or folder; repeatable.")
    sample: Any
    sample, its_options = {
        "Classification": (classify, options(image_option, picture_options, group="Pictures")),
        "Reconstruction": (reconstruct, options(image_option, picture_options, group="Pictures")),
        "NextCharacter": (continue_text, generation_options),
    }[task]
    group.command("sample")(which(its_options(reported(f"{command} sample{shown}")(sample))))


for command in COMMANDS:
    add_example(command)


@main.command()
@click.argument("path", type=PATH)
@reported("weights weights/mnist-cnn.weights.h5")
def weights(path: str) -> Any:
    """Shows what is in a weights file: metadata, names and shapes."""
    from keras_examples.weights import describe

    report = describe(path)
    for name, value in report["metadata"].items():
        echo(f"{name}: {json.dumps(value)}")
    for tensor in report["tensors"]:
        echo(f"{tensor['name']}  {'×'.join(map(str, tensor['shape']))}  {tensor['dtype']}")
    return report


@main.command()
@data_dir_option
@device_options
@reported("results")
def results(data_dir: str) -> Any:
    """Measures the weights that come with the project."""
    from keras_examples.show.reports import result
    from keras_examples.training import evaluate
    from keras_examples.weights import describe, shipped

    report = {}
    for example in EXAMPLES:
        if (path := shipped(example)).is_file():
            report[example] = evaluate(example, data="real", data_dir=data_dir, path=path)
            echo(result(report[example], describe(path)["metadata"]["seeds"]))
        else:
            echo(f"{example:12}  no weights come with the project")
    return report


@main.command()
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 lets the network in.")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, help="Port to listen on.")
@device_options
@reported("demo --port 8000")
def demo(host: str, port: int) -> None:
    """Serves a page to draw on, drop photos on and write on."""
    if not find_spec("gradio"):
        raise click.ClickException("The page needs gradio. Received: no such package. Run `pip install -e '.[demo]'`.")
    from keras_examples.show.demo import serve

    serve(host, port, echo)


@main.group()
def datasets() -> None:
    """What data is there; fetch and verify it."""


@datasets.command("list")
@data_dir_option
@reported("datasets list")
def list_datasets(data_dir: str) -> Any:
    """Lists the data sets, and which of their files are missing."""
    from keras_examples.data import DATASETS, status

    report = {}
    for name in DATASETS:
        state, files, missing = status(name, data_dir)
        report[name] = {"state": state, "files": [*map(str, files)], "missing": [*map(str, missing)]}
        echo(f"{name}: {state}")
        for path in files:
            echo(f"  {path}{' (missing)' if path in missing else ''}")
    return report


@datasets.command()
@name_argument
@data_dir_option
@reported("datasets fetch mnist")
def fetch(name: str, data_dir: str) -> Any:
    """Downloads what is missing of a data set, and checks hashes."""
    from keras_examples.data import fetch

    fetched = [str(path) for path in fetch(name, data_dir)]
    echo(f"{name}: {', '.join(fetched) or 'nothing was missing'}")
    return {"fetched": fetched}


@datasets.command()
@name_argument
@data_dir_option
@reported("datasets verify mnist")
def verify(name: str, data_dir: str) -> Any:
    """Reads a data set whole, and compares it with what is published."""
    from keras_examples.data import verify

    findings = {str(path): finding for path, finding in verify(name, data_dir).items()}
    for path, finding in findings.items():
        echo(f"{path}: {finding}")
    return findings


@main.command()
@backend_option
@reported("devices")
def devices() -> Any:
    """Shows which device would be used, and why."""
    from keras_examples.devices import choose

    chosen = choose()
    echo(f"{chosen.backend} on {chosen.name} ({chosen.description}): {chosen.reason}")
    if chosen.hint:
        echo(chosen.hint)
    return chosen._asdict()


@main.command()
@click.option("--forward", type=float, default=100, help="Forward price.")
@click.option("--strike", type=float, default=100, help="Price that the call pays for it.")
@click.option("--volatility", type=float, default=0.3, help="A year; 0.3 is 30 %.")
@click.option("--maturity", type=float, default=1, help="Years left.")
@click.option("--rate", type=float, default=0.01, help="Continuously compounded; 0.01 is 1 %.")
@device_options
@reported("greeks --forward 105 --strike 100 --volatility 0.2")
def greeks(**inputs: float) -> Any:
    """Prices a European call, and differentiates the price."""
    from keras_examples.greeks import greeks

    report = {name: float(figure) for name, figure in greeks(**inputs)._asdict().items()}
    figures = [f"{figure:z.4f}" for figure in report.values()]
    for name, figure in zip(report, figures):
        echo(f"{name:5}  {figure:>{max(map(len, figures))}}")
    return report


@main.command()
@device_options
@reported("tensors")
def tensors() -> Any:
    """Shows first steps with tensors: keras_examples/tensors.py."""
    from keras_examples.tensors import tour

    report = {}
    for step, result in tour():
        report[step] = result
        echo(f"{step} → {result}")
    return report


if __name__ == "__main__":
    main(prog_name="python cli.py")
