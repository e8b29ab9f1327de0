"""The captured training step: Keras's own `fit`, `evaluate` and `predict` at the speed of hand-written PyTorch.

Most of a small model's step in stock Keras is Python, and much of a convolutional one's is copying between memory
layouts. So the first batch of each shape is run while every operation that reaches torch's kernels is written down
(forward, loss, gradients, metrics), and every later batch replays the recording. Variables are inputs of the recording
and are updated in place, the Keras optimizer's own included, so saving, resuming and callbacks see what they would see
in stock Keras.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import keras

from keras_examples.acceleration.internals import keep_freed_memory
from keras_examples.acceleration.loops import Logs, lean, with_logs
from keras_examples.acceleration.steps import Options, StepFunction, overridden
from keras_examples.acceleration.watch import Watch

MODES = ("train", "test", "predict")
ON_BATCH = ("train_on_batch", "test_on_batch")


def accelerate(
    model: keras.Model,
    *,
    exchange: Callable[..., Any] | None = None,
    around_update: Callable[..., None] | None = None,
    cuda_graph: bool = False,
) -> keras.Model:
    """Makes `fit`, `evaluate` and `predict` of a compiled model replay captured steps.

    What comes of it is what comes of stock Keras, to rounding. A model for which that cannot be had stays stock Keras,
    and a warning says why and where. `compile()` makes a model stock Keras again: accelerate it anew afterwards.

    Attributes of layers, losses, metrics and the optimizer may change between epochs, calls of `fit`, `evaluate` and
    `predict`, and by a callback between batches. Each change records anew: make what changes often a `keras.Variable`.

    On Linux glibc keeps freed memory for the next step from then on, in the whole process.

    Args:
        model: A compiled model.
        exchange: Where several processes train together, what makes their gradients and metrics those of one process:
            from `gradients, states, before, count` to gradients and states. A model that would stay stock Keras raises.
        around_update: What a subclass of SGD or Adam does around its base class's step: called with that step,
            gradients and variables.
        cuda_graph: Whether to launch a step on an NVIDIA GPU as one CUDA graph; little measured, so not the default.

    Returns:
        The model.

    Raises:
        ValueError: If the model is not compiled.
    """
    if not model.compiled:
        raise ValueError(f"Call `compile()` before `accelerate()`. Received: model={model.name}")
    _undo(model)
    if keras.backend.backend() != "torch":
        warnings.warn(
            f"{model.name} is not accelerated: the backend is {keras.backend.backend()}, not torch.", stacklevel=2
        )
        return model
    keep_freed_memory()
    watch, logs, options = Watch(model), Logs(), Options(exchange, around_update, cuda_graph)

    def look() -> None:
        watch.begun += 1

    def begin(function: StepFunction, force: bool = False) -> None:
        look()
        name = f"{function.mode}_function"
        if getattr(model, name) is None:  # as after `quantize`
            setattr(model, name, function)

    def begin_epoch(reset_metrics: Callable[[], None] = model.reset_metrics) -> None:
        look()
        reset_metrics()

    def compile(*args: Any, **kwargs: Any) -> None:
        _undo(model)
        model.compile(*args, **kwargs)

    own: dict[str, Any] = {"reset_metrics": begin_epoch, "compile": compile}
    own |= {name: lean(model, name, logs, look) for name in ("fit", "evaluate") if not overridden(model, name)}
    own |= {name: with_logs(model, name, logs) for name in ON_BATCH if not overridden(model, name)}
    for mode in MODES:
        own[f"{mode}_function"] = function = StepFunction(model, mode, options, watch, logs)
        own[f"make_{mode}_function"] = partial(begin, function)
    vars(model).update(own, _accelerated=own)
    return model


def _undo(model: keras.Model) -> None:
    """Makes a model stock Keras again."""
    own = vars(model)
    for name, thing in own.pop("_accelerated", {}).items():
        if own.get(name) is thing:
            del own[name]
            if name in [f"{mode}_function" for mode in MODES]:
                own[name] = None
