import numpy as np
import pytest
from PIL import Image, ImageDraw

from keras_examples.show.images import image_files, read_digit, read_photo


def seven(size=(200, 260), ink=0, paper=255, mode="L"):
    image = Image.new("L", size, paper)
    draw = ImageDraw.Draw(image)
    width, height = size
    stroke = max(2, width // 12)
    draw.line([(0.2 * width, 0.2 * height), (0.75 * width, 0.2 * height), (0.4 * width, 0.85 * height)], ink, stroke)
    return image.convert(mode)


def saved(image, path, **options):
    image.save(path, **options)
    return path


@pytest.fixture
def expected(tmp_path):
    return read_digit(saved(seven(), tmp_path / "expected.png")).astype(float)


def alike(digit, expected):
    assert digit.shape == (28, 28)
    assert digit.dtype == np.uint8
    return np.abs(digit - expected).mean() < 6


def test_a_digit_is_fitted_and_centred_as_in_mnist(expected):
    rows, columns = (np.flatnonzero((expected > 64).any(axis=axis)) for axis in (1, 0))
    assert 19 <= rows[-1] - rows[0] + 1 <= 20
    mass = [np.average(np.arange(28) + 0.5, weights=expected.sum(axis=axis)) for axis in (0, 1)]
    np.testing.assert_allclose(mass, 14, atol=0.6)
    assert expected.max() == 255
    assert expected[0, 0] == 0
    assert columns[0] > 3


@pytest.mark.parametrize(("ink", "paper"), [(255, 0), (30, 200), (180, 90)])
def test_light_on_dark_or_dark_on_light(tmp_path, expected, ink, paper):
    assert alike(read_digit(saved(seven(ink=ink, paper=paper), tmp_path / "digit.png")), expected)


@pytest.mark.parametrize("size", [(28, 36), (1000, 1300), (200, 260)])
def test_any_size(tmp_path, expected, size):
    digit = read_digit(saved(seven(size), tmp_path / "digit.png"))
    assert np.abs(digit - expected).mean() < 25  # pixels are coarse in the smallest


@pytest.mark.parametrize("ink", [0, 255])
def test_ink_on_a_transparent_ground(tmp_path, expected, ink):
    image = Image.new("RGBA", (200, 260), (ink, ink, ink, 0))
    image.putalpha(seven(ink=255, paper=0))
    assert alike(read_digit(saved(image, tmp_path / "digit.png")), expected)


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "RGBA", "LA"])
def test_any_colour_mode(tmp_path, expected, mode):
    assert alike(read_digit(saved(seven(mode=mode), tmp_path / "digit.png")), expected)


@pytest.mark.parametrize(
    ("kind", "white"), [("u2", 65535), ("u2", 255), ("i4", 255), ("i4", 65535), ("f4", 1), ("f4", 255)]
)
def test_more_than_8_bits_a_pixel(tmp_path, expected, kind, white):
    image = Image.fromarray((np.asarray(seven()) / 255 * white).astype(kind))
    assert alike(read_digit(saved(image, tmp_path / "digit.tiff")), expected)


def test_a_line_of_one_pixel_is_a_digit(tmp_path):
    image = Image.new("L", (50, 50), 255)
    ImageDraw.Draw(image).line([(25, 5), (25, 45)], 0, 1)
    assert read_digit(saved(image, tmp_path / "one.png")).max() > 200


