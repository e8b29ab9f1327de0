"""What trained weights make of a few images or of a prompt: printed, drawn, and returned as a report.

Arguments are those of the command line: `path` is a weights file, `shipped` or None, see `weights.find`; `data` and
`data_dir` see `data.load`. All raise ValueError for weights of another architecture, and OSError where there are none
or a picture cannot be written.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_examples import weights
from keras_examples.data import load, load_text
from keras_examples.examples import EXAMPLES
from keras_examples.show import plots
from keras_examples.show.images import read_digit, read_photo
from keras_examples.show.text import generate

Echo = Callable[..., None]


def classify(
    example: str, *, echo: Echo = print, image: str | None = None, path: str | None = None, **choice: Any
) -> dict[str, Any]:
    """Classifies test images, drawn with true and predicted class, or one picture of the user's.

    Returns:
        `example`, `data`, `weights`; of test images also `classes`, `labels` (true), `predicted` and `picture` (path),
        of a picture `probabilities` (by class name, 0–1).
    """
    if image:
        source = weights.find(example, path)
        model, metadata = weights.restore(source, example)
        shares = probabilities(model, metadata, image)
        echo(f"{example} (trained on {metadata['data']} data), weights {source}")
        for name, value in shares.items():
            echo(f"{name.rjust(max(map(len, shares)))} {value:7.2%} {'█' * round(40 * value)}")
        return {"example": example, "data": metadata["data"], "probabilities": shares, "weights": str(source)}
    report, model, dataset, chosen, picture = _chosen(example, path, **choice)
    x, y, names = dataset.x_test[chosen], dataset.y_test[chosen], dataset.class_names
    predicted = model.predict(x, verbose=0).argmax(axis=1)
    wrong = [f"{names[true]} read as {names[guess]}" for true, guess in zip(y, predicted) if true != guess]
    right = f"{len(y) - len(wrong)} of {len(y)} right"
    plots.save_predictions(picture, x, y, predicted, names, f"{example} on {dataset.name} ({dataset.source}): {right}")
    if x.ndim == 3:
        echo(plots.blocks(x, y, predicted))
    mistakes = f": {', '.join(wrong)}" if wrong else ""
    echo(f"{example} ({dataset.source} data), weights {report['weights']}: {right}{mistakes}")
    echo(f"picture in {picture}")
    return report | {"classes": names, "labels": y.tolist(), "predicted": predicted.tolist()}


def reconstruct(example: str, *, echo: Echo = print, path: str | None = None, **choice: Any) -> dict[str, Any]:
    """Draws test images over their reconstructions, and writes each as `input_<i>.png` and `output_<i>.png`.

    Returns:
        `example`, `data`, `errors` (mean squared error of each), `weights`, `picture` (path).
    """
    report, model, dataset, chosen, picture = _chosen(example, path, **choice)
    x = dataset.x_test[chosen]
    output = model.predict(x, verbose=0)
    plots.save_reconstructions(picture, x, output, f"{example} on {dataset.name} ({dataset.source}): input over output")
    for index, (image, copy) in enumerate(zip(x, output)):
        plots.save_image(picture.with_name(f"input_{index}.png"), image)
        plots.save_image(picture.with_name(f"output_{index}.png"), copy)
    errors = np.square(output - x / 255).mean(axis=(1, 2, 3)).tolist()
    told = " ".join(f"{error:.4f}" for error in errors)
    echo(f"{example} ({dataset.source} data), weights {report['weights']}: mean squared errors {told}")
    echo(f"picture in {picture}, with each input and output beside it")
    return report | {"errors": errors}


def continue_text(
    example: str,
    prompt: str,
    *,
    echo: Echo = print,
    count: int = 1,
    seed: int | None = None,
    text: str | None = None,
    path: str | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Streams texts that continue a prompt, by the weights last trained on `text`; `how` is as `generate` takes it.

    Returns:
        `example`, `data`, `texts`, `weights`.
    """
    source = weights.find(weights.run_name(example, text), path)
    model, metadata = weights.restore(source, example, dataset=load_text(text) if text else None)
    vocabulary = weights.vocabulary_of(source, metadata)
    if not path:
        echo(f"weights {source}", err=True)  # not into the text
    texts = []
    for index in range(count):
        stream = generate(model, vocabulary, prompt, seed=None if seed is None else seed + index, **how)
        echo(prompt, nl=False)
        drawn = []
        for character in stream:
            echo(character, nl=False)
            drawn.append(character)
        echo("\n" if index + 1 < count else "")
        texts.append(prompt + "".join(drawn))
    return {"example": example, "data": metadata["data"], "texts": texts, "weights": str(source)}


def probabilities(model: keras.Sequential, metadata: dict[str, Any], image: str | Path) -> dict[str, float]:
    """The probability, 0–1, of each class for one picture, see `images`; the metadata names the classes."""
    pixels = read_digit(image) if len(model.input_shape) == 3 else read_photo(image)
    logits = model(pixels[None], training=False)[0]
    shares = keras.ops.convert_to_numpy(keras.ops.softmax(logits)).tolist()
    return dict(zip(names_of(metadata), shares))


def names_of(metadata: dict[str, Any]) -> list[str]:
    """What a classifier's ten classes are called, by the metadata of its weights."""
    return metadata.get("classes") or [*map(str, range(10))]


def _chosen(
    example: str,
    path: str | None,
    count: int = 10,
    seed: int = 0,
    data: str = "auto",
    data_dir: str | Path = "datasets",
    output_dir: str | Path = "samples",
) -> tuple[dict[str, Any], keras.Sequential, Any, np.ndarray, Path]:
    """The report so far, the model, the data set, the test images that were drawn, and where the picture goes."""
    dataset = load(EXAMPLES[example].dataset, data, data_dir)
    source = weights.find(example, path, dataset.source)
    model, _ = weights.restore(source, example)
    total = len(dataset.x_test)
    chosen = np.random.default_rng(seed).choice(total, min(count, total), replace=False)
    picture = Path(output_dir) / f"{weights.label(example, dataset.source)}.png"
    report = {"example": example, "data": dataset.source, "weights": str(source), "picture": str(picture)}
    return report, model, dataset, chosen, picture
