"""From the name of an example to a trained model."""

from pathlib import Path

import keras

from keras_examples import weights
from keras_examples.data import DATASETS, load_text
from keras_examples.data.vocabulary import Vocabulary
from keras_examples.examples import EXAMPLES


def load_model(
    example: str, path: str | Path | None = None, text: str | Path | None = None
) -> tuple[keras.Sequential, tuple[str, ...] | Vocabulary | None]:
    """Loads a trained model, and what its outputs stand for.

        model, class_names = load_model("mnist-cnn")
        model, vocabulary = load_model("charrnn")

    Args:
        example: `mnist-linear`, `mnist-mlp`, `mnist-cnn`, `cifar-dense`, `cifar-cnn`, `autoencoder` or `charrnn`.
        path: A weights file, `shipped`, or None for what was last trained on real data under `weights/`, else what
            comes with the project, else what was trained on stand-ins.
        text: The text of one's own that a charrnn has learned.

    Returns:
        The model, uncompiled, and its class names, its `Vocabulary`, or None. It takes raw pixels `(N, 28, 28)`
        or `(N, 32, 32, 3)` uint8, or character ids `(N, length)` integer, and returns logits `(N, 10)` or `(N, length,
        vocabulary)`; the autoencoder returns pixels `(N, 32, 32, 3)` float32, about 0–1.

    Raises:
        ValueError: No such example, or weights of another one or of another vocabulary.
        OSError: There are no such weights, or they may not be read.
    """
    if example not in EXAMPLES:
        raise ValueError(f"No such example. Received: {example}. Choose one of {', '.join(EXAMPLES)}.")
    row = EXAMPLES[example]
    source = weights.find(weights.run_name(example, text), path)
    model, metadata = weights.restore(source, example, dataset=load_text(text) if text else None)
    if row.task == "NextCharacter":
        return model, weights.vocabulary_of(source, metadata)
    names = tuple(metadata.get("classes") or DATASETS[row.dataset].class_names)
    return model, names if row.task == "Classification" else None
