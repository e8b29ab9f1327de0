"""A picture from anywhere, made into what the models were trained on."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 80_000_000
DIGIT_SIDE, DIGIT_BOX = 28, 20  # MNIST fits a digit into 20×20 and centres its mass in 28×28
PHOTO_SIDE = 32
LARGE_SIDE = 2048


def read_digit(path: str | Path) -> np.ndarray:
    """Reads a drawn digit as MNIST prepared its own: cropped, fitted into 20×20, its mass centred, light on dark.

    Args:
        path: Image file of any size, light on dark or dark on light, with or without transparency.

    Returns:
        `(28, 28)` uint8, 0 for paper to 255 for ink.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no image, too large, or nothing is drawn on it.
    """
    grey = np.asarray(_read(path).convert("L"), np.float32)
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ink = np.abs(grey - np.median(edge))
    if ink.max() < 16:
        raise ValueError(f"The image is blank. Received: image={str(path)!r}. Give one with a digit drawn on it.")
    ink = 255 * ink / ink.max()
    rows, columns = (np.flatnonzero((ink > 64).any(axis=axis)) for axis in (1, 0))
    box = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8))
    scale = DIGIT_BOX / max(box.size)
    box = box.resize(
        [max(1, round(scale * side)) for side in box.size],
        Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC,
    )
    small = np.asarray(box, np.float32)
    centre = [np.average(np.arange(small.shape[axis]) + 0.5, weights=small.sum(axis=1 - axis)) for axis in (0, 1)]
    top, left = (
        int(np.clip(round(DIGIT_SIDE / 2 - middle), 0, DIGIT_SIDE - side)) for middle, side in zip(centre, small.shape)
    )
    digit = np.zeros((DIGIT_SIDE, DIGIT_SIDE), np.uint8)
    digit[top : top + small.shape[0], left : left + small.shape[1]] = small
    return digit


def read_photo(path: str | Path) -> np.ndarray:
    """Reads a photo, cropped to its central square and scaled to CIFAR-10's size.

    Args:
        path: Image file of any size and colour mode; its EXIF rotation is obeyed.

    Returns:
        `(32, 32, 3)` uint8, red, green and blue, 0–255.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no image, or too large.
    """
    return np.asarray(ImageOps.fit(_read(path), (PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS))


def _read(path: str | Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"The image is too large. Received: image={str(path)!r}, {image.width}×{image.height}. "
                    f"Scale it below {MAX_PIXELS // 10**6} megapixels."
                )
            image.draft(None, (LARGE_SIDE, LARGE_SIDE))  # a large JPEG is decoded to a half of its sides, or less
            ImageOps.exif_transpose(image, in_place=True)
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(
            f"Not an image that can be read. Received: image={str(path)!r}. Give a PNG, JPEG, WebP or the like."
        ) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"No such image. Received: image={str(path)!r}. Correct the path.") from error
    except OSError as error:
        raise OSError(f"The image cannot be read ({error}). Received: image={str(path)!r}. Save it anew.") from error
    upright: Image.Image = image
    if upright.mode.startswith("I"):  # 16 bits a pixel, which convert("L") would clip at 255
        upright = Image.fromarray((np.asarray(upright).clip(0, 65535) // 257).astype(np.uint8))
    if upright.has_transparency_data:
        pixels = np.asarray(_reduced(upright, "RGBA"), np.float32)
        opacity = pixels[..., 3:] / 255
        light = (pixels[..., :3] * opacity).sum() > 128 * 3 * opacity.sum()
        paper = 0 if light else 255  # the opposite of what is drawn
        upright = Image.fromarray((pixels[..., :3] * opacity + paper * (1 - opacity)).astype(np.uint8))
    return _reduced(upright, "RGB")


def _reduced(image: Image.Image, mode: str) -> Image.Image:
    """The image at most about 4,000 pixels wide and high, which is plenty, so that float32 copies of it stay small."""
    image = image if image.mode == mode else image.convert(mode)  # which would copy it
    return image.reduce(max(1, max(image.size) // LARGE_SIDE))
