from itertools import islice

import keras
import numpy as np
import pytest

from keras_examples import Vocabulary, char_lstm, generate
from keras_examples.show.text import CHUNK, _Stream, evaluate_text

VOCABULARY = Vocabulary("\nabcdefg")  # 8 characters


def random_model(vocabulary_size=8, scale=1.0, **sizes):
    model = char_lstm(vocabulary_size, **({"units": 12} | sizes))
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(0, scale, weight.shape) for weight in model.get_weights()])
    return model


def random_ids(length):
    return np.random.default_rng(1).integers(8, size=length, dtype=np.int32)


def model_of(probabilities):
    """A model that draws every character from the same distribution."""
    model = char_lstm(len(probabilities), units=2)
    weights = [np.zeros_like(weight) for weight in model.get_weights()]
    model.set_weights([*weights[:-1], np.log(probabilities)])
    return model


def text_of(*args, **options):
    return "".join(generate(*args, **options))


@pytest.mark.parametrize("sizes", [{}, {"layers": 2}, {"layers": 3, "dropout": 0.5}, {"units": 1}])
def test_logits_are_the_models(sizes):
    model, ids = random_model(**sizes), random_ids(CHUNK + 100)
    stream = _Stream(model)
    logits = np.concatenate([stream.logits(outputs) for outputs in stream.read(ids)])
    np.testing.assert_allclose(logits, model.predict(ids[None], verbose=0)[0], rtol=0, atol=1e-4)


def test_logits_are_the_models_after_training_in_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        trained = random_model(scale=0.3)
    finally:
        keras.config.set_dtype_policy("float32")
    ids = random_ids(8 * 21).reshape(8, 21)
    trained.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    trained.fit(ids[:, :-1], ids[:, 1:], batch_size=2, verbose=0)
    model = char_lstm(len(VOCABULARY), units=12)
    model.set_weights(trained.get_weights())
    (outputs,) = _Stream(trained).read(ids[0])
    logits = _Stream(trained).logits(outputs)
    np.testing.assert_allclose(logits, model.predict(ids[:1], verbose=0)[0], rtol=0, atol=1e-4)


def test_one_character_at_a_time_is_the_whole_text():
    model, ids = random_model(layers=2), random_ids(50)
    whole, stepped = _Stream(model), _Stream(model)
    (expected,) = whole.read(ids)
    outputs = [output for one in ids for output in stepped.read(np.array([one]))]
    np.testing.assert_allclose(np.concatenate(outputs), expected, rtol=0, atol=1e-5)


def test_temperature_zero_takes_the_models_likeliest_character():
    model = random_model(layers=2)
    text = "abc"
    for character in generate(model, VOCABULARY, text, 10, temperature=0):
        logits = model.predict(VOCABULARY.encode(text)[None], verbose=0)[0, -1]
        assert character == VOCABULARY.characters[logits.argmax()]
        text += character


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.6, 0.3, 0.1]),
        ({"temperature": 0.5}, np.array([0.36, 0.09, 0.01]) / 0.46),
        ({"temperature": 1e9}, [1 / 3, 1 / 3, 1 / 3]),
        ({"temperature": 1e-9}, [1, 0, 0]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0]),
        ({"top_k": 1, "temperature": 5}, [1, 0, 0]),
        ({"top_k": 9}, [0.6, 0.3, 0.1]),
        ({"top_p": 1}, [0.6, 0.3, 0.1]),
        ({"top_p": 0.91}, [0.6, 0.3, 0.1]),
        ({"top_p": 0.89}, [2 / 3, 1 / 3, 0]),  # 0.6 is not enough
        ({"top_p": 0.59}, [1, 0, 0]),
        ({"top_p": 1e-9}, [1, 0, 0]),
        ({"top_p": 0.75, "temperature": 0.5}, [1, 0, 0]),  # 0.36 / 0.46 is
        ({"top_p": 0.65, "top_k": 2}, [1, 0, 0]),  # 0.6 / 0.9 is
        ({"top_p": 0.5, "temperature": 0}, [1, 0, 0]),
    ],
)
def test_characters_are_drawn_from_the_distribution(options, expected):
    text = text_of(model_of([0.6, 0.3, 0.1]), Vocabulary("abc"), "a", 5000, seed=0, **options)
    assert len(text) == 5000
    np.testing.assert_allclose([text.count(character) / 5000 for character in "abc"], expected, atol=0.03)


def test_a_seed_fixes_the_text():
    model = random_model()
    texts = [text_of(model, VOCABULARY, "ab", 40, seed=seed) for seed in (3, 3, 4, None, None)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4


@pytest.mark.parametrize("stop", ["a", "ab", "aab", "b"])
def test_a_text_ends_with_the_first_occurrence_of_what_stops_it(stop):
    options = {"length": 3000, "seed": 2}
    whole = text_of(model_of([0.6, 0.3, 0.1]), Vocabulary("abc"), stop, **options)
    text = text_of(model_of([0.6, 0.3, 0.1]), Vocabulary("abc"), stop, stop=stop, **options)
    assert text == whole[: whole.index(stop) + len(stop)]


def test_characters_stream():
    assert len(list(islice(generate(random_model(), VOCABULARY, "a", 10**12), 5))) == 5


@pytest.mark.parametrize(("characters", "start"), [("\nab", "\n"), ("abc", "a")])
def test_an_empty_prompt_starts_as_after_a_newline(characters, start):
    model, vocabulary = random_model(3), Vocabulary(characters)
    assert text_of(model, vocabulary, "", 30, seed=0) == text_of(model, vocabulary, start, 30, seed=0)


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"length": 0}, "length=0"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0}, "top_p=0"),
        ({"top_p": 1.01}, "top_p=1.01"),
        ({"top_p": float("nan")}, "top_p=nan"),
        ({"stop": "az"}, r"'z' \(U\+007A\) at position 1"),
        ({"prompt": "abz"}, r"'z' \(U\+007A\) at position 2"),
        ({"vocabulary": Vocabulary("abc")}, "3 characters, a model of 8"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(options, received):
    arguments = {"vocabulary": VOCABULARY, "prompt": "a", "length": 5} | options
    with pytest.raises(ValueError, match=rf"\. Received: {received}.*\. \w.*\.$") as error:
        generate(random_model(), **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("length", [2, CHUNK, CHUNK + 1, CHUNK + 2, 2 * CHUNK + 100])
def test_loss_over_a_whole_text(length):
    model, ids = random_model(layers=2), random_ids(length)
    logits = model.predict(ids[None, :-1], verbose=0)[0].astype(np.float64)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(length - 1), ids[1:]]
    assert evaluate_text(model, ids) == pytest.approx(losses.mean(), abs=1e-5)


def test_a_text_of_one_character_has_no_loss():
    with pytest.raises(ValueError, match="Received: 1 characters"):
        evaluate_text(random_model(), np.zeros(1, np.int32))
