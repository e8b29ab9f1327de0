"""What trained weights make of a few images or of a prompt: printed, drawn, and returned as a report.

Arguments are those of the command line: `path` is a weights file, `shipped` or None, see `weights.find`; `data` and
`data_dir` see `data.load`. All raise ValueError for weights of another architecture, and OSError where there are none
or a picture cannot be written.
"""

import textwrap
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_examples import weights
from keras_examples.data import load, load_text
from keras_examples.examples import EXAMPLES
from keras_examples.files import check_writable
from keras_examples.show import plots
from keras_examples.show.images import image_files, read_digit, read_photo, thumbnail
from keras_examples.show.text import generate

Echo = Callable[..., None]
MOST_DRAWN = 100  # images in one picture


def classify(
    example: str, *, echo: Echo = print, images: Sequence[str] = (), path: str | None = None, **choice: Any
) -> dict[str, Any]:
    """Classifies test images, drawn with true and predicted class, or pictures of the user's: files, folders of them.

    Returns:
        `example`, `data`, `weights`, `picture` (path); of test images also `classes`, `labels` (true) and `predicted`;
        of pictures also `images`, see `_own`, each with `predicted`, `probability` and `probabilities` (by class name,
        0–1), and `failed`.
    """
    if images:
        return _classify_own(example, images, echo, path, **choice)
    report, model, dataset, chosen, picture = _chosen(example, path, **choice)
    x, y, names = dataset.x_test[chosen], dataset.y_test[chosen], dataset.class_names
    predicted = model.predict(x, verbose=0).argmax(axis=1)
    wrong = [plots.reading(names[guess], names[true]) for true, guess in zip(y, predicted) if true != guess]
    right = f"{len(y) - len(wrong)} of {len(y)} right"
    plots.save_predictions(picture, x, y, predicted, names, f"{example} on {dataset.name} ({dataset.source}): {right}")
    if x.ndim == 3:
        echo(plots.blocks(x, y, predicted))
    mistakes = f": {'; '.join(wrong)}" if wrong else ""
    echo(textwrap.fill(f"{example} ({dataset.source} data): {right}{mistakes}", 80))
    echo(f"weights in {report['weights']}\npicture in {picture}")
    return report | {"classes": names, "labels": y.tolist(), "predicted": predicted.tolist()}


def _classify_own(example: str, images: Sequence[str], echo: Echo, path: str | None, **choice: Any) -> dict[str, Any]:
    report, model, metadata, read, x, picture = _own(example, images, echo, path, **choice)
    names = names_of(metadata)
    wide, title = max(map(len, names)), f"{example} (trained on {report['data']} data)"
    echo(f"{title}, weights {report['weights']}")
    captions = []
    for entry, pixels, shares in zip(read, x, probabilities(model, x)):
        guess = int(shares.argmax())
        entry |= {"predicted": names[guess], "probability": float(shares[guess])}
        entry |= {"probabilities": dict(zip(names, shares.tolist()))}
        reading = f"reads {names[guess]}, {100 * shares[guess]:.0f} %"
        captions.append(f"{Path(entry['image']).name:.30}\n{reading}")
        echo(f"{entry['image']} {reading}")
        seen = plots.blocks(pixels[None], [guess], [guess]).splitlines()[:-1] if pixels.ndim == 2 else []
        bars = [f"{name.rjust(wide)} {share:7.2%} {'█' * round(40 * share)}" for name, share in zip(names, shares)]
        for row, bar in zip_longest(seen, bars, fillvalue=""):
            echo(f"{row.ljust(14 * bool(seen))} {bar}".rstrip())
    drawn = slice(MOST_DRAWN)
    plots.save_readings(picture, [thumbnail(entry["image"]) for entry in read[drawn]], x[drawn], captions[drawn], title)
    echo(f"picture in {picture}")
    return report


