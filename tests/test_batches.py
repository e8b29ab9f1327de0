import keras
import numpy as np

from keras_examples.data.batches import ImageBatches, TextBatches

numpy = keras.ops.convert_to_numpy


def images(count=10, side=8, channels=()):
    return np.random.default_rng(1).integers(0, 256, (count, side, side, *channels), np.uint8)


def gathered(batches):
    parts = [batches[index] for index in range(len(batches))]
    return [np.concatenate([numpy(part[place]) for part in parts]) for place in (0, 1)]


def test_without_a_seed_the_order_is_the_given_one():
    x, y = images(), np.arange(10, dtype="int32")
    batches = ImageBatches(x, y, 4, shift=2, flip=True)
    assert [len(batches[index][0]) for index in range(len(batches))] == [4, 4, 2]
    batch_x, batch_y = gathered(batches)
    np.testing.assert_array_equal(batch_x, x)
    np.testing.assert_array_equal(batch_y, y)
    assert batch_x.dtype == np.uint8


def test_each_epoch_has_its_own_order_and_the_same_one_again():
    x, y = images(), np.arange(10, dtype="int32")
    orders = []
    for batches in (ImageBatches(x, y, 4, seed=3), ImageBatches(x, y, 4, seed=3)):
        for epoch in (0, 1, 0):
            batches.set_epoch(epoch)
            batch_x, batch_y = gathered(batches)
            np.testing.assert_array_equal(batch_x, x[batch_y])
            assert sorted(batch_y) == list(range(10))
            orders.append(batch_y.tolist())
    assert orders[0] == orders[2] == orders[3] == orders[5]
    assert orders[1] == orders[4] != orders[0]


def test_batches_gathered_together_and_asked_for_in_any_order_are_the_same(monkeypatch):
    x, y = images(), np.arange(10, dtype="int32")
    whole = ImageBatches(x, y, 2, seed=3)
    monkeypatch.setattr("keras_examples.data.batches.BLOCK", 5 * x[0].nbytes)  # two batches of two
    few = ImageBatches(x, y, 2, seed=3)
    for index in (0, 1, 2, 4, 3, 0, 2):
        for one, other in zip(whole[index], few[index]):
            np.testing.assert_array_equal(numpy(one), numpy(other))
            assert len(few.y_block) <= 4 < len(whole.y_block)


def test_targets_of_a_reconstruction_are_the_scaled_images():
    x = images(channels=(3,))
    batch_x, target = gathered(ImageBatches(x, None, 4, seed=0, shift=2, flip=True))
    assert target.dtype == np.float32
    np.testing.assert_allclose(target, batch_x / 255, rtol=1e-6)


def test_augmentation_is_a_shift_or_a_mirrored_shift():
    x = images(count=300, channels=(3,))
    batches = ImageBatches(x, np.arange(300, dtype="int32"), 64, seed=0, shift=2, flip=True)
    seen = set()
    for image, label in zip(*gathered(batches), strict=True):
        padded = np.pad(x[label], ((2, 2), (2, 2), (0, 0)), "edge")
        for down in range(5):
            for right in range(5):
                window = padded[down : down + 8, right : right + 8]
                for flip, candidate in ((0, window), (1, window[:, ::-1])):
                    if (candidate == image).all():
                        seen.add((down, right, flip))
                        break
                else:
                    continue
                break
            else:
                continue
            break
        else:
            raise AssertionError(f"image {label} is no shift of the original")
    assert len(seen) == 50  # every shift, mirrored and not


def test_augmentation_is_fresh_each_epoch():
    x = np.repeat(images(count=1), 50, axis=0)
    batches = ImageBatches(x, np.zeros(50, "int32"), 50, seed=0, shift=2)
    first = numpy(batches[0][0])
    assert len(np.unique(first, axis=0)) > 10
    batches.set_epoch(1)
    assert (numpy(batches[0][0]) != first).any()


def test_text_windows_cover_the_text_once_from_a_new_phase_each_epoch():
    ids = np.arange(1000, dtype="int32")
    batches = TextBatches(ids, 30, 8, seed=0)
    phases = set()
    for epoch in range(6):
        batches.set_epoch(epoch)
        x, y = gathered(batches)
        assert x.shape == y.shape == (len(ids) // 30 - 1, 30)
        np.testing.assert_array_equal(y, x + 1)
        starts = np.sort(x[:, 0])
        np.testing.assert_array_equal(np.diff(starts), 30)
        assert len(np.unique(x)) == x.size
        phases.add(starts[0])
    assert len(phases) > 3
    assert max(phases) < 30


def test_the_shortest_text_is_one_window():
    x, y = gathered(TextBatches(np.arange(31, dtype="int32"), 30, 8, seed=0))
    np.testing.assert_array_equal(x[0], np.arange(30))
    np.testing.assert_array_equal(y[0], np.arange(1, 31))
