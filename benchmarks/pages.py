"""Pages as people photograph them: MNIST's test digits, enlarged smoothly and written on paper of a dozen kinds."""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from keras_examples import weights
from keras_examples.data import load_mnist
from keras_examples.show.images import read_digit

SIDE, PAPER, INK = 800, 230, 40  # pixels of a page, and its grey levels
ROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # neighbours from north, clockwise


def score(count: int, data_dir: str) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """For each kind of page, the per cent of digits on it that the shipped mnist-cnn reads, and that over plain's."""
    data = load_mnist("real", data_dir)
    x, y = data.x_test[:count], data.y_test[:count]
    model, _ = weights.restore(weights.shipped("mnist-cnn"), "mnist-cnn")
    plain: np.ndarray | None = None
    for kind in KINDS:
        # Each page has a seed of its own: digit 5 is the same whatever is drawn before it.
        pages = (page(kind, digit, np.random.default_rng([0, index])) for index, digit in enumerate(x))
        seen = np.stack([read(each) for each in pages])
        right = (model.predict(seen, verbose=0).argmax(axis=1) == y) & seen.any(axis=(1, 2))
        plain = right if plain is None else plain
        yield kind, {"right": [100 * right.mean()], "over plain": [100 * right.sum() / plain.sum()]}


def read(image: Image.Image) -> np.ndarray:
    """A page as the network sees it, through a file; nothing where no digit is found on it."""
    with tempfile.NamedTemporaryFile(suffix=".bmp") as file:
        image.save(file.name)
        try:
            return read_digit(file.name)
        except ValueError:
            return np.zeros((28, 28), np.uint8)


