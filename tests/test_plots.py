import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from keras_examples.show import plots

RANDOM = np.random.default_rng(0)


def test_block_characters_show_four_pixels_each():
    x = np.zeros((1, 4, 6), np.uint8)
    x[0, 0, 0] = x[0, 1, 1] = 255  # upper left and lower right of the first character
    x[0, 2:, 2:4] = 255  # the whole of the fifth
    assert plots.blocks(x, np.array([3]), np.array([3])).splitlines() == ["▚", " █", " 3"]
    wide = plots.blocks(np.zeros((1, 4, 40), np.uint8), np.array([3]), np.array([8]))
    assert "read 8, is 3" in wide


def test_five_images_a_line():
    lines = plots.blocks(np.full((7, 28, 28), 255, np.uint8), np.arange(7), np.arange(7)).splitlines()
    assert [line.count("█") for line in lines] == [5 * 14] * 14 + [0] + [2 * 14] * 14 + [0]
    assert lines[14].split() == list("01234")


def test_pictures_are_written_whole(tmp_path):
    grey = RANDOM.integers(0, 256, (10, 28, 28), np.uint8)
    classes = np.arange(10)
    plots.save_predictions(tmp_path / "grid.png", grey, classes, classes[::-1], list("0123456789"), "digits")
    photos = RANDOM.integers(0, 256, (3, 32, 32, 3), np.uint8)
    plots.save_reconstructions(tmp_path / "pairs.png", photos, photos / np.float32(255), "pairs")
    for name, least_width in (("grid.png", 800), ("pairs.png", 400)):
        with Image.open(tmp_path / name) as image:
            assert image.width >= least_width
            assert len(image.convert("RGB").getcolors(1 << 24)) > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.png", "pairs.png"]


def test_single_images_keep_pixels_and_colours(tmp_path):
    photo = RANDOM.integers(0, 256, (32, 32, 3), np.uint8)
    plots.save_image(tmp_path / "new" / "uint8.png", photo)
    plots.save_image(tmp_path / "new" / "float.png", photo.astype(np.float32) / 255)
    for name in ("uint8.png", "float.png"):
        with Image.open(tmp_path / "new" / name) as image:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), photo)


def test_characters_without_a_font_are_told_and_warn_of_nothing(tmp_path, recwarn):
    for name, text in (("latin", "abc"), ("chinese", "学而时习之"), ("spaces", "a\tb\u3000c")):
        plots.save_predictions(tmp_path / f"{name}.png", np.zeros((1, 8, 8)), [0], [0], ["0"], text)
    assert [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)] == []


def test_an_installed_font_that_has_the_characters_is_used(tmp_path, monkeypatch):
    def square(pen):
        for point in ((0, 0), (0, 900), (900, 900), (900, 0)):
            (pen.lineTo if point[0] or point[1] else pen.moveTo)(point)
        pen.closePath()
        return pen.glyph()

    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "xue"])
    builder.setupCharacterMap({ord("学"): "xue"})
    builder.setupGlyf({name: square(TTGlyphPen(None)) for name in (".notdef", "xue")})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", "xue"), (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=0)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "squares.ttf")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist])
    font_manager.fontManager.addfont(tmp_path / "squares.ttf")
    grid = np.zeros((1, 8, 8)), [0], [0], ["0"]
    plots.save_predictions(tmp_path / "square.png", *grid, "学学学学")
    plots.save_predictions(tmp_path / "none.png", *grid, "")
    dark = [(np.asarray(Image.open(tmp_path / name).convert("L")) < 60).sum() for name in ("square.png", "none.png")]
    assert dark[0] - dark[1] > 4 * 200  # four squares of 11 points


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("mnist --arch cnn --limit 256 --epochs 2", "mnist-cnn"),
        ("autoencoder --limit 256 --epochs 1", "autoencoder"),
        ("charrnn --limit 16 --batch-size 8 --epochs 1", "charrnn"),
    ],
)
def test_a_run_is_drawn_beside_its_weights(run, tmp_path, arguments, name):
    picture = f"weights/{name}-synthetic.png"
    assert f"picture in {picture}" in run(f"{arguments} --data synthetic --plot").stdout.splitlines()
    with Image.open(picture) as image:
        assert image.size == (1680, 840)
        assert len(image.convert("RGB").getcolors(1 << 24)) > 200
    assert sorted(path.name for path in tmp_path.glob("weights/*.*")) == [
        f"{name}-synthetic.png", f"{name}-synthetic.weights.h5",
    ]  # fmt: skip


def test_a_picture_that_fails_does_not_lose_the_run(run, tmp_path):
    (tmp_path / "weights" / "mnist-linear-synthetic.png").mkdir(parents=True)
    output = run("mnist --data synthetic --limit 256 --epochs 1 --plot").output
    assert "no picture of the run: Cannot write mnist-linear-synthetic.png" in output
    assert (tmp_path / "weights" / "mnist-linear-synthetic.weights.h5").is_file()


def test_a_picture_of_another_is_not_overwritten(run, tmp_path):
    Image.new("RGB", (3, 2), "red").save(tmp_path / "a.png")
    command = "mnist --data synthetic --limit 256 --epochs 1 --plot --save a.weights.h5"
    assert "no picture of the run: a.png is there and is none of ours" in run(command).output
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (3, 2)
    (tmp_path / "a.png").unlink()
    assert [("picture in a.png" in run(command).output) for _ in range(2)] == [True, True]
