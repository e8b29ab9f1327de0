"""Go on with a run that was interrupted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_examples import weights
from keras_examples.training.checkpoints import Checkpoints, read_run
from keras_examples.training.fitting import fit

MAY_CHANGE = ("data_dir", "text", "save_config", "plot", "log_dir")  # a checkpoint knows its data by their hash


def resume(
    example: str,
    *,
    save: str | Path | None = None,
    echo: Callable[[str], None] = print,
    **given: Any,
) -> dict[str, Any]:
    """Goes on with an interrupted run from its checkpoint, to the weights that it would have had, to the bit.

    Args:
        example: Example id, such as `mnist-cnn`.
        save: Where the run's weights were to go, if that was said.
        echo: Takes each line of the report.
        **given: Arguments of `fit`. The run keeps those it was started with, so that none is needed; those that say
            otherwise are refused, but for `data_dir` and `text`, since the data may have moved, and for
            what is only written: `save_config`, `plot` and `log_dir`.

    Returns:
        The report of `fit`.

    Raises:
        ValueError: other arguments, data or device than the run was started with, or a damaged checkpoint.
        OSError: no checkpoint, and what `fit` raises.
    """
    source = given.get("data", "auto")
    sources = ("real", "synthetic") if source == "auto" else (source,)
    name = weights.run_name(example, given.get("text"))
    paths = [save] if save else [weights.default_path(name, source) for source in sources]
    kept = [Checkpoints(path) for path in paths]
    found = next((candidate for candidate in kept if candidate.present()), None)
    if not found:
        missing = " and ".join(str(candidate.newest) for candidate in kept)
        raise FileNotFoundError(
            f"No checkpoint to go on from. Received: {missing} missing. A run that has finished leaves none: train "
            "without --resume."
        )
    checkpoint = found.choose()
    if checkpoint != found.newest:
        echo(f"{found.newest} is missing or damaged: going on from {checkpoint}")
    run = read_run(checkpoint)
    _check_given(example, given, run)
    options = run["options"] | {name: given[name] for name in MAY_CHANGE if name in given}
    return fit(example, save=save, checkpoint=checkpoint, echo=echo, **options)


def _check_given(example: str, given: dict[str, Any], run: dict[str, Any]) -> None:
    """Raises ValueError if arguments say otherwise than those that a run was started with."""
    known = {"example": run["example"]} | run["options"] | run["options"]["sizes"]
    wanted = {"example": example} | given | given.get("sizes", {})
    for name, value in wanted.items():
        value = json.loads(json.dumps(value, default=str))
        if name not in ("sizes", *MAY_CHANGE) and value != known.get(name) and (name, value) != ("data", "auto"):
            raise ValueError(
                f"The run was started otherwise. Received: {name}={value!r}, was {known.get(name)!r}. Leave it out, "
                "or train anew without --resume: what a run was started with stays, even its epochs, since the "
                "learning rate follows their number."
            )
