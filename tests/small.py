"""Small models of all examples, and what PyTorch's own layers make of their builders."""

import inspect

import numpy as np
import torch
from torch import nn

from keras_examples import models
from keras_examples.examples import EXAMPLES

SIZES = {"hidden_units": [12, 7], "vocabulary_size": 9, "units": 6, "layers": 2}


def sizes_of(example):
    """Small sizes, of those that the builder of an example has."""
    known = inspect.signature(getattr(models, EXAMPLES[example].builder)).parameters
    return {name: size for name, size in SIZES.items() if name in known}


def randomised(model, scale=1.0):
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(scale=scale, size=w.shape) for w in model.get_weights()])
    return model


def small(example, scale=1.0):
    """A model of an example with small sizes and random weights."""
    return randomised(models.build(example, sizes_of(example)), scale)


def assert_same(one, other):
    for left, right in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


class CharRnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(9, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 9)

    def forward(self, ids):
        return self.head(self.lstm(nn.functional.one_hot(ids, 9).float())[0])


def encoder():
    return [
        nn.Conv2d(3, 16, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 8, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
    ]  # fmt: skip


def multilayer(inputs):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 12), nn.ReLU(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 10)
    )  # fmt: skip


REFERENCES = {
    "mnist_linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
    "mnist_mlp": lambda: multilayer(784),
    "mnist_cnn": lambda: nn.Sequential(
        nn.Conv2d(1, 32, 5), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 1024), nn.ReLU(), nn.Dropout(0.5), nn.Linear(1024, 10),
    ),
    "cifar_dense": lambda: multilayer(3072),
    "cifar_cnn": lambda: nn.Sequential(*encoder(), nn.Flatten(), nn.Linear(512, 10)),
    "conv_autoencoder": lambda: nn.Sequential(
        *encoder(), nn.ConvTranspose2d(8, 16, 2, stride=2), nn.ConvTranspose2d(16, 3, 2, stride=2)
    ),
    "char_lstm": CharRnn,
}  # fmt: skip
REFERRED = [example for example, row in EXAMPLES.items() if row.builder in REFERENCES]


def reference(example):
    """PyTorch's model with the small sizes of an example, one of `REFERRED`."""
    torch.manual_seed(0)
    return REFERENCES[EXAMPLES[example].builder]().eval()


def layers_of(model):
    """The tensors of each layer of a PyTorch model that has any, by name: `weight`, `bias` or those of an LSTM."""
    layers = {}
    for name, tensor in model.state_dict().items():
        path, _, parameter = name.rpartition(".")
        layers.setdefault(path, {})[parameter] = tensor
    return [*layers.values()]


def assert_agree(keras_model, torch_model):
    """Asserts that both predict the same."""
    generator = np.random.default_rng(1)
    shape = keras_model.input_shape[1:]
    if len(shape) == 1:
        x = generator.integers(9, size=(3, 20)).astype("int32")
        inputs = torch.from_numpy(x).long()
    else:
        x = generator.integers(256, size=(5, *shape)).astype("uint8")
        inputs = torch.from_numpy(x.reshape(5, *x.shape[1:3], -1)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = torch_model(inputs)
    expected = expected.permute(0, 2, 3, 1) if expected.ndim == 4 else expected
    np.testing.assert_allclose(keras_model.predict(x, verbose=0), expected.numpy(), atol=1e-5)
