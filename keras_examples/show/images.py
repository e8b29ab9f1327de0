"""A picture from anywhere, made into what the models were trained on."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from keras_examples.show.paper import find_ink, scaled

MAX_PIXELS = 80_000_000
DIGIT_SIDE, DIGIT_BOX = 28, 20  # MNIST fits a digit into 20×20 and centres its mass in 28×28
PEN = 2.5  # pixels of that box: what MNIST's strokes are wide
PHOTO_SIDE = 32
LARGE_SIDE = 2048
EXTENSIONS = {suffix for suffix, form in Image.registered_extensions().items() if form in Image.OPEN}


def read_digit(path: str | Path) -> np.ndarray:
    """Reads a digit on paper as MNIST prepared its own: found, fitted into 20×20, its mass centred, light on dark.

    Shade, rules, frames, the table's edge and specks are left out, and thin strokes made as wide as MNIST's.

    Args:
        path: Image file of any size, light on dark or dark on light, with or without transparency.

    Returns:
        `(28, 28)` uint8, 0 for paper to 255 for ink.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no image, too large, or there is no stroke on it, a dot, or more than one digit.
    """
    ink, mask = find_ink(_read(path).convert("L"))
    if wrong := _no_digit(mask):
        raise ValueError(f"{wrong}. Received: image={str(path)!r}. Give one with a single digit on it.")
    size = max(np.ptp(places) + 1 for places in mask.nonzero())
    pen = 4 * ndimage.distance_transform_edt(mask)[mask].mean()  # in a stroke, a quarter of its width is the mean
    # To be as wide as MNIST's when the digit, then larger too, is fitted into the box.
    if (missing := (PEN * size - DIGIT_BOX * pen) / (DIGIT_BOX - PEN)) > 0:
        digit = (missing / 2 + 1 - ndimage.distance_transform_edt(~mask)).clip(0, 1)
    else:
        digit = (ink * ndimage.binary_dilation(mask, iterations=2) / np.percentile(ink[mask], 80)).clip(0, 1)
    rows, columns = (digit > 0.25).nonzero()
    box = digit[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    small = np.asarray(scaled(Image.fromarray((255 * box).astype(np.uint8)), DIGIT_BOX))
    corner = np.round((DIGIT_SIDE - 1) / 2 - np.array(ndimage.center_of_mass(small))).astype(int)
    top, left = corner.clip(0, DIGIT_SIDE - np.array(small.shape))
    return np.pad(small, [(start, DIGIT_SIDE - start - side) for start, side in zip((top, left), small.shape)])


def _no_digit(mask: np.ndarray) -> str:
    """Why what is written, `(height, width)` bool, is no digit, or nothing."""
    if not mask.any():
        return "There is no stroke in the image"
    height, width = (np.ptp(places) + 1 for places in mask.nonzero())
    if 2 * ndimage.distance_transform_edt(mask).max() > 0.55 * max(height, width):  # no digit of MNIST is so thick
        return "There is a dot in the image, but no stroke"
    places = ndimage.find_objects(ndimage.label(mask, np.ones((3, 3)))[0])
    tall = sorted((columns.start, columns.stop) for rows, columns in places if rows.stop - rows.start > 0.6 * height)
    if any(other[0] - one[1] > 0.1 * height for one, other in pairwise(tall)):  # side by side, and no broken stroke
        return "There are several digits in the image"
    return ""


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


def thumbnail(path: str | Path) -> np.ndarray:
    """A picture as it is, its longer side 256 pixels: `(height, width, 3)` uint8; raises as `read_photo` does."""
    return np.asarray(scaled(_read(path), 256))


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files at these paths, and of each folder those in it that are called like images, by name.

    Raises ValueError for a folder without any.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        inside = (
            sorted(file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS) if path.is_dir() else [path]
        )
        if not inside:
            raise ValueError(
                f"No images in the folder. Received: {str(path)!r}. Name one with PNG or JPEG files in it."
            )
        files += inside
    return files


def _read(path: str | Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height <= MAX_PIXELS:
                image.draft(None, (LARGE_SIDE, LARGE_SIDE))  # a large JPEG is decoded to a half of its sides, or less
                ImageOps.exif_transpose(image, in_place=True)
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"Not an image that can be read. Received: image={str(path)!r}. Give a PNG, JPEG, WebP or the like."
        ) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"No such image. Received: image={str(path)!r}. Correct the path.") from error
    except OSError as error:
        raise OSError(f"The image cannot be read ({error}). Received: image={str(path)!r}. Save it anew.") from error
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"The image is too large. Received: image={str(path)!r}, {width}×{height}. "
            f"Scale it below {MAX_PIXELS // 10**6} megapixels."
        )
    upright: Image.Image = image
    if upright.mode[0] in "IF":  # 16 bits a pixel or more, which convert("L") would clip at 255
        levels = np.nan_to_num(np.asarray(_reduced(upright, "F"))).clip(0)
        white = next((most for most in (1, 255, 65535) if levels.max() <= most), levels.max())
        upright = Image.fromarray((255 * levels / white).astype(np.uint8))
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
