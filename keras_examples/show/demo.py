"""A page to try the models on: draw a digit, drop a photo, have a text continued."""

import base64
import contextlib
import html
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
import gradio
import keras
import numpy as np

from keras_examples import weights
from keras_examples.show.images import read_photo
from keras_examples.show.sampling import names_of, probabilities
from keras_examples.show.text import generate

WAITING = 100  # visitors' wishes that queue up before the next one is turned away
PROMPT, LENGTH = 10_000, 500  # characters
DRAWING = 1_000_000  # bytes of base64
BAR = (
    '<div style="display:flex;align-items:center;gap:8px;margin:4px 0">'
    '<span style="width:6em;text-align:right">{name}</span><span style="flex:1;background:#8883">'
    '<span style="display:block;height:1.4em;width:{value:.1%};'
    'background:#0072b2"></span></span><span style="width:4em" data-class="{name}">{value:.1%}</span></div>'
)

CANVAS = """
<div style="display:flex;flex-wrap:wrap;gap:32px;padding-top:8px">
  <div style="width:320px;max-width:100%;text-align:center">
    <canvas width="280" height="280" style="width:100%;border:1px solid #888;touch-action:none"></canvas>
    <p>Draw a digit here. <button>Clear</button></p>
  </div>
  <div style="flex:1;min-width:280px"><p>${about}</p><div class="answer">${value}</div></div>
</div>
"""
DRAW = """
const canvas = element.querySelector('canvas'), answer = element.querySelector('.answer');
const pen = canvas.getContext('2d');
let last, blank, busy, stale;
const ask = async () => {  // one question at a time, the last one about the whole drawing
  stale = true;
  if (busy) return;
  busy = true;
  try {
    while (stale) { stale = false; answer.innerHTML = await server.read(blank ? '' : canvas.toDataURL()); }
  } finally { busy = false; }
};
const clear = () => { blank = true; pen.fillStyle = 'white'; pen.fillRect(0, 0, canvas.width, canvas.height); };
const place = event => {
  const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
};
const draw = event => {
  blank = false;
  pen.beginPath(); pen.moveTo(...last); last = place(event); pen.lineTo(last[0] + 0.1, last[1]); pen.stroke();
  ask();
};
clear();
pen.lineWidth = 22; pen.lineCap = 'round';
canvas.onpointerdown = event => { canvas.setPointerCapture(event.pointerId); last = place(event); draw(event); };
canvas.onpointermove = event => { if (event.buttons) draw(event); };
element.querySelector('button').onclick = () => { clear(); ask(); };
"""


