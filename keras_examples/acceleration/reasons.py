"""Why a model stays stock Keras, and where that is so in the user's code."""

import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType

import keras
import numpy as np
import torch

HERE, PYTHON = os.path.dirname(__file__) + os.sep, os.path.dirname(os.__file__) + os.sep
# Code without a file that is no user's, unlike what is typed at a prompt.
MADE = "<frozen", "<__array_function__", "<eval_with_key>"
LIBRARIES = (HERE, *MADE, *(os.path.dirname(str(module.__file__)) + os.sep for module in (keras, torch, np)))
OWNERS = (keras.Layer, keras.metrics.Metric, keras.losses.Loss, keras.regularizers.Regularizer)


def is_library(file: str) -> bool:
    """Whether code is Keras's, torch's, NumPy's, Python's or ours, and not the user's."""
    return file.startswith(LIBRARIES) or (file.startswith(PYTHON) and "-packages" not in file)


def is_ours(thing: object) -> bool:
    """Whether a thing is of a class of this package's."""
    return type(thing).__module__.startswith(__package__.partition(".")[0])


def frames(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    """The frames of the step under way, from the innermost to the one that began it."""
    while frame and not (frame.f_code.co_name == "_run_stock" and frame.f_code.co_filename.startswith(HERE)):
        yield frame, frame.f_lineno
        frame = frame.f_back


def whereabouts(frames: Iterable[tuple[FrameType, int]]) -> str:
    """The innermost layer, metric, loss or regularizer of frames, and the innermost line that is the user's."""
    owner = place = ""
    for frame, line in frames:
        thing, file = frame.f_locals.get("self"), frame.f_code.co_filename
        if not owner and isinstance(thing, OWNERS) and not isinstance(thing, keras.Model):
            owner = f", in {' '.join(filter(None, (getattr(thing, 'name', ''), f'({type(thing).__name__})')))}"
        if not (place or is_library(file)):
            place = f", in {frame.f_code.co_name} at {os.path.basename(file)}:{line}"
    return owner + place


def explained(error: BaseException) -> str:
    """An exception's reason and whereabouts, of the innermost that it came of."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    message = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
    return message + whereabouts([*traceback.walk_tb(error.__traceback__)][::-1])


def user_level() -> int:
    """The `stacklevel` with which the caller warns of the innermost line of the user's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and is_library(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    return level
