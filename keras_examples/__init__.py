"""Seven classic models in Keras 3, torch first.

    from keras_examples import load_mnist, load_model

    model, class_names = load_model("mnist-cnn")  # trained, 99.6 % right
    data = load_mnist()                           # raw pixels and labels
    logits = model.predict(data.x_test)           # (10000, 10)

Models: mnist_linear, mnist_mlp, mnist_cnn, cifar_dense, cifar_cnn,
conv_autoencoder and char_lstm each build an untrained Sequential. load_model
loads a trained one, and the names of its classes or its Vocabulary.

Data: load_mnist, load_cifar10 and load_text read local files, else download,
else make data up, which `source` says.

Text: generate continues a prompt by a char_lstm and its Vocabulary.

Speed: accelerate has fit, evaluate and predict of any Keras model on torch
replay recorded steps.

Recipes: fit and evaluate in keras_examples.training are those of the command
line, `python -m keras_examples`.

Importing this package chooses the Keras backend: the one in KERAS_BACKEND,
else the one that Keras already runs on, else torch. Keras's own default,
keras.json, does not count before Keras is imported: Keras writes that file
unasked. Nothing heavy is loaded until a name is used.

Raises:
    ImportError: Keras was imported earlier on another backend than KERAS_BACKEND.
"""

import importlib
import os
import sys
from typing import Any

__version__ = "0.1.0"
_RUNNING = sys.modules["keras"].backend.backend() if "keras" in sys.modules else None
ASKED = os.environ.get("KERAS_BACKEND")  # by the user, before this module sets it
_BACKEND = os.environ["KERAS_BACKEND"] = ASKED or _RUNNING or "torch"
if _RUNNING not in (None, _BACKEND):
    raise ImportError(
        f"Keras already runs on another backend than the one asked for. Received: asked for {_BACKEND!r}, running on "
        f"{_RUNNING!r}. Set KERAS_BACKEND before importing keras, or leave it unset."
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
    "load_model": "weights.pretrained",
    "load_mnist": "data",
    "load_cifar10": "data",
    "load_text": "data",
    "Vocabulary": "data.vocabulary",
    "generate": "show.text",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"keras_examples.{_HOME[name]}"), name)
    raise AttributeError(f"module 'keras_examples' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
