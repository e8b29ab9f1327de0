"""What a run writes for other tools as it goes: TensorBoard's event files, and a table."""

import csv
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from keras_examples.files import whole_file
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
