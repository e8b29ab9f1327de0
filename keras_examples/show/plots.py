"""Every picture that the project draws.

Images are `(N, height, width)` grey or `(N, height, width, 3)`, uint8 0–255; reconstructions have that shape, float32,
about 0–1; `y` and `predicted` are classes, `(N,)`. What writes a file raises OSError if it cannot.
"""

import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from unicodedata import east_asian_width

import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure, FigureBase  # without pyplot, which takes a while to import
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from PIL import Image

from keras_examples.files import whole_file

MADE_BY = {"Software": "keras-examples"}
RIGHT, WRONG = "#0072b2", "#d55e00"  # blue and vermilion, told apart by colour-blind eyes
QUADRANTS = " ▘▝▀▖▌▞▛▗▚▐▜▄▙▟█"  # bits 1, 2, 4, 8: upper left, upper right, lower left, lower right


def save_predictions(
    path: str | Path, x: np.ndarray, y: np.ndarray, predicted: np.ndarray, class_names: Sequence[str], title: str
) -> None:
    """Draws images in a grid, the predicted class over each, and the true one where it differs."""
    columns = min(len(x), 10)
    rows = -(-len(x) // columns)
    size = (1.3 * columns + 0.4, 1.7 * rows + 0.6)
    figure = Figure(size, layout="constrained")
    _predictions(figure.subplots(rows, columns, squeeze=False), x, y, predicted, class_names)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _predictions(
    axes: np.ndarray, x: np.ndarray, y: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]
) -> None:
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, true, guess in zip(axes.flat, x, y, predicted):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        label = reading(class_names[guess], class_names[true]).replace(", ", ",\n")
        axis.set_title(label, y=1, fontsize=9, color=RIGHT if true == guess else WRONG)


def reading(guess: str, true: str) -> str:
    """What was read in an image, and the truth where that is another."""
    return guess if guess == true else f"read {guess}, is {true}"


def save_readings(
    path: str | Path, pictures: Sequence[np.ndarray], x: np.ndarray, captions: Sequence[str], title: str
) -> None:
    """Draws pictures of any size, and beside each what the model saw of it, `x`, the caption over both."""
    columns = min(len(x), 4)
    rows = -(-len(x) // columns)
    figure = Figure((3.2 * columns + 0.4, 1.9 * rows + 0.6), layout="constrained")
    cells = figure.subfigures(rows, columns, squeeze=False).flat
    for cell, picture, seen, caption in zip(cells, pictures, x, captions):
        left, right = cell.subplots(1, 2)
        left.imshow(picture)
        right.imshow(seen, cmap="gray", vmin=0, vmax=255)
        left.axis("off")
        right.axis("off")
        cell.suptitle(caption, fontsize=9, parse_math=False)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def save_reconstructions(path: str | Path, x: np.ndarray, output: np.ndarray, title: str) -> None:
    """Draws each image over its reconstruction, the mean squared error under each pair."""
    figure = Figure((1.4 * len(x) + 0.4, 3.6), layout="constrained")
    _pairs(figure.subplots(2, len(x), squeeze=False), x, output)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _pairs(axes: np.ndarray, x: np.ndarray, output: np.ndarray) -> None:
    errors = np.square(output - x / 255).mean(axis=(1, 2, 3))
    for (above, below), image, copy, error in zip(axes.T, x, output, errors):
        above.imshow(image)
        below.imshow(copy.clip(0, 1))
        above.axis("off")
        below.set(xticks=[], yticks=[])
        below.spines[:].set_visible(False)
        below.set_xlabel(f"MSE {error:.4f}", fontsize=9)


def save_run(
    path: str | Path,
    title: str,
    history: Mapping[str, Sequence[float]],
    curves: Mapping[str, str],
    draw: Callable[[FigureBase], None],
) -> None:
    """Draws a run: figures of its history, training against validation, and beside them what `draw` draws.

    `curves` says which figures, by their names in the history, and what to call them. Raises FileExistsError if another
    picture is there, which nobody named.
    """
    with suppress(FileNotFoundError, IsADirectoryError), Image.open(path) as there:
        if there.info.get("Software") != MADE_BY["Software"]:
            raise FileExistsError(f"{Path(path).name} is there and is none of ours. Move it, or --save elsewhere.")
    figure = Figure((14, 7), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.2), wspace=0.03, squeeze=False).flat
    for axis, (name, label) in zip(left.subplots(len(curves), sharex=True, squeeze=False).flat, curves.items()):
        for prefix, kind, style, colour in (("", "training", "o--", WRONG), ("val_", "validation", "s-", RIGHT)):
            values = history[prefix + name]
            axis.plot(range(1, len(values) + 1), values, style, color=colour, markersize=4, label=kind)
        axis.set_title(label, fontsize=11)
        axis.set_xlim(0.5, len(values) + 0.5)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.legend(fontsize=9)
    axis.set_xlabel("epoch")
    draw(right)
    figure.suptitle(title, fontsize=12)
    _save(figure, path)


