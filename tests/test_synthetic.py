import numpy as np
import pytest

from keras_examples.data.standins import SHAPES, synthetic_digits, synthetic_shapes, synthetic_text

MAKERS = [(synthetic_digits, (28, 28)), (synthetic_shapes, (32, 32, 3))]


@pytest.mark.parametrize(("make", "shape"), MAKERS)
def test_arrays(make, shape):
    x_train, y_train, x_test, y_test = make(num_train=1500, num_test=300)
    for x, y, count in ((x_train, y_train, 1500), (x_test, y_test, 300)):
        assert (x.shape, x.dtype) == ((count, *shape), np.uint8)
        assert (y.shape, y.dtype) == ((count,), np.int32)
        assert x.flags.c_contiguous
        assert x.flags.writeable
    assert set(y_train) == set(y_test) == set(range(10))
    assert x_train.min() == 0
    assert x_train.max() == 255


@pytest.mark.parametrize(("make", "shape"), MAKERS)
def test_seed(make, shape):
    one, same, other = (make(50, 10, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize(("make", "shape"), MAKERS)
def test_no_two_images_are_alike(make, shape):
    x = make(1000, 0)[0].reshape(1000, -1)
    assert len(np.unique(x, axis=0)) == 1000


def test_digits_are_light_on_dark_and_centred_as_in_mnist():
    x = synthetic_digits(2000, 0)[0].astype(float)
    assert x[:, [0, -1]].mean() < 15
    assert 20 < x.mean() < 60
    assert abs(np.average(np.arange(28), weights=x.mean(axis=(0, 1))) - 13.5) < 1
    assert abs(np.average(np.arange(28), weights=x.mean(axis=(0, 2))) - 13.5) < 1


def test_digits_can_be_told_apart():
    # The nearest class mean is about the weakest of classifiers; chance is 10 %.
    x_train, y_train, x_test, y_test = synthetic_digits(3000, 500)
    means = np.stack([x_train[y_train == digit].mean(axis=0).ravel() for digit in range(10)])
    distances = ((x_test.reshape(500, 1, -1) - means) ** 2).sum(axis=2)
    assert (distances.argmin(axis=1) == y_test).mean() > 0.5


def test_shapes_show_in_every_channel():
    assert len(set(SHAPES)) == 10
    x, y, _, _ = synthetic_shapes(500, 0)
    disc = x[y == SHAPES.index("circle")].astype(float)
    inside, outside = disc[:, 15:17, 15:17].mean(axis=(1, 2)), disc[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(axis=1)
    assert abs(inside - outside).min() > 30


def test_text():
    text = synthetic_text()
    assert text == synthetic_text()
    assert len(text) > 300_000
    assert " the " in text
    assert len(set(text)) < 200