def serve(host: str, port: int, echo: Callable[[str], None]) -> None:
    """Serves the page until the process is interrupted.

    Args:
        host: Address to listen on; `127.0.0.1` lets nobody in from outside.
        port: Port to listen on.
        echo: Takes the line that says where the page is.

    Raises:
        OSError: the port cannot be had.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # what visitors upload goes when we do
        blocks = page()
        try:
            blocks.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                ssr_mode=False,
                max_file_size="100mb",
                footer_links=[],
            )
        except OSError as error:
            raise OSError(
                f"The port is taken, or cannot be had. Received: --host {host} --port {port}. Choose another."
            ) from error
        echo(f"http://{host}:{port} until Ctrl-C")
        try:
            threading.Event().wait()
        finally:
            blocks.close(verbose=False)


def page() -> gradio.Blocks:
    """The page; a tab whose weights are missing says so."""
    tabs = {
        "Digit": _digit,
        "Photo": _photo,
        "Autoencoder": _autoencoder,
        "Text": _text,
    }
    with gradio.Blocks(title="keras-examples", analytics_enabled=False) as blocks:
        for name, fill in tabs.items():
            with gradio.Tab(name):
                try:
                    fill()
                except (OSError, ValueError) as error:
                    gradio.HTML(f"<p>{html.escape(str(error))}</p>")
    return blocks.queue(max_size=WAITING)


def _restore(example: str) -> tuple[Path, keras.Sequential, dict[str, Any]]:
    path = weights.find(example)
    return path, *weights.restore(path, example)


def _digit() -> None:
    """A canvas, and a bar for each class, which moves while one draws."""
    path, model, metadata = _restore("mnist-cnn")

    def read(drawing: str) -> str:
        return read_drawing(model, metadata, drawing)

    about = f"What mnist-cnn sees ({html.escape(str(path))})"
    gradio.HTML(read(""), html_template=CANVAS, js_on_load=DRAW, server_functions=[read], about=about)


def read_drawing(model: keras.Sequential, metadata: dict[str, Any], drawing: str) -> str:
    """What a model sees in a drawing, in HTML.

    Args:
        model: A classifier of digits.
        metadata: Of its weights.
        drawing: A picture as a data URL, or '' for none. A visitor may send anything.
    """
    if not isinstance(drawing, str):
        return f"<p>Not a drawing. Received: {html.escape(f'{drawing!r:.100}')}. Draw it on the page.</p>"
    if len(drawing) > DRAWING:
        return f"<p>The drawing is too large. Received: {len(drawing):,} bytes. Give at most {DRAWING:,}.</p>"
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        try:
            file.write(base64.b64decode(drawing.partition(",")[2]))
            file.flush()
            return seen(model, metadata, file.name if drawing else None)
        except (OSError, ValueError) as error:
            return f"<p>{_told(error)}</p>"


def _photo() -> None:
    """A photo, and a bar for each class."""
    path, model, metadata = _restore("cifar-cnn")
    with gradio.Row():
        photo = _drop()
        with gradio.Column():
            gradio.HTML(f"<p>What cifar-cnn sees ({html.escape(str(path))})</p>")
            answer = gradio.HTML(seen(model, metadata, None))

    def read(file: str | None) -> str:
        with _one_line():
            return seen(model, metadata, file)

    photo.change(read, photo, answer, show_progress="hidden", api_visibility="private")


def _drop() -> gradio.Image:
    """A place for a photo, which is handed over as the file that came, for `images` to judge."""
    photo = gradio.Image(label="A photo", sources=["upload"], height=320, buttons=[])
    setattr(photo, "preprocess", lambda payload: payload and payload.path)  # noqa: B010  a subclass writes a .pyi file
    return photo


def seen(model: keras.Sequential, metadata: dict[str, Any], file: str | None) -> str:
    """A bar for each class, in HTML, as long as it is probable for the picture in a file; without one, empty bars."""
    shares = probabilities(model, metadata, file) if file else dict.fromkeys(names_of(metadata), 0.0)
    return "".join(BAR.format(name=html.escape(name), value=value) for name, value in shares.items())


def _autoencoder() -> None:
    path, model, _ = _restore("autoencoder")
    parts = keras.Model(model.inputs[0], [model.layers[-3].output, model.outputs[0]])  # the code, and what comes of it

    def reconstruct(file: str | None) -> tuple[np.ndarray | None, ...]:
        if not file:
            return None, None, None
        with _one_line():
            photo = read_photo(file)
        code, copy = (keras.ops.convert_to_numpy(part)[0] for part in parts(photo[None], training=False))
        copy = (copy.clip(0, 1) * 255).round().astype(np.uint8)
        return enlarged(photo, 8), enlarged(copy, 8), enlarged(tiles(code), 8)

    gradio.HTML(f"<p>A photo through 512 numbers and back ({html.escape(str(path))})</p>")
    with gradio.Row():
        given = _drop()
        shown = [
            gradio.Image(label=label, height=320, format="png", interactive=False, buttons=[])
            for label in ("Input, 32×32", "Output", "Code, 8×8×8")
        ]
    given.change(reconstruct, given, shown, show_progress="hidden", api_visibility="private")


def tiles(code: np.ndarray) -> np.ndarray:
    """A code `(8, 8, 8)` as `(17, 35)` uint8: a square for each channel, in two rows, white for the largest number."""
    squares = code / max(code.max(), 1e-9) * 255
    padded = np.pad(squares, ((0, 1), (0, 1), (0, 0)), constant_values=255)
    return padded.reshape(9, 9, 2, 4).transpose(2, 0, 3, 1).reshape(18, 36)[:-1, :-1].astype(np.uint8)


def enlarged(image: np.ndarray, times: int) -> np.ndarray:
    return image.repeat(times, axis=0).repeat(times, axis=1)


def _text() -> None:
    path, model, metadata = _restore("charrnn")
    vocabulary = weights.vocabulary_of(path, metadata)

    def stream(prompt: str, temperature: float) -> Iterator[str]:
        with _one_line():
            if not (isinstance(prompt, str) and isinstance(temperature, int | float) and 0 <= temperature <= 2):
                raise ValueError(
                    f"Not a prompt and a temperature from 0 to 2. Received: {prompt!r:.40} and {temperature!r:.40}."
                )
            if len(prompt) > PROMPT:
                raise ValueError(
                    f"The prompt is too long. Received: {len(prompt):,} characters. Give at most {PROMPT:,}."
                )
            characters = generate(model, vocabulary, prompt, LENGTH, temperature)
        text = prompt
        for character in characters:
            text += character
            yield text

    gradio.HTML(f"<p>Text, a character at a time ({html.escape(str(path))})</p>")
    prompt = gradio.Textbox(label="Prompt", placeholder="How the text begins", lines=2)
    temperature = gradio.Slider(0, 2, 0.8, step=0.1, label="Temperature: 0 takes the likeliest character")
    setattr(temperature, "preprocess", lambda payload: payload)  # noqa: B010  gradio's fails on null
    with gradio.Row():
        start, stop = gradio.Button("Continue", variant="primary"), gradio.Button("Stop")
    answer = gradio.Textbox(label="Text", lines=12, interactive=False)
    running = gradio.on(
        [start.click, prompt.submit],
        stream,
        [prompt, temperature],
        answer,
        show_progress="hidden",
        concurrency_limit=4,
        api_visibility="private",
    )
    stop.click(None, cancels=[running], api_visibility="private")


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Shows on the page what was wrong with a visitor's wish."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise gradio.Error(_told(error), print_exception=False) from error


def _told(error: Exception) -> str:
    """What an error says, in HTML, without the folders that are ours."""
    return html.escape(re.sub(r"image='[^']*/", "image='", str(error)))
