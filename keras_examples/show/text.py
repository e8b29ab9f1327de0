"""Text from a `char_lstm`, a character at a time, and the model's loss over a whole text.

Both step the recurrence in NumPy, in float32: the text is the same on every backend, and a step costs a
matrix-vector product rather than a framework's dispatch of one.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import keras
import numpy as np

from keras_examples.data.vocabulary import Vocabulary

CHUNK = 1024  # characters whose gates and logits are held at a time


def generate(
    model: keras.Model,
    vocabulary: Vocabulary,
    prompt: str,
    length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | None = None,
    top_p: float | None = None,
    stop: str = "",
) -> Iterator[str]:
    """Continues a prompt, yielding each character as it is drawn.

    The prompt is read once and the state carried, so a character costs one step however long the text.

    Args:
        model: A `char_lstm`.
        vocabulary: The characters it was trained on.
        prompt: Text to continue, not yielded. If empty, the text begins as if after a newline, or after the
            vocabulary's first character where it has no newline.
        length: Characters to draw, at least 1.
        temperature: Divides the logits; 0 takes the likeliest character, above 1 flattens the distribution.
        top_k: Draw from the k likeliest characters only, at least 1, or None for all.
        seed: The same seed gives the same text; None a new one each time.
        top_p: Draw from the nucleus: the fewest likeliest characters, of those that `top_k` leaves, whose probabilities
            at this temperature add up to at least this much, above 0 and at most 1; None for all. Source: Holtzman et
            al., The Curious Case of Neural Text Degeneration, ICLR 2020, https://arxiv.org/abs/1904.09751
        stop: Text that ends the continuation once it occurs in it, as its last characters; '' for none.

    Raises:
        ValueError: An argument out of range, a prompt or stop with a character outside the vocabulary, or a model of
            another vocabulary; at the call, not at the first character.
    """
    if length < 1:
        raise ValueError(f"Nothing to generate. Received: length={length}. Give a length of at least 1.")
    if not 0 <= temperature < math.inf:
        raise ValueError(
            f"Temperature must be finite and not negative. Received: temperature={temperature}. "
            "Use 1 for the model's own distribution, 0 for the likeliest character."
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"No character to choose from. Received: top_k={top_k}. Give at least 1, or None for all.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"No such nucleus. Received: top_p={top_p}. Give more than 0 and at most 1, or None for all.")
    stream = _Stream(model)
    if len(stream.bias) != len(vocabulary):
        raise ValueError(
            f"The model has another vocabulary. Received: {len(vocabulary)} characters, a model of "
            f"{len(stream.bias)}. Use the vocabulary saved with its weights."
        )
    first = "\n" if "\n" in vocabulary.characters else vocabulary.characters[0]
    ids = vocabulary.encode(prompt or first)
    vocabulary.encode(stop)
    choose = partial(_choose, np.random.default_rng(seed), temperature, top_k, top_p)
    return _draw(stream, ids, vocabulary.characters, length, stop, choose)


def evaluate_text(model: keras.Model, ids: np.ndarray, verbose: int = 0) -> float:
    """The loss of a `char_lstm` over a whole text, the state carried from its first character to its last.

    Takes character ids `(N,)` integer, N ≥ 2, else raises ValueError; `verbose` 1 shows a bar. Returns the mean
    cross-entropy of the characters after the first, in nats a character.
    """
    if len(ids) < 2:
        raise ValueError(f"Text too short to predict. Received: {len(ids)} characters. Give at least 2.")
    stream, total, start = _Stream(model), 0.0, 1
    bar = keras.utils.Progbar(len(ids) - 1, verbose=verbose, unit_name="character")
    for outputs in stream.read(ids[:-1]):
        logits = stream.logits(outputs)
        logits -= logits.max(axis=1, keepdims=True)
        targets = ids[start : start + len(logits)]
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), targets]
        total += losses.sum(dtype=np.float64)
        start += len(logits)
        bar.add(len(logits))
    return float(total / (len(ids) - 1))


def _draw(
    stream: "_Stream",
    ids: np.ndarray,
    characters: str,
    length: int,
    stop: str,
    choose: Callable[[np.ndarray], int],
) -> Iterator[str]:
    end = ""
    for _ in range(length):
        for outputs in stream.read(ids):
            logits = stream.logits(outputs[-1])
        ids = np.array([choose(logits)])
        yield characters[ids[0]]
        end = (end + characters[ids[0]])[-len(stop) :]
        if stop and end == stop:
            return


def _choose(
    generator: np.random.Generator, temperature: float, top_k: int | None, top_p: float | None, logits: np.ndarray
) -> int:
    """Draws a character's id by its logits `(vocabulary,)` float32, which change."""
    if top_k is not None and top_k < len(logits):
        logits[np.argpartition(logits, -top_k)[:-top_k]] = -np.inf
    if top_p is not None and temperature:
        order = np.argsort(-logits)
        shares = np.exp((logits[order] - logits[order[0]]).astype(np.float64) / temperature)
        total = np.cumsum(shares)
        logits[order[np.searchsorted(total, top_p * total[-1]) + 1 :]] = -np.inf
    # The largest of logits with Gumbel noise is a draw from their softmax, and without noise the arg max.
    return int(np.argmax(logits + temperature * generator.gumbel(size=len(logits))))


class _Stream:
    """One text on its way through a `char_lstm`: the weights in NumPy, and the state between characters."""

    def __init__(self, model: keras.Model):
        *recurrent, self.kernel, self.bias = [np.asarray(weight, np.float32) for weight in model.get_weights()]
        # sigmoid(x) = (1 + tanh(x / 2)) / 2, so one tanh serves the gates i, f, c and o.
        self.scale = np.repeat(np.array([0.5, 0.5, 1, 0.5], np.float32), len(self.kernel))
        self.shift = 1 - self.scale
        scaled = [weight * self.scale for weight in recurrent]
        self.layers = [scaled[i : i + 3] for i in range(0, len(scaled), 3)]  # kernel, recurrent kernel, bias
        zeros = np.zeros(len(self.kernel), np.float32)
        self.states = [(zeros, zeros) for _ in self.layers]  # hidden, carry: (units,)

    def read(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        """Reads characters; yields the last layer's outputs `(n, units)`, for up to `CHUNK` of them at a time."""
        for start in range(0, len(ids), CHUNK):
            outputs = ids[start : start + CHUNK]
            for index, (kernel, recurrent_kernel, bias) in enumerate(self.layers):
                # A one-hot vector picks a row of the kernel.
                projected = (outputs @ kernel if index else kernel[outputs]) + bias  # (n, 4 × units)
                outputs, self.states[index] = self._steps(projected, recurrent_kernel, *self.states[index])
            yield outputs

    def logits(self, outputs: np.ndarray) -> np.ndarray:
        """Returns float32 logits `(..., vocabulary)` for outputs `(..., units)`."""
        return outputs @ self.kernel + self.bias

    def _steps(
        self, projected: np.ndarray, recurrent_kernel: np.ndarray, hidden: np.ndarray, carry: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        outputs = np.empty((len(projected), len(hidden)), np.float32)
        for step, gates in enumerate(projected):
            gates += hidden @ recurrent_kernel
            np.tanh(gates, out=gates)
            gates *= self.scale
            gates += self.shift
            i, f, c, o = gates.reshape(4, -1)
            carry = f * carry + i * c
            outputs[step] = hidden = o * np.tanh(carry)
        return outputs, (hidden, carry)
