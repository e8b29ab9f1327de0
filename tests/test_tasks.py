import math

import keras
import numpy as np
import pytest

from keras_examples.data import Images, Text
from keras_examples.models import conv_autoencoder, mnist_linear
from keras_examples.training.tasks import Classification, NextCharacter, Reconstruction, block_bound


def dataset(count=20):
    x = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)
    y = (np.arange(count) % 10).astype("int32")
    return Images("mnist", "real", tuple("0123456789"), x, y, x[:5], y[:5])


def test_the_last_part_of_the_training_images_validates():
    images = dataset()
    train, validation, test = Classification().split(images, 0.25)
    np.testing.assert_array_equal(np.concatenate([train[0], validation[0]]), images.x_train)
    assert len(validation[1]) == 5
    assert test[0] is images.x_test


def test_without_a_split_the_test_images_validate():
    train, validation, test = Classification().split(dataset(), 0)
    assert len(train[0]) == 20
    assert validation is test


def test_classification_figures_agree_with_keras():
    x, y = dataset(200).x_train, dataset(200).y_train
    model = mnist_linear()
    model.set_weights([np.random.default_rng(1).normal(0, 0.1, w.shape) for w in model.get_weights()])
    figures = Classification().measure(model, (x, y))
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    loss, accuracy = model.evaluate(x, y, verbose=0)
    assert figures["loss"] == pytest.approx(loss, rel=1e-5)
    assert figures["accuracy"] == pytest.approx(accuracy)
    confusion = np.array(figures["confusion"])
    np.testing.assert_array_equal(confusion.sum(axis=1), np.bincount(y, minlength=10))
    np.testing.assert_allclose(figures["class_accuracy"], confusion.diagonal() / 20)


def test_the_bound_is_what_principal_components_reach():
    x = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
    blocks = np.array([x[n, r : r + 4, c : c + 4].ravel() / 255 for n in range(30) for r in (0, 4) for c in (0, 4)])
    mean = blocks.mean(axis=0)
    basis = np.linalg.svd(blocks - mean)[2][:8]
    rebuilt = mean + (blocks - mean) @ basis.T @ basis
    assert block_bound(x) == pytest.approx(np.square(blocks - rebuilt).mean(), rel=1e-9)


def test_reconstruction_figures():
    x = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    model = conv_autoencoder()
    figures = Reconstruction().measure(model, (x, None))
    output = keras.ops.convert_to_numpy(model(x))
    error = np.square(output - x / 255).mean()
    assert figures["loss"] == pytest.approx(error, rel=1e-5)
    assert figures["psnr"] == pytest.approx(-10 * math.log10(error), rel=1e-5)
    expected = np.corrcoef(x[..., 2].ravel(), output[..., 2].ravel())[0, 1]
    assert figures["correlation"][2] == pytest.approx(expected, abs=1e-5)
    assert 0 < figures["bound"] < figures["loss"]


def test_a_text_shorter_than_a_sequence_is_refused():
    task = NextCharacter(sequence_length=180)
    with pytest.raises(ValueError, match=r"validation text is shorter than a sequence. Received: 100 characters"):
        task.split(Text("short", "real", "ab" * 500, "ab" * 50), 0)
