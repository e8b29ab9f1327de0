"""The page to draw on, in a real browser that reaches nothing but this machine."""

import base64
import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from urllib.request import Request, urlopen

import pytest
from conftest import ROOT
from PIL import Image, ImageDraw

pytest.importorskip("gradio")
from keras_examples import weights
from keras_examples.models import build
from keras_examples.show import demo

SVG = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def arguments(port):
    return [sys.executable, str(ROOT / "cli.py"), "demo", "--port", str(port)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of a page without weights for the autoencoder."""
    from keras_examples.training import fit

    folder = tmp_path_factory.mktemp("demo")
    target = folder / "weights" / "mnist-cnn-synthetic.weights.h5"
    fit("mnist-cnn", data="synthetic", limit=4000, epochs=2, augment=True, save=target)
    photos = folder / "weights" / "cifar-cnn-synthetic.weights.h5"
    fit("cifar-cnn", data="synthetic", limit=256, epochs=1, save=photos)
    text = folder / "novel.txt"
    text.write_text("We all read on, and on. " * 400)
    fit("charrnn", text=text, limit=16, epochs=1, batch_size=8, save=folder / "weights" / "charrnn.weights.h5")
    process = subprocess.Popen(arguments(7899), cwd=folder, stdout=subprocess.PIPE, text=True)
    address = process.stdout.readline().split()[0]
    yield address
    process.terminate()
    assert process.wait(20) == 130


@pytest.fixture(scope="module")
def browser():
    selenium = pytest.importorskip("selenium.webdriver")
    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in found:
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = found[0]
    for option in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1280,900"):
        options.add_argument(f"--{option}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options, selenium.ChromeService(found[1]))
    driver.implicitly_wait(20)
    yield driver
    driver.quit()


def until(condition):
    end = time.monotonic() + 20
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


@pytest.mark.slow
def test_a_visitor_draws_digits_uploads_rubbish_and_reads_text(page, browser, tmp_path):
    from selenium.webdriver import ActionChains

    def find(selector, text=""):
        for each in browser.find_elements("css selector", selector):
            if each.is_displayed() and text in each.text:
                return each

    def click(selector, text):
        until(lambda: find(selector, text)).click()

    def likeliest(of):
        shares = browser.execute_script(
            "return [...document.querySelectorAll('[data-class]')].map(bar => [bar.dataset.class, bar.textContent])"
        )
        return max((float(share.rstrip("%")), name) for name, share in shares if name.isdecimal() == (of == "digits"))

    browser.get(page)
    strokes = {"1": [(0, -100), (0, 100), (0, 100)], "7": [(-60, -90), (60, 0), (60, 0), (-40, 90), (-40, 90)]}
    for digit, (start, *moves) in strokes.items():
        click("button", "Clear")
        hand = ActionChains(browser, duration=20).move_to_element_with_offset(find("canvas"), *start).click_and_hold()
        for move in moves:
            hand.move_by_offset(*move)
        hand.release().perform()
        assert until(lambda digit=digit: likeliest("digits")[1] == digit), likeliest("digits")

    click("button[role=tab]", "Photo")
    (tmp_path / "photo.svg").write_text(SVG)
    (tmp_path / "photo.jpg").write_bytes(b"no picture")
    Image.effect_noise((400, 300), 90).save(tmp_path / "photo.png")
    for name, answer in (
        ("photo.svg", lambda: find("body", "Not an image that can be read. Received: image='photo.svg'.")),
        ("photo.jpg", lambda: find("body", "Not an image that can be read. Received: image='photo.jpg'.")),
        ("photo.png", lambda: likeliest("photos")[0] > 10),
    ):
        browser.find_element("css selector", "input[type=file]").send_keys(str(tmp_path / name))
        assert until(answer), name
        clear = "const clear = document.querySelector('button[aria-label=Clear]'); clear?.click(); return clear"
        assert name == "photo.png" or until(lambda clear=clear: browser.execute_script(clear)), name

    click("button[role=tab]", "Autoencoder")
    assert until(lambda: find("body", "No trained weights for autoencoder."))

    click("button[role=tab]", "Text")
    prompt = until(lambda: find("textarea[placeholder='How the text begins']"))
    prompt.send_keys("We ")
    answer, lengths = find("textarea:disabled"), set()
    click("button", "Continue")
    assert until(lambda: lengths.add(len(answer.get_property("value"))) or max(lengths) == 503)
    assert any(3 < length < 503 for length in lengths), "the text came all at once"
    assert answer.get_property("value").startswith("We ")
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_line(page):
    result = subprocess.run(arguments(7899), capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 1
    assert result.stderr.startswith(
        "Error: The port is taken, or cannot be had. Received: --host 127.0.0.1 --port 7899."
    )
    assert len(result.stderr.splitlines()) == 1


def test_without_weights_every_tab_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "shipped", lambda name: tmp_path / name)
    texts = [block.value for block in demo.page().blocks.values() if isinstance(block, demo.gradio.HTML)]
    assert [text.split(" Received")[0] for text in texts] == [
        f"<p>No trained weights for {name}." for name in ("mnist-cnn", "cifar-cnn", "autoencoder", "charrnn")
    ]


@pytest.mark.parametrize(
    ("drawing", "answer"),
    [
        (b"no picture", "<p>Not an image that can be read."),
        (SVG.encode(), "<p>Not an image that can be read."),
        (bytes(1_000_000), "<p>The drawing is too large."),
    ],
)
def test_what_is_no_drawing_is_one_line_without_our_folders(trained_linear, drawing, answer):
    model, metadata = weights.restore(trained_linear, "mnist-linear")
    line = demo.read_drawing(model, metadata, "data:image/png;base64," + base64.b64encode(drawing).decode())
    assert line.startswith(answer)
    assert "Received: " in line
    assert os.sep not in re.sub("</?p>", "", line)


@pytest.mark.slow
def test_hand_made_requests_get_a_line_and_leave_nothing_on_the_server(tmp_path):
    for example, sizes, vocabulary in (("mnist-cnn", {}, None), ("charrnn", {"vocabulary_size": 3, "units": 4}, "abc")):
        metadata = {"example": example, "sizes": sizes, "vocabulary": vocabulary, "data": "real", "classes": None}
        weights.write(tmp_path / weights.default_path(example, "real"), build(example, sizes), metadata)
    process = subprocess.Popen(arguments(7898), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    address = process.stdout.readline().split()[0]

    def post(path, **body):
        body = json.dumps(body | {"session_hash": "x"}).encode()
        request = Request(f"{address}/gradio_api/{path}", body, {"Content-Type": "application/json"})
        return json.load(urlopen(request, timeout=20))

    try:
        config = json.load(urlopen(f"{address}/config", timeout=20))
        (canvas,) = (each["id"] for each in config["components"] if each["props"].get("server_fns"))
        (stream,) = (each["id"] for each in config["dependencies"] if each["api_name"] == "stream")
        for drawing in (None, 5, [None]):
            line = post("component_server", component_id=canvas, fn_name="read", data=drawing)
            assert line.startswith(f"<p>Not a drawing. Received: {drawing}.")
        for data in ([None, None], ["a", None], [None, 1], ["a", "b"], ["a", 3], ["a", math.nan]):
            post("queue/join", fn_index=stream, data=data)
            with urlopen(f"{address}/gradio_api/queue/data?session_hash=x", timeout=20) as events:
                (end,) = (event for event in events if b"process_completed" in event)
            line = html.unescape(json.loads(end.removeprefix(b"data: "))["output"]["error"])
            assert line.startswith("Not a prompt and a temperature from 0 to 2. Received: "), data
    finally:
        process.terminate()
        complaints = process.communicate(timeout=20)[1]
    assert complaints == "Interrupted.\n"


def test_a_drawing_is_read_like_a_file_and_none_gives_empty_bars(trained_linear, tmp_path):
    model, metadata = weights.restore(trained_linear, "mnist-linear")
    file = tmp_path / "seven.png"
    image = Image.new("RGB", (280, 280), "white")
    ImageDraw.Draw(image).line([(60, 50), (200, 50), (120, 230)], fill="black", width=22)
    image.save(file)
    drawing = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    assert demo.read_drawing(model, metadata, drawing) == demo.seen(model, metadata, str(file))
    assert demo.read_drawing(model, metadata, "").count(">0.0%<") == 10


@pytest.mark.parametrize("name", ["large.png", "large.jpg"])
def test_fifty_megapixels_take_less_than_400_megabytes(tmp_path, name):
    Image.new("RGB", (8000, 6250), (80, 80, 80)).save(tmp_path / name)
    code = (
        "import resource, sys; from keras_examples.show.images import read_photo\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = peak(); photo = read_photo(sys.argv[1]); print((photo == 80).all(), peak() - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / name)]
    right, megabytes = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
    assert right == "True"
    assert int(megabytes) < 400
