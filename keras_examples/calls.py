"""What a person types to call the program."""

import shlex
import sys
from pathlib import Path

from keras_examples.examples import EXAMPLES


def program() -> str:
    """How the program was called: by its name where it is installed, as a module, else as the script."""
    path = Path(sys.argv[0])
    if path.stem == "keras-examples":
        return path.stem
    return "python -m keras_examples" if path.parts[-2:] == ("keras_examples", "__main__.py") else "python cli.py"


def call(example: str, command: str = "", **options: object) -> str:
    """The line that has an example do something, with the options that are not None, such as `weights="cnn.keras"`."""
    row = EXAMPLES[example]
    first = next(other for other in EXAMPLES.values() if other.command == row.command)
    given = {"arch": None if row is first else row.arch} | options
    words = [f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in given.items() if value]
    return " ".join(filter(None, [program(), row.command, command, *words]))


def fetching(name: str, data_dir: str | Path = "datasets") -> str:
    """The line that downloads a data set."""
    folder = "" if str(data_dir) == "datasets" else f" --data-dir {shlex.quote(str(data_dir))}"
    return f"{program()} datasets fetch {name}{folder}"