def page(kind: str, digit: np.ndarray, random: np.random.Generator) -> Image.Image:
    """One page in grey, at most `(SIDE, SIDE)`; what is not of its kind, as where the digit stands, varies a little."""
    size = int(random.integers(360, 480))
    middle = random.uniform(0.45, 0.55, 2) * SIDE
    strokes, paper, ink, noise = enlarged(digit, size), np.full((SIDE, SIDE), float(PAPER)), INK, 3.0
    if kind in PAPERS:
        PAPERS[kind](paper, random)
    elif kind == "pencil":
        ink = PAPER - int(random.integers(45, 70))
    elif kind == "noise":
        noise = random.uniform(10, 20)
    elif kind == "thin pen":
        strokes = redrawn(digit, size, int(random.integers(2, 5)))
    elif kind == "thick pen":
        strokes = redrawn(digit, size, int(random.integers(size // 11, size // 8)))
    elif kind == "off-centre":
        strokes = enlarged(digit, size := int(random.integers(140, 240)))
        middle = random.uniform(size / 2, SIDE - size / 2, 2)
    top, left = (middle - size / 2).astype(int)
    area = paper[top : top + size, left : left + size]
    area += strokes * (np.minimum(area, ink) - area)
    if kind == "inverted":
        paper = 255 - paper
    image = Image.fromarray((paper + random.normal(0, noise, paper.shape)).clip(0, 255).astype(np.uint8))
    if kind == "cropped":  # to the pixel
        (row, below), (column, right) = ((side.min(), side.max() + 1) for side in (strokes > 0.5).nonzero())
        return image.crop((left + column, top + row, left + right, top + below))
    return image


def shaded(paper: np.ndarray, random: np.random.Generator, least: int, most: int) -> None:
    """Light that falls off by so many grey levels, straight across the page or around a lamp."""
    across, down = np.meshgrid(*[np.linspace(-0.5, 0.5, SIDE)] * 2)
    angle = random.uniform(0, 2 * np.pi)
    far = across * np.cos(angle) + down * np.sin(angle)
    if random.random() < 0.3:
        far = np.hypot(across - random.uniform(-0.5, 0.5), down - random.uniform(-0.5, 0.5))
    paper -= random.uniform(least, most) * (far - far.min()) / np.ptp(far)


def ruled(paper: np.ndarray, random: np.random.Generator, both: bool = False, least: int = 40, most: int = 90) -> None:
    """Rules so many pixels apart, of one to three pixels, turned by up to two degrees."""
    page = Image.new("L", (SIDE, SIDE))
    draw, apart, wide = ImageDraw.Draw(page), int(random.integers(least, most)), int(random.integers(1, 4))
    lean = round(np.tan(np.radians(random.uniform(-2, 2))) * SIDE)
    for place in range(-apart, SIDE + apart, apart):
        draw.line([(0, place), (SIDE, place + lean)], 255, wide)
        if both:
            draw.line([(place, 0), (place - lean, SIDE)], 255, wide)
    paper -= random.uniform(30, 90) * (np.asarray(page) > 0)


def table(paper: np.ndarray, random: np.random.Generator) -> None:
    """A table's edge on one side, up to 5 degrees askew."""
    start, end = random.uniform(30, 100), random.uniform(-35, 35)
    edge = np.linspace(start, max(start + end, 5), SIDE)
    dark = np.arange(SIDE) < edge[:, None]
    paper[np.rot90(dark, int(random.integers(4)))] = random.uniform(20, 150)


def framed(paper: np.ndarray, random: np.random.Generator) -> None:
    """The black frame of a scanner, of its own width on each side."""
    top, bottom, left, right = random.integers(4, 40, 4)
    dark = np.pad(
        np.zeros((SIDE - top - bottom, SIDE - left - right), bool), ((top, bottom), (left, right)), constant_values=True
    )
    paper[dark] = 0


def sheet(paper: np.ndarray, random: np.random.Generator) -> None:
    """A dark table around the sheet, which is turned by up to 12 degrees."""
    square = Image.new("L", (SIDE, SIDE))
    square.paste(255, (60, 60, SIDE - 60, SIDE - 60))
    paper[np.asarray(square.rotate(random.uniform(-12, 12))) == 0] = random.uniform(20, 120)


def punched(paper: np.ndarray, random: np.random.Generator) -> None:
    """Two holes for a ring binder on the left."""
    down, across = np.ogrid[:SIDE, :SIDE]
    for row in (SIDE // 5, SIDE * 4 // 5):
        hole = np.hypot(down - row, across - random.uniform(40, 60)) < random.uniform(15, 25)
        paper[hole] = random.uniform(20, 100)


def enlarged(digit: np.ndarray, size: int) -> np.ndarray:
    """A digit `(28, 28)` uint8 as `(size, size)` float32, 0 for paper to 1 for ink, with an edge like a pen's."""
    large = Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC)
    blurred = np.asarray(large.filter(ImageFilter.GaussianBlur(size / 57)), np.float32) / 255
    return np.clip((blurred - 0.35) * 4, 0, 1)


def redrawn(digit: np.ndarray, size: int, pen: int) -> np.ndarray:
    """As `enlarged`, but drawn along the middle of its strokes with a pen of so many pixels."""
    line, larger = skeleton(enlarged(digit, 112) > 0.5), 4  # Pillow draws without smoothing
    page = Image.new("L", (size * larger, size * larger))
    draw = ImageDraw.Draw(page)
    points = {
        (row, column): ((column + 0.5) * page.width / 112, (row + 0.5) * page.width / 112)
        for row, column in np.argwhere(line).tolist()
    }
    for (row, column), point in points.items():
        draw.circle(point, pen * larger / 2, 255)
        for down, right in ROUND[1:5]:
            if neighbour := points.get((row + down, column + right)):
                draw.line([point, neighbour], 255, pen * larger)
    return np.asarray(page.reduce(larger), np.float32) / 255


def skeleton(ink: np.ndarray) -> np.ndarray:
    """The middle of strokes `(height, width)` bool, a pixel wide, as Zhang and Suen (1984) thin them."""
    ink, before = np.pad(ink, 1), None
    while before is None or (ink != before).any():
        before = ink
        for side in (0, 1):
            around = np.stack([np.roll(ink, (-down, -right), (0, 1)) for down, right in ROUND])
            count, rises = around.sum(axis=0), (~around & np.roll(around, -1, axis=0)).sum(axis=0)
            north, east, south, west = around[::2]
            edge = (
                ~(north & east & west) & ~(north & south & west)
                if side
                else ~(north & east & south) & ~(east & south & west)
            )
            ink = ink & ~((count >= 2) & (count <= 6) & (rises == 1) & edge)
    return ink[1:-1, 1:-1]


PAPERS: dict[str, Callable[[np.ndarray, np.random.Generator], None]] = {
    "shaded by 40 to 100": partial(shaded, least=40, most=100),
    "shaded by 100 to 120": partial(shaded, least=100, most=120),
    "ruled": ruled,
    "gridded": partial(ruled, both=True),
    "finely gridded": partial(ruled, both=True, least=24, most=40),
    "table's edge": table,
    "black frame": framed,
    "sheet on a table": sheet,
    "punched": punched,
}
KINDS = ("plain", *PAPERS, "pencil", "noise", "thin pen", "thick pen", "off-centre", "inverted", "cropped")
