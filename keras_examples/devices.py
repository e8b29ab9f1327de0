"""Which device trains, and why: cuda, then mps, then cpu."""

import os
import platform
import shutil
from typing import Any, NamedTuple

DEVICES = ("auto", "cpu", "cuda", "mps")


class Device(NamedTuple):
    """A torch device: its `name` (cpu, cuda or mps), what it is in words, why it was chosen, and a hint or ''."""

    name: str
    description: str
    reason: str
    hint: str


def choose(requested: str = "auto") -> Device:
    """Chooses the device and tells Keras, which reads its default once, at import: call this before importing Keras.

    Args:
        requested: `auto` (cuda if there is one, else mps, else cpu), `cpu`, `cuda` or `mps`.

    Returns:
        The device that Keras on torch will use.

    Raises:
        ValueError: the device asked for is not there.
    """
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    name = next(name for name in available if available[name]) if requested == "auto" else requested
    if name not in available:
        raise ValueError(f"No such device. Received: device={requested!r}. Choose one of {', '.join(DEVICES)}.")
    if not available[name]:
        hint = _hint() or f"No {name} device was found: use --device auto or --device cpu."
        raise ValueError(f"Device {name} cannot be used. Received: device={requested!r}. {hint}")
    os.environ["KERAS_TORCH_DEVICE"] = name
    if requested != "auto":
        reason = "asked for"
    elif name == "cpu":
        reason = "neither cuda nor mps is available"
    else:
        reason = "the first available of cuda, mps, cpu"
    return Device(name, _describe(name), reason, _hint() if name == "cpu" else "")


def device_of(model: Any) -> str:
    """The kind of device that a model's variables are on: `cpu`, `cuda` or `mps` on torch, else the backend's name."""
    device = model.variables[0].value.device
    return str(getattr(device, "type", device))


def _describe(name: str) -> str:
    import torch

    if name == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if name == "mps":
        return f"{platform.processor()}, Metal, no float64"
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


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
        return (
            f"An Apple GPU is there, but torch {torch.__version__} cannot use it: it needs macOS 14 and an arm64 build."
        )
    return ""
