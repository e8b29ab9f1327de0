import json

import keras
import numpy as np
import pytest

from keras_examples.tensors import derivative


def test_the_tour_starts_as_the_source_and_each_step_has_its_result(run):
    lines = run("tensors --device cpu").output.splitlines()
    assert lines[0] == "[3, 1, 4, 1, 5] * 2 → 6 2 8 2 10"
    assert "0 to 5, from NumPy to the device → 0 1 2 3 4 5 on cpu" in lines
    assert "matrix @ its transpose → 5 14; 14 50" in lines
    assert any(line.startswith("matrix @ matrix → RuntimeError: ") for line in lines)
    assert lines[-1] == "the derivative of x * x → 6 2 8 2 10"
    report = json.loads(run("tensors --json").stdout)
    assert [f"{step} → {result}" for step, result in report.items()] == lines


def test_a_derivative_of_a_derivative_is_by_the_argument_asked_for():
    x, y = (keras.ops.convert_to_tensor(np.array(values, "float32")) for values in ([1, 2], [3, 4]))
    mixed = derivative(derivative(lambda x, y: x * x * y * y * y, 1), 0)
    assert keras.ops.convert_to_numpy(mixed(x, y)) == pytest.approx([2 * 3 * 9, 4 * 3 * 16])
