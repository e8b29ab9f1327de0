"""What a run writes for people and other tools: a picture, TensorBoard's event files, a table, and its options."""

import csv
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from keras_examples.examples import EXAMPLES
from keras_examples.files import whole_file
from keras_examples.training import processes
from keras_examples.training.run import Run
from keras_examples.training.tasks import Data


class Logs(keras.callbacks.Callback):
    """Writes each epoch's figures, and a sample of what was learned, for TensorBoard and as a table.

    Args:
        run: The run, whose `Progress` comes before this among the callbacks. Its options say into which folder; one
            that goes on adds to what is there.
        data: What it learns from.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, run: Run, data: Data):
        from torch.utils.tensorboard import SummaryWriter  # on every backend: Keras has no writer of its own
        from torch.utils.tensorboard.summary import hparams

        super().__init__()
        self.run, self.data, self.folder = run, data, Path(str(run.options.log_dir))
        # Readers forget what an earlier process wrote of epochs that are now trained again.
        self.writer = SummaryWriter(str(self.folder), purge_step=run.epoch + 1)
        if not run.epoch:
            simple = {
                name: value if isinstance(value, (bool, int, float)) else str(value)
                for name, value in vars(run.options).items()
            }
            for summary in hparams(simple, {"val_loss": 0.0}):
                self.writer._get_file_writer().add_summary(summary)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        history = self.run.history
        for name, values in history.items():
            self.writer.add_scalar(name, values[-1], epoch + 1)
        if text := self.data.task.preview(self.model, self.data.dataset.vocabulary):
            self.writer.add_text("sample", f"```\n{text}\n```", epoch + 1)
        self.writer.flush()
        with whole_file(self.folder / "history.csv") as temporary:
            with temporary.open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["epoch", *history])
                table.writerows([place, *row] for place, row in enumerate(zip(*history.values()), 1))

    def finish(self, picture: Path | None) -> None:
        """Adds the picture of the run, if there is one, and ends the files."""
        if picture:
            with Image.open(picture) as image:
                self.writer.add_image("run", np.asarray(image.convert("RGB")), self.run.epoch, dataformats="HWC")
        self.writer.close()


def draw_run(
    path: Path | None, figures: dict[str, Any], model: keras.Model, data: Data, run: Run, echo: Callable[[str], None]
) -> Path | None:
    """Draws a run beside its weights. Whatever goes wrong is said, and raises nothing: the run is worth more."""
    if not (path and run.options.plot) or processes.rank:
        return None
    dataset, task = data.dataset, data.task
    title = f"{run.example} on {dataset.name} ({dataset.source} data): test loss {figures['loss']:.4f}"
    title += f", accuracy {figures['accuracy']:.2%}" if "accuracy" in figures else ""
    draw = partial(task.draw, model=model, arrays=data.test, names=dataset.vocabulary or dataset.class_names)
    picture = Path(str(path.with_suffix("")).removesuffix(".weights") + ".png")
    try:
        from keras_examples.show import plots  # matplotlib is not needed before

        plots.save_run(picture, title, run.history, task.curves, draw)
    except Exception as error:
        echo(f"no picture of the run: {error}")
        return None
    return picture


def write_config(run: Run) -> None:
    """Writes the options of a run as a TOML file, under their names on the command line. Raises OSError."""
    row, options = EXAMPLES[run.example], asdict(run.options)
    sizes = {name: value for name, value in options.pop("sizes").items() if name in row.sizes}
    path = Path(options.pop("save_config"))
    lines = [f"# python cli.py {row.command} --config FILE"]
    chosen = {name: run.conditions[name] for name in ("device", "backend")}
    for name, value in ({"arch": row.arch or None} | options | sizes | chosen).items():
        if value is not None:
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # which TOML wants, JSON does not
            lines.append(f"{name.replace('_', '-')} = {text}")
    with whole_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", "utf-8")
