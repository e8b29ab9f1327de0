"""Offline stand-ins for MNIST, CIFAR-10 and a text corpus, made from a seed."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHAPES = ("circle", "ring", "crescent", "square", "frame", "triangle", "star", "cross", "arrow", "heart")
CANVAS = 128  # pixels a side of the drawings that the warps sample
BLOCK = 1000  # images coloured at a time: float32 of all of them would take half a gigabyte

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def synthetic_digits(num_train: int = 10_000, num_test: int = 2_000, seed: int = 0) -> Split:
    """Draws digits in Pillow's own font, light on dark, under affine warps, in several weights, with noise.

    Returns `x_train` `(num_train, 28, 28)` uint8 in 0–255, `y_train` `(num_train,)` int32 in 0–9, `x_test`, `y_test`.
    """
    generator = np.random.default_rng(seed)
    y = generator.integers(10, size=num_train + num_test, dtype=np.int32)
    x = _warped([[_digit(str(digit), stroke) for stroke in range(0, 8, 2)] for digit in range(10)], y, 28, generator)
    for block in _blocks(len(y)):
        brightness = generator.uniform(0.6, 1.0, (len(x[block]), 1, 1)).astype(np.float32)
        noise = generator.standard_normal(x[block].shape, np.float32)
        x[block] = np.clip(brightness * x[block] + 12 * noise, 0, 255)
    return x[:num_train], y[:num_train], x[num_train:], y[num_train:]


def synthetic_shapes(num_train: int = 10_000, num_test: int = 2_000, seed: int = 0) -> Split:
    """Draws `SHAPES` in random colours on shaded backgrounds, under affine warps, with noise.

    Returns as `synthetic_digits` does, images `(N, 32, 32, 3)`.
    """
    generator = np.random.default_rng(seed)
    y = generator.integers(10, size=num_train + num_test, dtype=np.int32)
    masks = _warped([[drawing] for drawing in _shapes()], y, 32, generator)
    ramp = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    x = np.empty((len(y), 32, 32, 3), np.uint8)
    for block in _blocks(len(y)):
        count = len(y[block])
        paper, contrast, across, down = generator.random((4, count, 1, 1, 3), np.float32)
        paper = 256 * paper
        ink = (paper + 80 + 96 * contrast) % 256  # at least 80 of 255 away in each channel, so that every shape shows
        shading = 80 * (across - 0.5) * ramp + 80 * (down - 0.5) * ramp[:, None]
        noise = generator.standard_normal((count, 32, 32, 3), np.float32)
        alpha = masks[block, ..., None] / np.float32(255)
        x[block] = np.clip(paper + alpha * (ink - paper) + shading + 8 * noise, 0, 255)
    return x[:num_train], y[:num_train], x[num_train:], y[num_train:]


def synthetic_text() -> str:
    """Python's own help topics, about 450,000 characters of English; which ones depends on the interpreter."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def _blocks(count: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]


def _digit(text: str, stroke: int) -> Image.Image:
    image = Image.new("L", (CANVAS, CANVAS))
    font = ImageFont.load_default(size=120)
    left, top, right, bottom = font.getbbox(text)
    corner = (CANVAS - left - right) / 2, (CANVAS - top - bottom) / 2
    ImageDraw.Draw(image).text(corner, text, fill=255, font=font, stroke_width=stroke)
    return image


def _shapes() -> list[Image.Image]:
    """Fills one outline for each of `SHAPES` and cuts out a second where there is one."""
    # Corners (x, y) with x to the right and y down, the outlines about 1 from the middle.
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    circle = np.stack([np.sin(turn), -np.cos(turn)], axis=1)
    square = np.array([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)])
    star = circle[::6] * np.where(np.arange(10) % 2, 0.4, 1.1)[:, None]
    corner = np.array([(0.3, -1), (0.3, -0.3), (1, -0.3)])
    cross = np.concatenate([corner, corner[::-1] * (1, -1), -corner, corner[::-1] * (-1, 1)])
    arrow = [(0, -1.1), (0.9, 0), (0.35, 0), (0.35, 1), (-0.35, 1), (-0.35, 0), (-0.9, 0)]
    lobes = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    heart = np.stack([np.sin(turn) ** 3, -lobes / 16], axis=1)
    round_ones = [(circle,), (circle, 0.6 * circle), (circle, 0.85 * circle + (0.5, 0))]
    outlines: list[Sequence] = [*round_ones, (square,), (square, 0.6 * square), (1.1 * circle[::20],)]
    outlines += [(star,), (cross,), (arrow,), (heart,)]
    images = []
    for polygons in outlines:
        image = Image.new("L", (CANVAS, CANVAS))
        for polygon, ink in zip(polygons, (255, 0)):
            corners = CANVAS * (0.5 + 0.36 * np.asarray(polygon))
            ImageDraw.Draw(image).polygon([tuple(corner) for corner in corners], fill=ink)
        images.append(image)
    return images


def _warped(drawings: list[list[Image.Image]], y: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Shows, for each label, one of its class's drawings rotated, sheared, scaled and shifted: `(N, size, size)`."""
    # Twice the size of the result: bilinear sampling of anything larger would skip pixels.
    small = [[image.resize((2 * size, 2 * size), Image.Resampling.BOX) for image in images] for images in drawings]
    count = len(y)
    variant = generator.integers(len(drawings[0]), size=count)
    angle, shear = generator.uniform(-0.3, 0.3, (2, count))
    scale = generator.uniform(0.8, 1.15, (2, count))
    shift = generator.uniform(-2.5, 2.5, (2, count))
    cosine, sine = np.cos(angle), np.sin(angle)
    # Pillow maps each pixel of the result back onto the drawing: rotate, shear, then divide by the scale.
    matrix = np.array([[cosine + shear * sine, shear * cosine - sine], [sine, cosine]]) * 2 / scale[:, None]
    offset = size - (matrix * (size / 2 + shift)).sum(axis=1)
    rows = np.concatenate([matrix, offset[:, None]], axis=1).reshape(6, count).T.tolist()
    x = np.empty((count, size, size), np.uint8)
    for i in range(count):
        image = small[y[i]][variant[i]]
        x[i] = image.transform((size, size), Image.Transform.AFFINE, rows[i], Image.Resampling.BILINEAR)
    return x
