"""What makes a function a command: options, one-line errors, JSON.

Nothing heavier than Click is imported until a command runs.
"""

import contextlib
import functools
import inspect
import io
import json
import math
import os
import re
import signal
import sys
import tomllib
import traceback
import warnings
from collections.abc import Callable
from dataclasses import fields
from importlib.util import find_spec
from types import FrameType
from typing import Any

import click
from click.core import ParameterSource

from keras_examples import ASKED
from keras_examples.examples import Example, Recipe
from keras_examples.ranges import CHOICES, OF_SIZES, RANGES, WORDS

Choice = functools.partial(click.Choice, case_sensitive=False)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def reported(example: str) -> Decorator:
    """Makes a function that returns its report a command's, with `--json`, `--traceback` and one-line errors.

    Its help ends with an example of it. Under `--json` what it prints goes to standard error.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @click.option("--json", "as_json", is_flag=True, help="Print one JSON object, the report to standard error.")
        @click.option("--traceback", "show_traceback", is_flag=True, help="Show where an error came from.")
        @functools.wraps(function)
        def command(as_json: bool, show_traceback: bool, **arguments: Any) -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, interrupt)
            sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  closed: no other file becomes it
            for stream in (sys.stdin, sys.stdout, sys.stderr):
                take_any_character(stream)
            # Keras turns torch's tensors into arrays in a way that NumPy will drop.
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            warnings.filterwarnings("ignore", "RNN module weights")  # cuDNN's kernel puts them together at each step
            shown = sys.stderr if as_json else sys.stdout
            try:
                if "device" in arguments:  # Keras reads its device once, when it is imported
                    from keras_examples.devices import choose, import_keras

                    choose(arguments.pop("device"))
                    import_keras()
                with contextlib.redirect_stdout(Colourless(shown) if os.environ.get("NO_COLOR") else shown):
                    report = function(**arguments)
                if as_json:
                    click.echo(json.dumps(finite(report)))
                if report and report.get("interrupted"):
                    sys.exit(130)
                if report and report.get("failed"):
                    sys.exit(1)
            except (click.ClickException, click.exceptions.Exit):
                raise
            except KeyboardInterrupt:
                click.echo("Interrupted.", err=True)
                sys.exit(130)
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: end quietly
            except Exception as error:
                for number in (signal.SIGINT, signal.SIGTERM):  # torchrun's, when a process died: the error says more
                    signal.signal(number, lambda *_: None)
                if show_traceback:
                    traceback.print_exc()
                raise click.ClickException(one_line(error)) from error

        command.__doc__ = f"{inspect.getdoc(function)}\n\n\b\npython cli.py {example}"
        return command

    return decorate


def one_line(error: Exception) -> str:
    """What is wrong in one line, also where the system alone says so."""
    if isinstance(error, OSError) and error.strerror:
        remedy = "Check the path, who may use it, and the room on the disk"
        return f"Cannot use a file: {error.strerror}. Received: path={str(error.filename or '')!r}. {remedy}."
    return " ".join(str(error).split()) or type(error).__name__


def take_any_character(stream: Any) -> None:
    """Has what goes through a file or a pipe be UTF-8, which Windows has not, unless another encoding was asked for."""
    if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
        stream.reconfigure(encoding=os.environ.get("PYTHONIOENCODING", "utf-8").split(":")[0] or None, errors="replace")


class Colourless:
    """A stream that leaves out the colours of Keras's progress bars."""

    def __init__(self, stream: Any):
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        return self.stream.write(re.sub(r"\x1b\[\d*m", "", text))


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, but amid an import leaves at once: NumPy and torch lose or crash on the exception."""
    while frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            os.write(2, b"Interrupted.\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def finite(report: Any) -> Any:
    """The report with None for numbers that JSON does not know."""
    if isinstance(report, dict):
        return {key: finite(value) for key, value in report.items()}
    if isinstance(report, (list, tuple)):
        return [finite(value) for value in report]
    return None if isinstance(report, float) and not math.isfinite(report) else report


class Widths(click.ParamType):
    name = "N,N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        parts, widths = value.split(",") if isinstance(value, str) else [*map(str, value)], OF_SIZES[int]
        if not all(part.isascii() and part.isdecimal() and int(part) in widths for part in parts):
            text = f"a list of whole numbers from {widths.least} to {widths.most}, such as 128,64"
            self.fail(f"{value!r} is not {text}.", param, ctx)
        return tuple(map(int, parts))


class Floats(click.FloatRange):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if math.isnan(number):  # which Click finds in every range
            self.fail(f"{number} is not in the range {self._describe_range()}.", param, ctx)
        return number


def options(*decorators: Decorator, group: str | None = None) -> Decorator:
    """Several decorators as one, in this order; the help shows what is in no group yet in this one."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        count = len(getattr(function, "__click_params__", ()))
        for decorator in reversed(decorators):
            function = decorator(function)
        for param in getattr(function, "__click_params__", [])[count:]:
            param.group = getattr(param, "group", None) or group
        return function

    return decorate


