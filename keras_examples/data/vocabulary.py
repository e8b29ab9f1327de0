"""Characters to ids and back."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Vocabulary:
    """The characters that a model knows; a character's id is its place among them.

    Args:
        characters: Distinct characters by rising code point, at least one.

    Raises:
        ValueError: Characters missing, repeated or out of order.
    """

    characters: str

    def __post_init__(self) -> None:
        if not self.characters or self.characters != "".join(sorted(set(self.characters))):
            raise ValueError(
                "A vocabulary is one or more distinct characters in order of code point. "
                f"Received: {self.characters[:20]!r}. Use Vocabulary.from_text."
            )

    @classmethod
    def from_text(cls, text: str) -> "Vocabulary":
        """Collects the distinct characters of a text, which is not empty."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Turns N characters into ids `(N,)` int32, 0 ≤ id < `len(self)`. Raises ValueError at one it does not know."""
        known, codes = _codes(self.characters), _codes(text)
        # One entry more than the last character's, for whatever lies beyond it.
        table = np.full(int(known[-1]) + 2, -1, np.int32)
        table[known] = np.arange(len(known))
        ids = table[np.minimum(codes, len(table) - 1)]
        if len(ids) and ids.min() < 0:
            position = int(ids.argmin())
            raise ValueError(
                f"Character outside the vocabulary. Received: {text[position]!r} (U+{codes[position]:04X}) at position "
                f"{position}. Use only the {len(self)} characters the model was trained on."
            )
        return ids

    def decode(self, ids: np.ndarray) -> str:
        """Turns ids `(N,)`, any integer type, 0 ≤ id < `len(self)`, into N characters. Raises ValueError for others."""
        if len(wrong := np.extract((np.asarray(ids) < 0) | (np.asarray(ids) >= len(self)), ids)):
            raise ValueError(f"No such character id. Received: {wrong[0]}. Give ids from 0 to {len(self) - 1}.")
        return _codes(self.characters)[ids].tobytes().decode("utf-32-le", "surrogatepass")


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
