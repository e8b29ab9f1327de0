"""What trained weights make of a few images: predictions, reconstructions."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_examples import weights
from keras_examples.recipes import RECIPES
from keras_examples.show import plots
from keras_examples.show.images import read_digit, read_photo


def classify(
    example: str,
    *,
    count: int = 20,
    seed: int | None = None,
    data: str = "auto",
    data_dir: str | Path = "datasets",
    path: str | Path | None = None,
    output_dir: str | Path = "samples",
) -> dict[str, Any]:
    """Draws test images with true and predicted class, as a picture and, if they are grey, in block characters.

    Args:
        example: Example id of a classifier.
        count: Number of images, at least 1.
        seed: Seed of the choice of images, or None for the first ones.
        data: `auto`, `real` or `synthetic`.
        data_dir: Folder of the data files.
        path: Weights file, or None for what was last trained on this data.
        output_dir: Folder of the picture.

    Returns:
        `example`, `data`, `classes`, `labels` (true), `predicted`, `weights`, `picture` (path), `text` (blocks or '').

    Raises:
        ValueError: weights of another architecture.
        OSError: no such weights, or the picture cannot be written.
    """
    dataset, model, path = _load(example, data, data_dir, path)
    chosen = _choose(len(dataset.x_test), count, seed)
    x, y = dataset.x_test[chosen], dataset.y_test[chosen]
    predicted = model.predict(x, verbose=0).argmax(axis=1)
    picture = Path(output_dir) / f"{weights.label(example, dataset.source)}.png"
    right = int((predicted == y).sum())
    title = f"{example} on {dataset.name} ({dataset.source}): {right} of {len(y)} right"
    plots.save_predictions(picture, x, y, predicted, dataset.class_names, title)
    return {
        "example": example,
        "data": dataset.source,
        "classes": dataset.class_names,
        "labels": y.tolist(),
        "predicted": predicted.tolist(),
        "weights": str(path),
        "picture": str(picture),
        "text": plots.blocks(x, y, predicted) if x.ndim == 3 else "",
    }


def classify_image(example: str, image: str | Path, path: str | Path | None = None) -> dict[str, Any]:
    """Classifies one picture of the user's.

    Args:
        example: Example id of a classifier.
        image: Image file, see `read_digit` and `read_photo`.
        path: Weights file, or None for what was last trained, on real data if there are such weights.

    Returns:
        `example`, `data` (that the weights were trained on), `probabilities` (by class name, 0–1), `weights`.

    Raises:
        ValueError: no image, or weights of another architecture.
        OSError: no such file.
    """
    path = weights.find(example, path)
    model, metadata = weights.restore(path, example)
    return {
        "example": example,
        "data": metadata.get("data"),
        "probabilities": probabilities(model, metadata, image),
        "weights": str(path),
    }


def probabilities(model: keras.Sequential, metadata: dict[str, Any], image: str | Path) -> dict[str, float]:
    """The probability, 0–1, of each class for one picture, see `classify_image`; the metadata names the classes."""
    pixels = read_digit(image) if len(model.input_shape) == 3 else read_photo(image)
    logits = model(pixels[None], training=False)[0]
    shares = keras.ops.convert_to_numpy(keras.ops.softmax(logits)).tolist()
    return dict(zip(names_of(metadata), shares))


def names_of(metadata: dict[str, Any]) -> list[str]:
    """What a classifier's ten classes are called, by the metadata of its weights."""
    return metadata.get("classes") or [*map(str, range(10))]


def reconstruct(
    example: str,
    *,
    count: int = 5,
    seed: int = 0,
    data: str = "auto",
    data_dir: str | Path = "datasets",
    path: str | Path | None = None,
    output_dir: str | Path = "samples",
) -> dict[str, Any]:
    """Draws test images over their reconstructions, and writes each as `input_<i>.png` and `output_<i>.png`.

    Args:
        example: Example id of an autoencoder.
        count: Number of images, at least 1.
        seed: Seed of the choice of images.
        data: `auto`, `real` or `synthetic`.
        data_dir: Folder of the data files.
        path: Weights file, or None for what was last trained on this data.
        output_dir: Folder of the pictures.

    Returns:
        `example`, `data`, `errors` (mean squared error of each), `weights`, `picture` (path).

    Raises:
        ValueError: weights of another architecture.
        OSError: no such weights, or a picture cannot be written.
    """
    dataset, model, path = _load(example, data, data_dir, path)
    x = dataset.x_test[_choose(len(dataset.x_test), count, seed)]
    output = model.predict(x, verbose=0)
    folder = Path(output_dir)
    picture = folder / f"{weights.label(example, dataset.source)}.png"
    plots.save_reconstructions(picture, x, output, f"{example} on {dataset.name} ({dataset.source}): input over output")
    for index, (image, copy) in enumerate(zip(x, output)):
        plots.save_image(folder / f"input_{index}.png", image)
        plots.save_image(folder / f"output_{index}.png", copy)
    return {
        "example": example,
        "data": dataset.source,
        "errors": np.square(output - x / 255).mean(axis=(1, 2, 3)).tolist(),
        "weights": str(path),
        "picture": str(picture),
    }


def _load(example: str, data: str, data_dir: str | Path, path: str | Path | None) -> tuple[Any, keras.Sequential, Path]:
    dataset = RECIPES[example].dataset(data=data, data_dir=data_dir)
    path = weights.find(example, path, dataset.source)
    return dataset, weights.restore(path, example)[0], path


def _choose(available: int, count: int, seed: int | None) -> np.ndarray:
    count = min(count, available)
    return np.arange(count) if seed is None else np.random.default_rng(seed).choice(available, count, replace=False)
