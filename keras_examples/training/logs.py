"""What a run writes for other tools as it goes: TensorBoard's event files, and a table."""

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from keras_examples.files import whole_file
from keras_examples.training.callbacks import Progress


def check_tensorboard() -> None:
    """Raises ValueError if event files cannot be written here."""
    if not find_spec("tensorboard"):
        raise ValueError("Logs need TensorBoard. Received: --log-dir. Run `pip install -e '.[logs]'`, or leave it out.")


class Logs(keras.callbacks.Callback):
    """Writes each epoch's figures, and a sample of what was learned, to a folder; a run that goes on adds to it.

    Args:
        folder: The folder, where `history.csv` has a row for each epoch.
        progress: The run, which comes before this among the callbacks.
        options: The run's options.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, progress: Progress, options: dict[str, Any]):
        from torch.utils.tensorboard import SummaryWriter  # on every backend: Keras has no writer of its own
        from torch.utils.tensorboard.summary import hparams

        super().__init__()
        self.folder, self.progress = Path(folder), progress
        # Readers forget what an earlier process wrote of epochs that are now trained again.
        self.writer = SummaryWriter(str(folder), purge_step=progress.epoch + 1)
        simple = {
            name: value if isinstance(value, (bool, int, float)) else str(value) for name, value in options.items()
        }
        if not progress.epoch:
            for summary in hparams(simple, {"val_loss": 0.0}):
                self.writer._get_file_writer().add_summary(summary)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        history = self.progress.history
        for name, values in history.items():
            self.writer.add_scalar(name, values[-1], epoch + 1)
        if text := self.progress.task.preview(self.model, self.progress.vocabulary):
            self.writer.add_text("sample", f"```\n{text}\n```", epoch + 1)
        self.writer.flush()
        with whole_file(self.folder / "history.csv") as temporary:
            with temporary.open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["epoch", *history])
                table.writerows([place, *row] for place, row in enumerate(zip(*history.values()), 1))

    def finish(self, picture: str | Path | None) -> None:
        """Adds the picture of the run, if there is one, and ends the files."""
        if picture:
            with Image.open(picture) as image:
                self.writer.add_image("run", np.asarray(image.convert("RGB")), self.progress.epoch, dataformats="HWC")
        self.writer.close()
