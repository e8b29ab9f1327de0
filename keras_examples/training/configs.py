"""The options of a run as a TOML file, which `fit --config` reads."""

import json
from pathlib import Path
from typing import Any

from keras_examples.files import whole_file

WITHOUT_OPTION = {"sizes", "vocabulary_size", "accelerated", "clip_norm", "centre", "shift", "flip"}


def write(path: str | Path, example: str, options: dict[str, Any]) -> None:
    """Writes the options of a run under the names that they have on the command line.

    Args:
        path: The file. Its folder is made if it is missing.
        example: Example id, such as `mnist-cnn`.
        options: Arguments of `training.fit`; None is left out.

    Raises:
        OSError: the file cannot be written; what was there before is intact.
    """
    command, _, arch = example.partition("-")
    named = {"arch": arch or None} | options | options["sizes"] | {"accelerate": options["accelerated"]}
    lines = [f"# python cli.py {command} --config FILE"]
    for name, value in named.items():
        if value is not None and name not in WITHOUT_OPTION:
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # which TOML wants, JSON does not
            lines.append(f"{name.replace('_', '-')} = {text}")
    with whole_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", "utf-8")
