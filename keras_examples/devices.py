"""Which device trains, and why: cuda, then mps, then cpu."""

import gc
import importlib
import os
import platform
import random
import shutil
import sys
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

DEVICES = ("auto", "cpu", "cuda", "mps")


class Device(NamedTuple):
    """A device: Keras's `backend`, the `name` (cpu, cuda or mps), what it is in words, why it was chosen, a hint."""

    backend: str
    name: str
    description: str
    reason: str
    hint: str


def choose(requested: str = "auto") -> Device:
    """Chooses one of `DEVICES` and tells Keras's backend, which reads it once: call this before importing Keras.

    Raises ValueError if the device is not there, or of no use to the backend.
    """
    if requested not in DEVICES:
        raise ValueError(f"No such device. Received: device={requested!r}. Choose one of {', '.join(DEVICES)}.")
    backend = os.environ["KERAS_BACKEND"]
    name, description = {"torch": _on_torch, "jax": _on_jax, "tensorflow": _on_tensorflow}[backend](requested)
    hint = _hint() if backend == "torch" and name == "cpu" else ""
    if requested not in ("auto", name):
        hint = hint or f"{backend} found no {requested} device: use --device auto or --device cpu."
        raise ValueError(f"Device {requested} cannot be used. Received: device={requested!r}. {hint}")
    found = f"{backend} found no GPU" if name == "cpu" else "the first available of cuda, mps, cpu"
    return Device(backend, name, description, found if requested == "auto" else "asked for", hint)


class _Compiler(ModuleType):
    """Stands in for `torch._dynamo`, torch's compiler, until something else of it is used than to leave it alone.

    Keras and torch import it, in 1.5 s, to keep it off some of their functions.
    """

    def disable(self, function: Any = None, *_: Any, **__: Any) -> Any:
        return function or (lambda same: same)

    def __getattr__(self, name: str) -> Any:
        if sys.modules[self.__name__] is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def import_keras() -> None:
    """Imports Keras in a quarter of its time: no compiler, no looking for garbage, nothing that it needs only to plot.

    By itself it imports pandas and matplotlib where they are there, in half a second and 64 MB. They can be later on.
    """
    if "keras" in sys.modules:
        return
    modules: dict[str, Any] = sys.modules  # in which None hides one
    hidden = {"matplotlib", "pandas"} - modules.keys()
    modules |= dict.fromkeys(hidden)
    if os.environ["KERAS_BACKEND"] == "torch":
        compiler = _Compiler("torch._dynamo")
        sys.modules.setdefault(compiler.__name__, compiler)
    gc.disable()
    try:
        config = importlib.import_module("keras").config
        # Whatever limits keras.json or the environment have for debugging, options say here how much is done.
        config.set_max_epochs(None)
        config.set_max_steps_per_epoch(None)
    finally:
        for name in hidden:
            del sys.modules[name]
        gc.freeze()
        gc.enable()


def device_of(model: Any) -> str:
    """The kind of device that a model's variables are on: `cpu`, `cuda` or `mps`."""
    kind = str(model.variables[0].value.device).lower().split(":")[-2:][0]  # of cuda:0, or …/device:GPU:0
    return "cuda" if kind == "gpu" else kind


def on_device(array: np.ndarray) -> Any:
    """A new array, as a tensor where torch computes; elsewhere as it is."""
    if os.environ["KERAS_BACKEND"] != "torch":
        return array
    import keras
    import torch

    return keras.ops.convert_to_tensor(torch.from_numpy(array))  # without the copy that Keras would make of it


def set_seed(seed: int) -> None:
    """Seeds what Keras draws from; `keras.utils.set_random_seed` imports TensorFlow wherever it is installed."""
    random.seed(seed)
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch

        torch.manual_seed(seed)
        torch.backends.cudnn.deterministic = True  # or the same seed would give other weights on a GPU


def _on_torch(requested: str) -> tuple[str, str]:
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = requested if available.get(requested) else next(name for name in available if available[name])
    os.environ["KERAS_TORCH_DEVICE"] = name
    if name == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return name, f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if name == "mps":
        return name, f"{platform.processor()}, Metal, no float64"
    return name, f"{platform.machine()}, {torch.get_num_threads()} threads"


def _on_jax(requested: str) -> tuple[str, str]:
    import jax

    if requested == "cpu":
        jax.config.update("jax_platforms", "cpu")
    name = jax.default_backend()
    return ("cpu", platform.machine()) if name == "cpu" else ("cuda", jax.devices()[0].device_kind)


def _on_tensorflow(requested: str) -> tuple[str, str]:
    import tensorflow as tf

    if requested == "cpu":
        tf.config.set_visible_devices([], "GPU")
    for gpu in tf.config.get_visible_devices("GPU"):
        return "cuda", tf.config.experimental.get_device_details(gpu)["device_name"]
    return "cpu", platform.machine()


def _hint() -> str:
    """What to do where a GPU is there and the installed torch cannot use it, or ''."""
    import torch

    if not torch.cuda.is_available() and (os.path.exists("/proc/driver/nvidia") or shutil.which("nvidia-smi")):
        cause = f"needs CUDA {torch.version.cuda}" if torch.version.cuda else "was built without CUDA"
        return (
            f"An NVIDIA GPU is there, but torch {torch.__version__} {cause}: install a build that fits the driver "
            "(https://pytorch.org/get-started/locally)."
        )
    if platform.system() == "Darwin" and platform.machine() == "arm64" and not torch.backends.mps.is_available():
        return f"An Apple GPU is there, but torch {torch.__version__} cannot use it: it needs macOS 14, an arm64 build."
    return ""