def draw_mistakes(
    figure: FigureBase,
    x: np.ndarray,
    y: np.ndarray,
    probabilities: np.ndarray,
    confusion: np.ndarray,
    class_names: Sequence[str],
    filters: np.ndarray | None,
) -> None:
    """Draws the confusion matrix, the worst mistakes by the probabilities `(N, classes)`, and filters.

    The matrix has a row for each true class, a column for each predicted one; filters are `(height, width, channels,
    filters)`, or None.
    """
    above = figure
    if filters is not None:
        above, below = figure.subfigures(2, 1, height_ratios=(4, 1), squeeze=False).flat
        _filters(below, filters)
    left, right = above.subfigures(1, 2, width_ratios=(1.1, 1), squeeze=False).flat
    axis = left.subplots()
    axis.imshow(np.sqrt(confusion), cmap="Blues")  # so that rare mistakes show
    places, long = range(len(class_names)), max(map(len, class_names)) > 2
    axis.set_xticks(places, class_names, fontsize=9, rotation=45 if long else 0, ha="right" if long else "center")
    axis.set_yticks(places, class_names, fontsize=9)
    axis.set(xlabel="predicted", ylabel="true", title="Confusion on the test data")
    for (row, column), count in np.ndenumerate(confusion):
        dark = confusion[row, column] > confusion.max() / 4
        style = {"ha": "center", "va": "center", "fontsize": 8, "color": "white" if dark else "black"}
        axis.text(column, row, count or "", **style, in_layout=False)  # which a hundred of them would slow
    predicted = probabilities.argmax(axis=1)
    worst = np.argsort(np.where(predicted == y, 1, probabilities[np.arange(len(y)), y]))[:12]
    worst = worst[predicted[worst] != y[worst]]
    right.suptitle("Worst mistakes" if len(worst) else "No mistakes", fontsize=11)
    _predictions(right.subplots(4, 3, squeeze=False), x[worst], y[worst], predicted[worst], class_names)


def _filters(figure: FigureBase, filters: np.ndarray) -> None:
    figure.suptitle("Filters of the first convolution", fontsize=11)
    scaled = filters / np.abs(filters).max() / 2 + 0.5
    margins = (0, 1), (0, 1), (0, 0), (0, -scaled.shape[-1] % 16)  # a white line between them, sixteen in a row
    padded = np.pad(scaled, margins, constant_values=1)
    height, width, channels, count = padded.shape
    rows = padded.transpose(3, 0, 1, 2).reshape(count // 16, 16, height, width, channels).swapaxes(1, 2)
    axis = figure.subplots()  # one, since each takes a while to lay out
    axis.imshow(rows.reshape(-1, 16 * width, channels).squeeze(), cmap="gray", vmin=0, vmax=1)
    axis.axis("off")


def draw_pairs(figure: FigureBase, x: np.ndarray, output: np.ndarray) -> None:
    """Draws images over their reconstructions, in two rows."""
    figure.suptitle("Test images over their reconstructions", fontsize=11)
    half = len(x) // 2
    for row, part in zip(figure.subfigures(2, 1, squeeze=False).flat, (slice(half), slice(half, None))):
        _pairs(row.subplots(2, half, squeeze=False), x[part], output[part])


def draw_text(figure: FigureBase, text: str) -> None:
    """Draws text as it is, its long lines broken."""
    figure.suptitle("A sample", fontsize=11)
    columns = 36 if any(east_asian_width(character) in "FW" for character in text) else 72  # those are twice as wide
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, columns) or [""]][:32]
    figure.text(0.03, 0.92, "\n".join(lines), va="top", family="monospace", fontsize=11, parse_math=False)


def save_image(path: str | Path, image: np.ndarray) -> None:
    """Writes one image `(height, width, 3)`, uint8, or float32 in about 0–1, a pixel a pixel."""
    pixels = image if image.dtype == np.uint8 else (image.clip(0, 1) * 255).round().astype(np.uint8)
    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, "png")


def blocks(x: np.ndarray, y: Sequence[int], predicted: Sequence[int], columns: int = 5) -> str:
    """Grey images of even sides in block characters, four pixels in each, and the class read under each."""
    ink = (x > 96).astype(int)
    codes = ink[:, ::2, ::2] + 2 * ink[:, ::2, 1::2] + 4 * ink[:, 1::2, ::2] + 8 * ink[:, 1::2, 1::2]
    lines = []
    for start in range(0, len(x), columns):
        part = slice(start, start + columns)
        lines += ["".join(QUADRANTS[code] for code in row) for row in np.concatenate(codes[part], axis=1)]
        captions = [reading(str(guess), str(true)) for true, guess in zip(y[part], predicted[part])]
        lines += ["".join(caption.center(codes.shape[2]) for caption in captions)]
    return "\n".join(line.rstrip() for line in lines)


def _save(figure: Figure, path: str | Path) -> None:
    with whole_file(path) as temporary:
        draw = partial(figure.savefig, temporary, format="png", dpi=120, metadata=MADE_BY)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "Glyph")  # of a character that matplotlib's own fonts lack
                draw()
        except UserWarning:
            _find_fonts(figure)
            draw()


def _find_fonts(figure: Figure) -> None:
    """Has texts fall back on installed fonts for characters, such as Chinese ones, that matplotlib's own lack."""
    texts = figure.findobj(Text)
    missing = {*"".join(text.get_text() for text in texts)} - {"\n"}
    missing -= _characters_of(font_manager.findfont("monospace"))
    fonts = [font for font in font_manager.fontManager.ttflist if not font.name.startswith("Last Resort")]  # boxes
    has = {font.name: _characters_of(font.fname) & missing for font in fonts}
    families = []
    while found := has[best := max(has, key=lambda name: len(has[name] & missing))] & missing:
        families.append(best)
        missing -= found
    unknown = {ord(each): " " if each.isspace() else "\N{REPLACEMENT CHARACTER}" for each in missing}
    for text in texts:
        text.set_fontfamily([*text.get_fontfamily(), *families])
        text.set_text(text.get_text().translate(unknown))
    if signs := [each for each in missing if not each.isspace()]:
        note = f"No font here has {len(signs)} of the characters. Install one, such as Noto Sans CJK."
        figure.text(0.995, 0.005, note, ha="right", fontsize=9, color=WRONG)


def _characters_of(font: str) -> set[str]:
    try:
        return {*map(chr, font_manager.get_font(font).get_charmap())}
    except (OSError, RuntimeError):  # a bitmap or a broken file, which matplotlib cannot draw with
        return set()
