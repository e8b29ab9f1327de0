"""What the page shows of a picture, in HTML: the answer in words, what the network saw, and a bar for each class."""

import base64
import html
import io
import re
import tempfile
from typing import Any

import keras
import numpy as np
from PIL import Image

from keras_examples.data import Images, load, status
from keras_examples.examples import EXAMPLES
from keras_examples.show.sampling import names_of, probabilities, reader_for

DRAWING = 1_000_000  # bytes of base64
BAR = (
    '<div style="display:flex;align-items:center;gap:8px;margin:4px 0">'
    '<span style="width:6em;text-align:right">{name}</span><span style="flex:1;background:#8883">'
    '<span style="display:block;height:1.4em;width:{value:.1%};'
    'background:#0072b2"></span></span><span style="width:4em" data-class="{name}">{value:.1%}</span></div>'
)
SEEN = (
    '<div style="display:flex;gap:16px;align-items:center;min-height:90px"><div style="width:84px">{picture}</div>'
    '<p><b style="font-size:1.4em">{words}</b><br>{note}</p></div>'
)
PICTURE = '<img src="{url}" alt="{alt}" style="width:{width}px;image-rendering:pixelated;border:1px solid #888">'

CANVAS = """
<div style="display:flex;flex-wrap:wrap;gap:32px;padding-top:8px">
  <div style="width:320px;max-width:100%">
    <canvas width="280" height="280" role="img" aria-label="The drawing, with a mouse, a finger or a pen"
      style="display:block;width:100%;border:1px solid #888;touch-action:none;cursor:crosshair"></canvas>
    <div style="display:flex;gap:16px;align-items:center;justify-content:space-between;margin:12px 0">
      <label style="display:flex;gap:8px;align-items:center">Pen width
        <input type="range" min="6" max="40" value="22" style="width:120px"></label>
      <button class="clear" style="border:1px solid #888;border-radius:6px;padding:6px 16px">Clear</button>
    </div>
  </div>
  <div style="flex:1;min-width:280px">
    <p>${about}</p>
    <div class="answer" aria-live="polite">${value}</div>
    <div role="group" aria-label="Sample digits" style="display:flex;flex-wrap:wrap;gap:8px;padding-top:16px">
      ${samples}</div>
  </div>
</div>
"""
DRAW = """
const canvas = element.querySelector('canvas'), answer = element.querySelector('.answer');
const pen = canvas.getContext('2d'), width = element.querySelector('input');
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
  pen.lineWidth = width.value;
  pen.beginPath(); pen.moveTo(...last); last = place(event); pen.lineTo(last[0] + 0.1, last[1]); pen.stroke();
  ask();
};
clear();
pen.lineCap = 'round'; pen.imageSmoothingEnabled = false;
canvas.onpointerdown = event => {
  if (!event.isPrimary) return;
  canvas.setPointerCapture(event.pointerId); last = place(event); draw(event);
};
canvas.onpointermove = event => { if (event.buttons && event.isPrimary) draw(event); };
element.querySelector('.clear').onclick = () => { clear(); ask(); };
for (const button of element.querySelectorAll('.sample')) button.onclick = () => {
  clear(); blank = false;
  pen.drawImage(button.querySelector('img'), 0, 0, canvas.width, canvas.height);
  ask();
};
"""


def seen(model: keras.Sequential, metadata: dict[str, Any], file: str | None) -> str:
    """What a classifier makes of the picture in a file, in HTML; without one, empty bars."""
    names = names_of(metadata)
    if not file:
        shares, top = dict.fromkeys(names, 0.0), SEEN.format(picture="", words="", note="")
    else:
        pixels = reader_for(model)(file)
        shares = dict(zip(names, probabilities(model, pixels[None])[0].tolist()))
        digit = pixels.ndim == 2
        best = max(shares, key=lambda name: shares[name])
        article = "an" if best[0] in "aeiou" else "a"
        words = f"Reads {best}" if digit else f"Sees {article} {best}"
        words = f"{html.escape(words)}, {100 * shares[best]:.0f} % sure"
        size = f"{pixels.shape[1]}×{pixels.shape[0]}"
        picture = PICTURE.format(
            url=data_url(255 - pixels if digit else pixels), alt=f"What the network saw, {size} pixels", width=84
        )
        top = SEEN.format(picture=picture, words=words, note=f"On the left what the network saw, {size} pixels.")
    return top + "".join(BAR.format(name=html.escape(name), value=value) for name, value in shares.items())


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
            return f"<p>{told(error)}</p>"


def samples(example: str, source: str) -> dict[str, np.ndarray]:
    """A test picture of each class, by its name, such as the model was trained on; none if they are not at hand.

    Digits on white, which are drawn where MNIST's files are missing.
    """
    name = EXAMPLES[example].dataset
    digits = name == "mnist"
    if source != "synthetic" and status(name).missing:
        if not digits:
            return {}
        source = "synthetic"
    try:
        data: Images = load(name, "synthetic" if source == "synthetic" else "real")
    except (OSError, ValueError):  # damaged files, which are no reason to answer nothing
        return {}
    first = [int((data.y_test == label).argmax()) for label in range(10)]
    pictures = 255 - data.x_test[first] if digits else data.x_test[first]
    return dict(zip(data.class_names, pictures))


def sample_buttons(pictures: dict[str, np.ndarray]) -> str:
    """A button for each picture, in HTML."""
    return "".join(
        '<button class="sample" style="padding:0">'
        + PICTURE.format(url=data_url(pixels), alt=f"A sample of {html.escape(name)}", width=44)
        + "</button>"
        for name, pixels in pictures.items()
    )


def data_url(pixels: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def told(error: Exception) -> str:
    """What an error says, in HTML, without the folders that are ours."""
    return html.escape(re.sub(r"image='[^']*/", "image='", str(error)))
