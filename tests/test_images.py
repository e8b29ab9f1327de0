import numpy as np
import pytest
from PIL import Image, ImageDraw

from keras_examples.show.images import read_digit, read_photo


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


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "RGBA", "LA", "I;16"])
def test_any_colour_mode(tmp_path, expected, mode):
    if mode == "I;16":
        image = Image.fromarray(np.asarray(seven()).astype(np.uint16) * 257)
    else:
        image = seven(mode=mode)
    assert alike(read_digit(saved(image, tmp_path / "digit.png")), expected)


def test_a_line_of_one_pixel_is_a_digit(tmp_path):
    image = Image.new("L", (50, 50), 255)
    ImageDraw.Draw(image).line([(25, 5), (25, 45)], 0, 1)
    assert read_digit(saved(image, tmp_path / "one.png")).max() > 200


def test_bad_images(tmp_path):
    with pytest.raises(ValueError, match=r"The image is blank. Received: image="):
        read_digit(saved(Image.new("L", (30, 30), 200), tmp_path / "blank.png"))
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
