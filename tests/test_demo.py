"""The page to draw on, in a real browser that reaches nothing but this machine.

python tests/test_demo.py 50    # so many visitors at once; each has to get what it would get alone
"""

import base64
import contextlib
import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from conftest import ROOT
from PIL import Image, ImageDraw

pytest.importorskip("gradio")
from keras_examples import weights
from keras_examples.data import DATASETS, load_cifar10, load_mnist
from keras_examples.models import build
from keras_examples.show import answers, demo
from keras_examples.show.text import generate

NARROW = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def arguments(port):
    return [sys.executable, str(ROOT / "cli.py"), "demo", "--port", str(port)]


@contextlib.contextmanager
def serving(port, folder):
    """The address of a page that serves the weights in a folder, or those that ship; it may complain of nothing."""
    process = subprocess.Popen(arguments(port), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().split()[0]
    finally:
        process.terminate()
        complaints = process.communicate(timeout=20)[1]
    assert (process.returncode, complaints) == (130, "Interrupted.\n")


def post(address, path, body, kind="application/json"):
    body = json.dumps(body).encode() if kind == "application/json" else body
    with urlopen(Request(f"{address}/gradio_api/{path}", body, {"Content-Type": kind}), timeout=600) as answer:
        return json.load(answer)


def queued(address, session, function, *data):
    """What a function of the page returns."""
    post(address, "queue/join", {"fn_index": function, "data": data, "session_hash": session})
    with urlopen(f"{address}/gradio_api/queue/data?session_hash={session}", timeout=600) as events:
        (end,) = (event for event in events if b"process_completed" in event)
    return json.loads(end.removeprefix(b"data: "))["output"]


def places(address):
    """The numbers that a page gave its canvas and its functions, by their names."""
    with urlopen(f"{address}/config", timeout=20) as answer:
        config = json.load(answer)
    (canvas,) = (each["id"] for each in config["components"] if each["props"].get("server_fns"))
    return {"canvas": canvas} | {each["api_name"]: each["id"] for each in config["dependencies"]}


def visit(address, folder, visitors, digits=10):
    """What so many visitors at once ask, get, and would get alone, and the longest that one waited for a digit."""

    def restore(example):
        path = weights.find(example, folder=folder / "weights")
        return path, *weights.restore(path, example)

    place, (_, *reader), (_, *seer), (path, writer, metadata) = (
        places(address),
        *map(restore, ("mnist-cnn", "cifar-cnn", "charrnn")),
    )
    text = "We " + "".join(generate(writer, weights.vocabulary_of(path, metadata), "We ", demo.LENGTH, 0))
    drawings = [answers.data_url(255 - image) for image in load_mnist("synthetic").x_test[: visitors * digits]]
    photos = load_cifar10("synthetic").x_test

    def ask(visitor):
        pairs, waited = [], 0.0
        for drawing in drawings[visitor::visitors]:
            start = time.monotonic()
            body = {"component_id": place["canvas"], "fn_name": "read", "data": drawing, "session_hash": f"d{visitor}"}
            pairs.append((post(address, "component_server", body), answers.read_drawing, reader, drawing))
            waited = max(waited, time.monotonic() - start)
        file = folder / f"{visitor}.png"
        Image.fromarray(photos[visitor]).save(file)
        part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="photo.png"\r\n\r\n'
        upload = part + file.read_bytes() + b"\r\n--x--\r\n"
        (uploaded,) = post(address, "upload", upload, "multipart/form-data; boundary=x")
        photo = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
        output = queued(address, f"p{visitor}", place["read"], photo)
        pairs.append((output.get("data", [output])[0], answers.seen, seer, str(file)))
        output = queued(address, f"t{visitor}", place["stream"], "We ", 0)
        return pairs, output.get("data", [output])[0], waited

    with ThreadPoolExecutor(visitors) as pool:
        found = [*pool.map(ask, range(visitors))]
    asked = [(got, function(*model, picture)) for pairs, *_ in found for got, function, model, picture in pairs]
    asked += [(continued, text) for _, continued, _ in found]
    return asked, max(waited for *_, waited in found)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of a page that knows four kinds of weights, and their folder."""
    from keras_examples.training import fit

    folder = tmp_path_factory.mktemp("demo")
    target = folder / "weights" / "mnist-cnn-synthetic.weights.h5"
    fit("mnist-cnn", data="synthetic", limit=4000, epochs=2, augment=True, save=target)
    photos = folder / "weights" / "cifar-cnn-synthetic.weights.h5"
    fit("cifar-cnn", data="synthetic", limit=256, epochs=1, save=photos)
    fit("autoencoder", data="synthetic", limit=64, epochs=1, save=folder / "weights" / "autoencoder.weights.h5")
    text = folder / "novel.txt"
    text.write_text("We all read on, and on. " * 400)
    fit("charrnn", text=text, limit=16, epochs=1, batch_size=8, save=folder / "weights" / "charrnn.weights.h5")
    with serving(7899, folder) as address:
        yield address, folder


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
    from selenium.webdriver.common.actions.pointer_input import PointerInput

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
        found = [(float(share.rstrip("%")), name) for name, share in shares if name.isdecimal() == (of == "digits")]
        return max(found, default=(0.0, ""))  # a stroke that has just begun is a dot, of which a line tells

    def words():
        return browser.execute_script("return document.querySelector('.answer b')?.textContent")

    def saw():  # at once, since the next answer takes its place
        return browser.execute_script(
            "const i = document.querySelector('.answer img'); return i && [i.src, i.naturalWidth, i.alt]"
        )

    browser.get(page[0])
    assert until(lambda: find("h1", "Try the networks"))
    strokes = {"1": [(0, -100), (0, 100), (0, 100)], "7": [(-60, -90), (60, 0), (60, 0), (-40, 90), (-40, 90)]}
    for digit, (start, *moves) in strokes.items():
        click("button", "Clear")
        touch = PointerInput("touch", "finger") if digit == "7" else None
        hand = (
            ActionChains(browser, duration=20, devices=[touch] if touch else None)
            .move_to_element_with_offset(find("canvas"), *start)
            .click_and_hold()
        )
        for move in moves:
            hand.move_by_offset(*move)
        hand.release().perform()
        assert until(lambda digit=digit: likeliest("digits")[1] == digit), likeliest("digits")
        assert until(lambda digit=digit: re.fullmatch(f"Reads {digit}, [0-9]+ % sure", words() or "")), words()
    with_wide_pen = saw()
    assert with_wide_pen[1:] == [28, "What the network saw, 28×28 pixels"]
    browser.execute_script("document.querySelector('input[type=range]').value = 8")
    hand = ActionChains(browser, duration=20).move_to_element_with_offset(find("canvas"), 0, -90).click_and_hold()
    hand.move_by_offset(0, 200).release().perform()
    assert until(lambda: saw() not in (None, with_wide_pen))
    before = saw()
    browser.find_element("css selector", "img[alt='A sample of 0']").click()
    assert until(lambda: saw() not in (None, before))
    assert until(lambda: re.fullmatch("Reads 0, [0-9]+ % sure", words() or "")), words()

    click("button[role=tab]", "Photo")
    (tmp_path / "photo.svg").write_text(SVG)
    (tmp_path / "photo.jpg").write_bytes(b"no picture")
    Image.effect_noise((400, 300), 90).save(tmp_path / "photo.png")
    for name, answer in (
        ("photo.svg", lambda: find("body", "Not an image that can be read. Received: image='photo.svg'.")),
        ("photo.jpg", lambda: find("body", "Not an image that can be read. Received: image='photo.jpg'.")),
        ("photo.png", lambda: likeliest("photos")[0] > 10 and find("b", "Sees a")),
    ):
        browser.find_element("css selector", "input[type=file]").send_keys(str(tmp_path / name))
        assert until(answer), name
        if name == "photo.svg":  # where it is narrow, what is wrong covers no tab
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", NARROW)
            assert until(lambda: find("[data-testid=toast-body]"))
            click("button[role=tab]", "Text")
            click("button[role=tab]", "Photo")
            assert browser.execute_script("return document.documentElement.scrollWidth") == 390
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        clear = "const clear = document.querySelector('button[aria-label=Clear]'); clear?.click(); return clear"
        assert name == "photo.png" or until(lambda clear=clear: browser.execute_script(clear)), name

    click("button[role=tab]", "Autoencoder")
    until(lambda: find(".gallery-item")).click()
    pictures = "return [...document.querySelectorAll('.image-frame img')].filter(img => img.offsetParent).length"
    assert until(lambda: browser.execute_script(pictures) == 4)

    click("button[role=tab]", "Text")
    prompt = until(lambda: find("textarea[placeholder='How the text begins']"))
    prompt.send_keys("We ")
    answer = find("textarea:disabled")
    look = """const [answer] = arguments; const seen = window.seen = new Set()
    const look = () => { seen.add(answer.value.length); requestAnimationFrame(look) }; look()"""
    browser.execute_script(look, answer)
    click("button", "Continue")
    lengths = until(lambda: 503 in (seen := browser.execute_script("return [...window.seen]")) and seen)
    assert any(3 < length < 503 for length in lengths), "the text came all at once"
    assert answer.get_property("value").startswith("We ")
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


@pytest.mark.slow
def test_visitors_at_once_get_what_each_would_get_alone(page):
    asked, _ = visit(*page, 5, 3)
    assert len(asked) == 25
    assert all(got == alone for got, alone in asked)


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
    texts = [block.value for block in demo.page().blocks.values() if isinstance(block, demo.gradio.HTML)][1:]
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
    line = answers.read_drawing(model, metadata, "data:image/png;base64," + base64.b64encode(drawing).decode())
    assert line.startswith(answer)
    assert "Received: " in line
    assert os.sep not in re.sub("</?p>", "", line)


@pytest.mark.slow
def test_hand_made_requests_get_a_line_and_leave_nothing_on_the_server(tmp_path):
    for example, sizes, vocabulary in (("mnist-cnn", {}, None), ("charrnn", {"vocabulary_size": 3, "units": 4}, "abc")):
        metadata = {"example": example, "sizes": sizes, "vocabulary": vocabulary, "data": "real", "classes": None}
        weights.write(tmp_path / weights.default_path(example, "real"), build(example, sizes), metadata)
    with serving(7898, tmp_path) as address:
        place = places(address)
        for drawing in (None, 5, [None]):
            body = {"component_id": place["canvas"], "fn_name": "read", "data": drawing, "session_hash": "x"}
            line = post(address, "component_server", body)
            assert line.startswith(f"<p>Not a drawing. Received: {drawing}.")
        for data in ([None, None], ["a", None], [None, 1], ["a", "b"], ["a", 3], ["a", math.nan]):
            line = html.unescape(queued(address, "x", place["stream"], *data)["error"])
            assert line.startswith("Not a prompt and a temperature from 0 to 2. Received: "), data


def test_samples_are_what_the_weights_were_trained_on_if_it_is_at_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [*answers.samples("mnist-cnn", "real")] == [*"0123456789"]  # drawn ones
    assert answers.samples("cifar-cnn", "real") == {}
    assert len(answers.samples("cifar-cnn", "synthetic")) == 10
    (tmp_path / "datasets" / "cifar-10-batches-bin").mkdir(parents=True)
    for path in DATASETS["cifar10"].files[0].forms[0]:
        (tmp_path / "datasets" / path).write_bytes(b"damaged")
    assert answers.samples("cifar-cnn", "real") == {}


def test_a_drawing_is_read_like_a_file_and_none_gives_empty_bars(trained_linear, tmp_path):
    model, metadata = weights.restore(trained_linear, "mnist-linear")
    file = tmp_path / "seven.png"
    image = Image.new("RGB", (280, 280), "white")
    ImageDraw.Draw(image).line([(60, 50), (200, 50), (120, 230)], fill="black", width=22)
    image.save(file)
    drawing = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    assert answers.read_drawing(model, metadata, drawing) == answers.seen(model, metadata, str(file))
    assert answers.read_drawing(model, metadata, "").count(">0.0%<") == 10


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


if __name__ == "__main__":
    visitors = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder, serving(7897, folder) as address:
        start = time.monotonic()
        asked, waited = visit(address, Path(folder), visitors)
        wrong = sum(got != alone for got, alone in asked)
        seconds = f"{time.monotonic() - start:.0f} s with the check, at most {waited:.1f} s for a digit"
        print(f"{visitors} visitors, {len(asked)} answers, {wrong} wrong; {seconds}")
    sys.exit(bool(wrong))