def drawn(draw, side=800, paper=235):
    """A page with a seven in its middle, and under it what `draw` draws."""
    page = Image.new("L", (side, side), paper)
    draw(page, ImageDraw.Draw(page))
    digit = seven((side // 2, side // 2 * 13 // 10), ink=255, paper=0)
    page.paste(20, (side // 4, side // 6), digit)
    return np.asarray(page, np.float32)


def shaded(page):
    """Light that falls off by 100 grey levels from one corner to the other."""
    down, across = np.mgrid[0:1:800j, 0:1:800j]
    return page - 50 * (down + across)


def nothing(page, draw):
    pass


def rules(page, draw):
    for place in range(20, 800, 60):
        draw.line([(0, place), (800, place + 14)], 180, 2)


def grid(page, draw):
    for place in range(20, 800, 40):
        draw.line([(0, place), (800, place)], 190, 1)
        draw.line([(place, 0), (place, 800)], 190, 1)


def squares(page, draw):
    for place in range(10, 800, 18):
        draw.line([(0, place), (800, place)], 185, 2)
        draw.line([(place, 0), (place, 800)], 185, 2)


def holes(page, draw):
    for place in (150, 650):
        draw.ellipse((20, place, 80, place + 60), 20)


def specks(page, draw):
    for x, y in np.random.default_rng(0).integers(0, 800, (25, 2)):
        draw.ellipse((x, y, x + 5, y + 5), 60)


def table(page, draw):
    draw.polygon([(0, 0), (60, 0), (30, 800), (0, 800)], 60)


def sheet(page, draw):
    page.paste(70, (0, 0, 800, 800))
    draw.polygon([(110, 60), (700, 90), (680, 760), (90, 730)], 235)


def turned_sheet(page, draw):
    page.paste(70, (0, 0, 800, 800))
    draw.polygon([(185, 20), (790, 150), (655, 770), (50, 640)], 235)


PAPERS = {
    "plain": drawn(nothing),
    "shaded": shaded(drawn(nothing)),
    "ruled": drawn(rules),
    "gridded": drawn(grid),
    "with specks": drawn(specks),
    "a table's edge": drawn(table),
    "a sheet on a table": drawn(sheet),
    "a turned sheet on a table": drawn(turned_sheet),
    "punched": drawn(holes),
    "a black frame": np.pad(drawn(nothing), 25),
    "pencil": 0.25 * drawn(nothing) + 160,
    "noise": drawn(nothing) + np.random.default_rng(0).normal(0, 15, (800, 800)),
    "light on dark, ruled": 255 - drawn(rules),
    "cropped closely": drawn(nothing)[210:610, 262:525],
}


@pytest.mark.parametrize("kind", PAPERS)
def test_only_the_digit_is_seen_of_a_page(tmp_path, expected, kind):
    page = Image.fromarray(PAPERS[kind].clip(0, 255).astype(np.uint8))
    assert alike(read_digit(saved(page, tmp_path / "page.png")), expected)


def test_a_one_in_small_squares_is_no_grid(tmp_path):
    page = Image.new("L", (800, 800), 245)
    squares(page, ImageDraw.Draw(page))
    ImageDraw.Draw(page).line([(400, 220), (400, 580)], 40, 34)
    digit = read_digit(saved(page, tmp_path / "one.png"))
    assert (digit.max(axis=0) > 100).sum() < 8


@pytest.mark.parametrize("ink", [0, 90])
def test_a_thick_zero_that_fills_the_picture_keeps_its_hole(tmp_path, ink):
    image = Image.new("L", (280, 280), 255)
    ImageDraw.Draw(image).ellipse((60, 20, 220, 260), outline=ink, width=50)
    digit = read_digit(saved(image, tmp_path / "zero.png"))
    assert digit[14, 14] == 0
    assert digit[14].max() > 200 < digit[:, 14].max()


@pytest.mark.parametrize("side", [200, 800, 2000])
@pytest.mark.parametrize("pen", [1, 3, 8])
def test_thin_strokes_become_as_wide_as_those_of_mnist(tmp_path, side, pen):
    image = Image.new("L", (side, side), 240)
    ImageDraw.Draw(image).line([(0.3 * side, 0.3 * side), (0.6 * side, 0.3 * side), (0.4 * side, 0.8 * side)], 40, pen)
    digit = read_digit(saved(image, tmp_path / "thin.png")) / 255
    rows = digit[12:20].sum(axis=1)  # across its long stroke
    assert rows.min() > 1.5
    assert rows.max() < 4


def blank(draw):
    page = Image.new("L", (800, 800), 235)
    draw(page, ImageDraw.Draw(page))
    return page


def dot(page, draw):
    draw.ellipse((380, 380, 440, 440), 20)


def two_sevens(page, draw):
    for left in (100, 450):
        page.paste(20, (left, 200), seven((250, 320), ink=255, paper=0))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (nothing, "There is no stroke in the image."),
        (rules, "There is no stroke in the image."),
        (grid, "There is no stroke in the image."),
        (sheet, "There is no stroke in the image."),
        (table, "There is no stroke in the image."),
        (specks, "There is no stroke in the image."),
        (dot, "There is a dot in the image, but no stroke."),
        (two_sevens, "There are several digits in the image."),
    ],
)
def test_a_page_without_a_digit_is_no_zero(tmp_path, draw, message):
    with pytest.raises(ValueError, match=f"{message} Received: image=.*page.png'. Give one with a single digit on it."):
        read_digit(saved(blank(draw), tmp_path / "page.png"))


def test_a_folder_stands_for_its_images_by_name(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", ".DS_Store"):
        (tmp_path / name).touch()
    assert [file.name for file in image_files([tmp_path / "notes.txt", tmp_path])] == ["notes.txt", "a.JPG", "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"No images in the folder. Received: .*empty'"):
        image_files([tmp_path / "empty"])


def test_bad_images(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such image. Received: image="):
        read_digit(tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"Not an image that can be read. Received: image="):
        read_digit(tmp_path / "text.png")
    (tmp_path / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    with pytest.raises(ValueError, match="Not an image"):
        read_photo(tmp_path / "drawing.svg")
    whole = saved(seven((400, 400)), tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match=r"cannot be read .*Received: image="):
        read_digit(tmp_path / "cut.png")
    saved(Image.new("1", (10_000, 8_500)), tmp_path / "large.png")
    with pytest.raises(ValueError, match=r"The image is too large. Received: .*10000×8500"):
        read_photo(tmp_path / "large.png")


def photo():
    """Red on the left, blue on the right, a green top; wider than high."""
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:, :45] = (220, 20, 20)
    pixels[:, 45:] = (20, 20, 220)
    pixels[:20] = (20, 200, 20)
    return Image.fromarray(pixels)


def check(pixels):
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert pixels[2, 16].argmax() == 1
    assert pixels[25, 3].argmax() == 0
    assert pixels[25, 28].argmax() == 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "P"])
def test_a_photo_in_any_colour_mode(tmp_path, mode):
    image = photo().convert(mode)
    check(read_photo(saved(image, tmp_path / f"photo.{'tif' if mode == 'CMYK' else 'png'}")))


def test_a_photo_in_16_bit_grey(tmp_path):
    grey = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    pixels = read_photo(saved(grey, tmp_path / "grey.png"))
    assert pixels[0].max() < 20
    assert pixels[-1].min() > 235
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_exif_rotation_is_obeyed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned 90° clockwise
    check(read_photo(saved(photo().rotate(90, expand=True), tmp_path / "turned.jpg", exif=exif, quality=95)))