def reconstruct(
    example: str, *, echo: Echo = print, images: Sequence[str] = (), path: str | None = None, **choice: Any
) -> dict[str, Any]:
    """Draws images over their reconstructions, and writes each as `input_<i>.png` and `output_<i>.png`.

    They are test images, or pictures of the user's: files, folders of them.

    Returns:
        `example`, `data`, `errors` (mean squared error of each), `weights`, `picture` (path); of pictures also
        `images`, see `_own`, and `failed`.
    """
    if images:
        report, model, _, _, x, picture = _own(example, images, echo, path, **choice)
        subject = "your pictures"
    else:
        report, model, dataset, chosen, picture = _chosen(example, path, **choice)
        x, subject = dataset.x_test[chosen], f"{dataset.name} ({dataset.source})"
    output = model.predict(x, verbose=0)
    drawn = slice(MOST_DRAWN)
    plots.save_reconstructions(picture, x[drawn], output[drawn], f"{example} on {subject}: input over output")
    for index, (image, copy) in enumerate(zip(x, output)):
        plots.save_image(picture.with_name(f"input_{index}.png"), image)
        plots.save_image(picture.with_name(f"output_{index}.png"), copy)
    errors = np.square(output - x / 255).mean(axis=(1, 2, 3)).tolist()
    figures = " ".join(f"{error:.4f}" for error in errors)
    echo(textwrap.fill(f"{example} ({report['data']} data): mean squared errors {figures}", 80))
    echo(f"weights in {report['weights']}\npicture in {picture}, single images beside it")
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


def probabilities(model: keras.Sequential, x: np.ndarray) -> np.ndarray:
    """The probability, 0–1, of each class for pictures as `reader_for` reads them: `(N, 10)` float32."""
    return keras.ops.convert_to_numpy(keras.ops.softmax(model(x, training=False)))


def reader_for(model: keras.Sequential) -> Callable[[str | Path], np.ndarray]:
    """What reads a picture from a file as a model takes it, see `images`."""
    return read_digit if len(model.input_shape) == 3 else read_photo


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
    check_writable(Path(output_dir, "picture.png"))
    dataset = load(EXAMPLES[example].dataset, data, data_dir)
    source = weights.find(example, path, dataset.source)
    model, _ = weights.restore(source, example)
    total = len(dataset.x_test)
    chosen = np.random.default_rng(seed).choice(total, min(count, total), replace=False)
    picture = Path(output_dir) / f"{weights.label(example, dataset.source)}.png"
    report = {"example": example, "data": dataset.source, "weights": str(source), "picture": str(picture)}
    return report, model, dataset, chosen, picture


def _own(
    example: str,
    images: Sequence[str],
    echo: Echo,
    path: str | None,
    output_dir: str | Path = "samples",
    **unused: Any,
) -> tuple[dict[str, Any], keras.Sequential, dict[str, Any], list[dict[str, Any]], np.ndarray, Path]:
    """The report so far, the model, its metadata, the pictures that were read, what the model sees, where to draw it.

    The report's `images` has the path of each, `image`, and what was wrong with those that were not read, `error`;
    `failed` counts them. Where none is read, the first one's error is raised.
    """
    source = weights.find(example, path)
    model, metadata = weights.restore(source, example)
    entries: list[dict[str, Any]] = [{"image": str(file)} for file in image_files(images)]
    errors, seen = [], []
    for entry in entries:
        try:
            seen.append(reader_for(model)(entry["image"]))
        except (OSError, ValueError) as error:
            errors.append(error)
            entry["error"] = str(error)
    if not seen:
        raise errors[0]
    for each in errors:
        echo(f"Error: {each}", err=True)
    picture = Path(output_dir) / f"{weights.label(example, metadata['data'])}-images.png"
    report = {"example": example, "data": metadata["data"], "weights": str(source), "picture": str(picture)}
    report |= {"images": entries, "failed": len(errors)}
    return report, model, metadata, [entry for entry in entries if "error" not in entry], np.stack(seen), picture
