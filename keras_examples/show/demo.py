"""A page to try the models on: draw a digit, drop a photo, have a text continued."""

import contextlib
import html
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
import gradio
import keras
import numpy as np
from PIL import Image

from keras_examples import weights
from keras_examples.show.answers import CANVAS, DRAW, read_drawing, sample_buttons, samples, seen, told
from keras_examples.show.images import read_photo
from keras_examples.show.text import generate

PROMPT, LENGTH = 10_000, 500  # characters
WAITING = 100  # visitors' wishes that queue up before the next one is turned away
CSS = ".toast-wrap { top: auto !important; bottom: 16px }"  # an error covers no tab
ABOUT = """<h1 style="font-size:1.6em;margin:0">Try the networks</h1>
<p>Draw a digit, give a photo or begin a text: small networks, trained with keras-examples, answer.</p>"""


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
                css=CSS,
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
    with gradio.Blocks(title="keras-examples: try the networks", analytics_enabled=False) as blocks:
        gradio.HTML(ABOUT)
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
    """A canvas, and what the network makes of the drawing, while one draws."""
    path, model, metadata = _restore("mnist-cnn")

    def read(drawing: str) -> str:
        return read_drawing(model, metadata, drawing)

    about = f"Draw a digit, or choose one. {_told_of(path, metadata)}"
    buttons = sample_buttons(samples("mnist-cnn", metadata["data"]))
    gradio.HTML(read(""), html_template=CANVAS, js_on_load=DRAW, server_functions=[read], about=about, samples=buttons)


def _photo() -> None:
    """A photo, and what the network makes of it."""
    path, model, metadata = _restore("cifar-cnn")
    with gradio.Row():
        photo = _drop()
        with gradio.Column():
            gradio.HTML(f"<p>Give a photo of one of its ten classes. {_told_of(path, metadata)}</p>")
            answer = gradio.HTML(seen(model, metadata, None))
            _offer("cifar-cnn", metadata, photo)

    def read(file: str | None) -> str:
        with _one_line():
            return seen(model, metadata, file)

    photo.change(read, photo, answer, show_progress="hidden", api_visibility="private")


def _told_of(path: Path, metadata: dict[str, Any]) -> str:
    return html.escape(f"{metadata['example']} answers, trained on {metadata['data']} data ({path.name}).")


def _drop() -> gradio.Image:
    """A place for a photo, which is handed over as the file that came, for `images` to judge."""
    photo = gradio.Image(label="A photo", sources=["upload"], height=320, buttons=[], format="png")
    setattr(photo, "preprocess", lambda payload: payload and payload.path)  # noqa: B010  a subclass writes a .pyi file
    return photo


def _offer(example: str, metadata: dict[str, Any], photo: gradio.Image) -> None:
    """Samples to choose instead of a photo of one's own, if any are at hand."""
    if pictures := [enlarged(pixels, 8) for pixels in samples(example, metadata["data"]).values()]:
        rows = [[Image.fromarray(picture)] for picture in pictures]
        offer = gradio.Dataset(components=[gradio.Image(visible=False)], samples=rows, type="index", label="Samples")
        offer.click(pictures.__getitem__, offer, photo, show_progress="hidden", api_visibility="private")


def _autoencoder() -> None:
    path, model, metadata = _restore("autoencoder")
    parts = keras.Model(model.inputs[0], [model.layers[-3].output, model.outputs[0]])  # the code, and what comes of it

    def reconstruct(file: str | None) -> tuple[np.ndarray | None, ...]:
        if not file:
            return None, None, None
        with _one_line():
            photo = read_photo(file)
        code, copy = (keras.ops.convert_to_numpy(part)[0] for part in parts(photo[None], training=False))
        copy = (copy.clip(0, 1) * 255).round().astype(np.uint8)
        return enlarged(photo, 8), enlarged(copy, 8), enlarged(tiles(code), 8)

    gradio.HTML(f"<p>A photo of 3,072 numbers through 512 and back. {_told_of(path, metadata)}</p>")
    with gradio.Row():
        given = _drop()
        shown = [
            gradio.Image(label=label, height=320, format="png", interactive=False, buttons=[])
            for label in ("Input, 32×32", "Output", "Code, 8×8×8")
        ]
    _offer("autoencoder", metadata, given)
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

    gradio.HTML(f"<p>Text, a character at a time. {_told_of(path, metadata)}</p>")
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
        raise gradio.Error(told(error), print_exception=False) from error
