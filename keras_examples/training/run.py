"""A run: what was asked for, under which conditions it trains, and how far it has come."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras

from keras_examples import weights
from keras_examples.examples import EXAMPLES, Options
from keras_examples.files import check_writable
from keras_examples.ranges import check, plain
from keras_examples.training import processes

# What only the user says: no file that is read decides what is written.
WRITTEN = ("save", "save_config", "log_dir", "plot")


@dataclass
class Run:
    """A run of `fit`. Its checkpoints hold all of it but what is written.

    Attributes:
        example: Example id, such as `mnist-cnn`.
        options: What was asked for; `data` is `real` or `synthetic` once the data is there.
        conditions: What has to be the same for the run to go on after an interruption, in words.
        epoch: Epochs completed.
        step: Steps taken of the epoch after those.
        seconds: What all that took.
        history: Figures of each epoch, by name.
        metrics: State of the metrics amid an epoch.
        checkpoint: The file that the run goes on from, or None.
    """

    example: str
    options: Options
    conditions: dict[str, str] = field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: dict[str, list[float]] = field(default_factory=dict)
    metrics: list[float] = field(default_factory=list)
    checkpoint: Path | None = None

    @classmethod
    def begin(cls, example: str, given: Mapping[str, Any]) -> "Run":
        """A new run of an example by its recipe, but for the options that are given."""
        known = {option.name for option in fields(Options)}
        if example not in EXAMPLES:
            raise ValueError(f"No such example. Received: {example}. Choose one of {', '.join(EXAMPLES)}.")
        if unknown := sorted(given.keys() - known):
            raise ValueError(f"No such option of fit. Received: {unknown[0]}. Known are {', '.join(sorted(known))}.")
        paths = {name: str(given[name]) for name in ("data_dir", "text", "load", *WRITTEN[:3]) if given.get(name)}
        options = {**vars(EXAMPLES[example].recipe), **plain(dict(given)), **paths}
        check(options)
        return cls(example, Options(**options))

    @property
    def path(self) -> Path | None:
        """Where the weights go, if anywhere."""
        if self.options.dry_run:
            return None
        name = weights.run_name(self.example, self.options.text)
        return Path(self.options.save or weights.default_path(name, self.options.data))

    @property
    def epochs(self) -> int:
        return 1 if self.options.dry_run else self.options.epochs

    @property
    def best_epoch(self) -> int:
        """The epoch, from 1, whose weights are kept: that of the least validation loss, or the last one."""
        losses = self.history.get("val_loss", [])
        return losses.index(min(losses)) + 1 if self.options.early_stopping and losses else self.epoch

    @property
    def stopped_early(self) -> bool:
        patience = self.options.early_stopping
        return patience is not None and self.epoch - self.best_epoch >= patience

    @property
    def interrupted(self) -> bool:
        return self.epoch < self.epochs and not self.stopped_early

    def remembered(self) -> dict[str, Any]:
        """The options that files hold."""
        return {name: value for name, value in asdict(self.options).items() if name not in WRITTEN}

    def check(self) -> None:
        """Refuses, before any data is fetched, what would fail later. Raises ValueError or OSError."""
        options = self.options
        if limit := keras.config.max_epochs() or keras.config.max_steps_per_epoch():
            raise ValueError(f"Keras would cut it short, by keras.json or KERAS_MAX_…. Received: {limit}. Unset that.")
        if options.batch_size < processes.size:
            raise ValueError(
                f"Each of {processes.size} processes needs a sample of a batch. Received: --batch-size "
                f"{options.batch_size}. Choose a larger batch."
            )
        if processes.size > 1 and not options.accelerate:
            raise ValueError(
                "Stock Keras trains in one process. Received: --no-accelerate. Leave it out, or start without torchrun."
            )
        if options.dry_run and (written := options.save or options.save_config or options.log_dir):
            raise ValueError(f"A dry run writes nothing. Received: --dry-run and {written}. Leave one of them out.")
        if self.path:
            weights.check_target(self.path)
        if options.load and not self.checkpoint:
            weights.describe(options.load)
        if options.log_dir:
            if not find_spec("tensorboard"):
                raise ValueError("Logs need TensorBoard. Received: --log-dir. Run `pip install -e '.[logs]'`.")
            check_writable(Path(options.log_dir, "history.csv"))
        if options.save_config:
            if self.path and Path(options.save_config).resolve() == self.path.resolve():
                raise ValueError(f"Two files of one name. Received: --save and --save-config {self.path}. Rename one.")
            check_writable(options.save_config)

    def check_conditions(self, conditions: dict[str, str]) -> None:
        """Takes down the conditions of a new run; raises ValueError if one that goes on had others."""
        for name, value in conditions.items():
            if self.checkpoint and (then := self.conditions.get(name)) != value:
                raise ValueError(
                    f"The run cannot go on as it began, its {name} is another. Received: {value}, was {then}. Give it "
                    "back, or train anew without --resume."
                )
        self.conditions = conditions
