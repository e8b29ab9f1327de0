"""Seven classic models in Keras 3, torch first.

Importing this package chooses the Keras backend, torch unless `KERAS_BACKEND` says otherwise, so import it before
Keras or together with it. Nothing heavy is loaded until a name is used.

Raises:
    ImportError: Keras was imported earlier on another backend than the one asked for.
"""

import importlib
import os
import sys
from typing import Any

__version__ = "0.1.0"
_BACKEND = os.environ.setdefault("KERAS_BACKEND", "torch")
if "keras" in sys.modules and sys.modules["keras"].backend.backend() != _BACKEND:
    raise ImportError(
        f"Keras already runs on another backend than the one asked for. Received: asked for {_BACKEND!r}, running on "
        f"{sys.modules['keras'].backend.backend()!r}. Import keras_examples before keras, or set KERAS_BACKEND first."
    )

_HOME = {
    "mnist_linear": "models",
    "mnist_mlp": "models",
    "mnist_cnn": "models",
    "cifar_dense": "models",
    "cifar_cnn": "models",
    "conv_autoencoder": "models",
    "char_lstm": "models",
    "accelerate": "acceleration",
    "load_mnist": "datasets",
    "load_cifar10": "datasets",
    "load_text": "datasets",
    "Vocabulary": "vocabulary",
    "generate": "generation",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"keras_examples.{_HOME[name]}"), name)
    raise AttributeError(f"module 'keras_examples' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
