"""What is written on a sheet of paper, apart from its light, rules, edges and specks.

Pages are `(height, width)` float32 grey levels, 0–255, the longer side `SIDE`.
"""

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

SIDE = 400  # pixels: a page is looked at in this size
FAINTEST = 10  # grey levels between paper and ink


def find_ink(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Finds what is written on a page, dark on light or light on dark.

    Args:
        image: A page in grey (mode L), of any size.

    Returns:
        How far each pixel is from the paper around it, `(height, width)` float32, grey levels, at least 0, the longer
        side `SIDE`; and which pixels are written on, bool of that shape, none where there is no stroke.
    """
    relief = _without_rules(_relief(np.asarray(scaled(_page(image), SIDE), np.float32)))
    noise = 1.4826 * np.median(np.abs(relief))  # the standard deviation, were it normal
    ink = max((relief, -relief), key=lambda ink: ink[_marks(ink, 5 * noise)].sum()).clip(0)
    found = _marks(ink, 5 * noise)
    # Halfway between ink and paper lies the edge of a stroke.
    return ink, _marks(ink, np.percentile(ink[found], 80) / 2) if found.any() else found


def scaled(image: Image.Image, longest: int) -> Image.Image:
    """The image with its longer side `longest` pixels."""
    scale = longest / max(image.size)
    return image.resize([max(1, round(scale * side)) for side in image.size], Image.Resampling.BICUBIC)


def _page(image: Image.Image) -> Image.Image:
    """The sheet alone where one lies on a table or in a frame, and paper around what was cropped closely."""
    small = np.asarray(scaled(image, SIDE // 2))
    edge = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    level, halfway = int(np.median(edge)), np.percentile(small, [3, 97]).mean()
    if ((edge > halfway) != (level > halfway)).mean() > 1 / 3:
        return image  # nothing of one brightness goes around it
    inside = (small > halfway) != (level > halfway)
    labels, _ = ndimage.label(inside)
    for label, place in enumerate(ndimage.find_objects(labels), 1):
        mark = labels[place] == label
        whole = ndimage.binary_fill_holes(mark)
        # A sheet is large, broader than a stroke, nearly a rectangle, and little is written on it.
        large, broad = mark.size > small.size / 5, min(mark.shape) > 0.4 * max(mark.shape)
        if large and broad and mark.sum() > 0.7 * whole.sum() and _fills_rectangle(whole):
            (top, bottom), (left, right) = (
                [int(end * max(image.size) / max(small.shape)) for end in (part.start, part.stop)] for part in place
            )
            sheet = image.crop((left, top, right, bottom))
            within = Image.fromarray(ndimage.binary_erosion(whole, iterations=2)).resize(sheet.size)
            return Image.composite(sheet, Image.new("L", sheet.size, int(np.median(small[place][mark]))), within)
    # Much ink, none of it in a corner, where a table's would be, and the same paper all around: it was cropped closely.
    darkest, brightest = np.percentile(small, [1, 99])
    ink = np.abs(small - float(level)) > (brightest - darkest) / 2
    even = (np.abs(edge - float(level)) < 0.2 * (brightest - darkest)).mean() > 0.6
    close = ink.mean() > 0.15 and even and not ink[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    return ImageOps.expand(image, max(image.size) // 2, level) if close else image


def _fills_rectangle(mark: np.ndarray) -> bool:
    """Whether a mark, `(height, width)` bool, has nearly the area of a rectangle around it, turned by up to 20°."""
    places = np.argwhere(mark)
    for angle in np.radians(np.arange(-20, 21, 4)):
        turned = places @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if len(places) > 0.8 * np.prod(np.ptp(turned, axis=0) + 1):
            return True
    return False


def _relief(page: np.ndarray) -> np.ndarray:
    """How much darker than the paper around it each pixel is."""
    small = np.asarray(scaled(Image.fromarray(page), SIDE // 10))
    # Light that falls off across the page is the slope that most neighbours have; the median takes up the rest.
    across, down = np.meshgrid(*(np.arange(side) for side in small.shape[::-1]))
    slopes = [np.median(np.diff(small, axis=axis)) if small.shape[axis] > 1 else 0 for axis in (0, 1)]
    plane = slopes[0] * down + slopes[1] * across
    window = [max(1, side * 2 // 3) for side in small.shape]
    paper = plane + ndimage.median_filter(small - plane, window, mode="mirror")
    smooth = Image.fromarray(paper.astype(np.float32)).resize(page.shape[::-1], Image.Resampling.BICUBIC)
    return ndimage.gaussian_filter(smooth - page, 1)


def _without_rules(relief: np.ndarray) -> np.ndarray:
    for _ in range(2):  # from left to right, then from top to bottom
        relief = _without_level_rules(relief).T
    return relief


def _without_level_rules(relief: np.ndarray) -> np.ndarray:
    """Drops rules that run from left to right: along their slope, they are the medians of rows."""
    height, width = relief.shape
    rows, columns = np.ogrid[:height, :width]

    def rules(rise: int, step: int = 1) -> np.ndarray:
        sloped = relief[(rows + rise * columns[:, ::step] // width) % height, columns[:, ::step]]
        medians = np.median(sloped, axis=1)
        return medians - ndimage.median_filter(medians, 15, mode="wrap")  # a band as wide as that is no rule

    rise = max(range(-24, 25, 2), key=lambda rise: rules(rise, 16).var() / (1 + abs(rise) / 50))
    depth = ndimage.maximum_filter(np.abs(rules(rise)), 3)[(rows - rise * columns // width) % height]
    return np.where(np.abs(relief) > 2 * depth, relief, 0)  # ink that crosses a rule stays


def _marks(ink: np.ndarray, threshold: float) -> np.ndarray:
    """Where the largest mark is, and others that are no specks beside it, as bool."""
    labels, count = ndimage.label(ink > max(threshold, FAINTEST), np.ones((3, 3)))
    mass = ndimage.sum_labels(ink, labels, range(count + 1))
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    share = np.bincount(border, minlength=count + 1) / len(border)
    mass *= np.select([share == 0, share < 0.15], [1, 0.05])  # what meets the border is rarely it, a table never
    top, left = (max(1, side // 20) for side in ink.shape)
    inner = np.bincount(labels[top:-top, left:-left].ravel(), minlength=count + 1)
    mass[inner == 0] = mass[0] = 0  # nor is what lies along it
    largest = mass.max()
    if largest <= mass.sum() / 4:  # among many of a size, none is it
        return np.zeros(ink.shape, bool)
    boxes = np.array([[side.start, side.stop] for place in ndimage.find_objects(labels) for side in place])
    starts, stops = boxes.reshape(-1, 2, 2).transpose(2, 0, 1)
    main = mass[1:].argmax()
    gaps = np.maximum(starts - stops[main], starts[main] - stops).max(axis=1)
    # What is small and further away than half a digit is a hole in the sheet, or a page's number.
    near = gaps < 0.5 * (stops[main] - starts[main]).max()
    kept = mass[1:] > np.where(near, 0.08, 0.25) * largest
    return np.append(False, kept)[labels]