def choose_backend(ctx: click.Context, param: click.Parameter, name: str) -> None:
    """Tells Keras, which reads its backend when it is imported."""
    if ctx.get_parameter_source("backend") is ParameterSource.ENVIRONMENT:  # which a file of options goes before
        name = (ctx.default_map or {}).get("backend", name)
    if not find_spec(name):
        raise click.ClickException(f"{name} is not installed. Received: --backend {name}. Run `pip install {name}`.")
    if ASKED and name != ASKED:
        click.echo(f"--backend {name} is used, not KERAS_BACKEND={ASKED}", err=True)
    os.environ["KERAS_BACKEND"] = name
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reports on itself at length


def read_config(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    """Has options that are not on the command line come from a TOML file."""
    if path is None:
        return
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = tomllib.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise click.BadParameter(f"Cannot read {path!r}: {getattr(error, 'strerror', None) or error}.") from error
    known = {name: other for other in ctx.command.params for name in other.opts if other is not param}
    ctx.default_map = {}
    for key, value in content.items():
        if (option := known.get(f"--{key}")) is None:
            raise click.BadParameter(f"{path!r} has {key!r}, which is no option of {ctx.command_path!r}.")
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        try:  # as typed on the command line, where 3.5 is no whole number
            converted = option.type_cast_value(ctx, text)
        except click.BadParameter as error:
            raise click.BadParameter(f"{key!r} in {path!r}: {error.message} Received: {value!r}.") from error
        if {type(value), type(converted)} not in ({type(value)}, {int, float}, {list, tuple}):
            words = WORDS[type(converted)]
            raise click.BadParameter(f"{key!r} in {path!r} has to be {words}. Received: {value!r}.")
        if option.name in ctx.default_map:
            raise click.BadParameter(
                f"{path!r} gives {' and '.join(option.opts)}, which are one option. Leave one out."
            )
        ctx.default_map[str(option.name)] = converted


def recipe_options(rows: dict[str, Example]) -> Decorator:
    """Options for the sizes of a model and the fields of a recipe; the help shows what each architecture has."""
    sizes = {name: size for row in rows.values() for name, size in row.sizes.items()}
    of_sizes = {tuple: Widths(), float: Floats(*OF_SIZES[float]), int: click.IntRange(*OF_SIZES[int])}
    kinds: dict[str, click.ParamType] = {name: of_sizes[type(size.default)] for name, size in sizes.items()}
    for item in fields(Recipe):
        if item.name in CHOICES:
            kinds[item.name] = Choice(CHOICES[item.name])
        elif item.name in RANGES:
            kinds[item.name] = (click.IntRange if item.type is int else Floats)(*RANGES[item.name])
    defaults = {
        arch: vars(row.recipe) | {name: size.default for name, size in row.sizes.items()} for arch, row in rows.items()
    }

    def option(flag: str, help: str, *others: str) -> Decorator:
        name = flag.split("/")[0][2:].replace("-", "_")
        shown = {arch: str(row[name]).lower().strip("(,)") for arch, row in defaults.items() if name in row}
        if len(shown) == len(rows) and len({*shown.values()}) == 1:
            shown = {"": shown.popitem()[1]}
        text = ", ".join(f"{arch} {value}".strip() for arch, value in shown.items())
        return click.option(flag, *others, type=kinds.get(name), default=None, help=f"{help}  [default: {text}]")

    architecture = [option(f"--{name.replace('_', '-')}", size.help) for name, size in sizes.items()]
    training = [
        option("--epochs", "Passes over the training data."),
        option("--batch-size", "Samples a step."),
        option("--learning-rate", "Peak of the one-cycle schedule.", "--lr"),
        option("--optimizer", "How steps are taken."),
        option("--weight-decay", "How much of all weights a step takes off, as AdamW."),
        option("--clip-norm", "Largest norm of the gradient; 0 does not clip."),
        option("--centre", "Brightness that counts as zero in the first layer's steps."),
        option("--augment/--no-augment", "Shift (and flip photos) at random in training."),
        option("--shift", "Largest shift in pixels when augmenting."),
        option("--flip/--no-flip", "Mirror half of the images when augmenting."),
        option("--validation-split", "Last fraction of the training data to validate on; 0: the test data."),
    ]
    return options(options(*architecture, group="Model"), options(*training, group="Training"))
