import time

import numpy as np
import pytest

from keras_examples import Vocabulary

EVERY_CHARACTER = "".join(map(chr, range(0x110000)))  # lone surrogates too


def test_ids_are_places_among_the_sorted_characters():
    vocabulary = Vocabulary.from_text("hello\n")
    assert vocabulary.characters == "\nehlo"
    assert len(vocabulary) == 5
    ids = vocabulary.encode("hole")
    assert ids.dtype == np.int32
    assert ids.tolist() == [2, 4, 3, 1]
    assert vocabulary.decode(ids) == "hole"


def test_every_code_point_comes_back():
    text = EVERY_CHARACTER[::-1] + "\ud83d\ude00\U0001f600"  # a split pair and the character it is not
    vocabulary = Vocabulary.from_text(text)
    assert vocabulary.characters == EVERY_CHARACTER
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_nothing_is_a_text():
    vocabulary = Vocabulary("ab")
    assert vocabulary.encode("").tolist() == []
    assert vocabulary.decode(np.array([], np.int32)) == ""


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("abéb", r"'é' \(U\+00E9\) at position 2"),
        ("a b!", r"' ' \(U\+0020\) at position 1"),
        ("ab\U0001f600", r".* \(U\+1F600\) at position 2"),
        ("\udcff", r"'\\udcff' \(U\+DCFF\) at position 0"),
        ("c", r"'c' \(U\+0063\)"),
    ],
)
def test_the_first_character_outside_is_named(text, named):
    with pytest.raises(ValueError, match=f"outside the vocabulary. Received: {named}") as error:
        Vocabulary("ab").encode(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("characters", ["", "ba", "aab"])
def test_characters_are_sorted_and_distinct(characters):
    with pytest.raises(ValueError, match=r"Received: .*from_text"):
        Vocabulary(characters)


def test_a_large_corpus_is_encoded_in_time():
    known = "".join(map(chr, range(0x3000, 0x3000 + 5000)))
    text = "".join(np.random.default_rng(0).permutation(list(known))) * 1000
    start = time.perf_counter()
    vocabulary = Vocabulary.from_text(text)
    ids = vocabulary.encode(text)
    assert time.perf_counter() - start < 2
    assert vocabulary.characters == known
    assert ids.nbytes == 4 * len(text)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_ids_that_stand_for_no_character(wrong):
    with pytest.raises(ValueError, match=rf"^No such character id\. Received: {wrong}\. Give ids from 0 to 2\.$"):
        Vocabulary("abc").decode(np.array([0, wrong]))
