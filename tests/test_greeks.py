import importlib.util
import json
import math
import os
import subprocess
import sys
from statistics import NormalDist

import numpy as np
import pytest

from keras_examples.greeks import Greeks, greeks

PRINTED = """\
price  11.8049
delta   0.5540
vega   39.0554
gamma   0.0130
vanna   0.1953
volga  -2.9292
"""


def closed_form(forward, strike, volatility, maturity, rate):
    """Black's price and greeks as textbooks have them."""
    discount, root = math.exp(-rate * maturity), math.sqrt(maturity)
    d1 = math.log(forward / strike) / (volatility * root) + volatility * root / 2
    d2 = d1 - volatility * root
    upper, lower = (math.erfc(-d / math.sqrt(2)) / 2 for d in (d1, d2))
    density = discount * NormalDist().pdf(d1)
    return Greeks(
        price=discount * (forward * upper - strike * lower),
        delta=discount * upper,
        vega=forward * density * root,
        gamma=density / (forward * volatility * root),
        vanna=-density * d2 / volatility,
        volga=forward * density * root * d1 * d2 / volatility,
    )


GRID = [
    array.ravel()
    for array in np.meshgrid([1e-3, 40, 99, 100, 250], [1e-3, 80, 100], [0.01, 0.3, 2], [0.02, 1, 30], [-0.02, 0, 0.1])
]


def check_grid():
    ours, textbook = np.stack(greeks(*GRID)), np.array([closed_form(*row) for row in zip(*GRID)]).T
    np.testing.assert_allclose(ours, textbook, rtol=1e-6, atol=1e-290)


def test_the_command_prints_the_figures(run):
    assert run("greeks").output == PRINTED
    report = json.loads(run("greeks --json").stdout)
    assert report == pytest.approx(closed_form(100, 100, 0.3, 1, 0.01)._asdict())
    call = json.loads(run("greeks --forward 90 --strike 80 --volatility 0.2 --maturity 2 --rate 0 --json").stdout)
    assert call == pytest.approx(closed_form(90, 80, 0.2, 2, 0)._asdict())


def test_closed_forms():
    check_grid()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_other_backends(backend):
    if not importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    environment = os.environ | {"KERAS_BACKEND": backend}
    code = "import keras, test_greeks as ours; ours.check_grid(); ours.check_limits(); print(keras.config.backend())"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=os.path.dirname(__file__), env=environment, capture_output=True, text=True
    )
    assert result.stdout.split() == [backend], result.stderr


def check_limits():
    forward = np.array([90, 100, 110])
    for volatility, maturity in ((0.3, 0), (0, 2), (0, 0)):
        discount = math.exp(-0.1 * maturity)
        figures = greeks(forward, 100, volatility, maturity, 0.1)
        np.testing.assert_allclose(figures.price, discount * np.array([0, 0, 10]))
        np.testing.assert_allclose(figures.delta, discount * np.array([0, 0.5, 1]))
        np.testing.assert_array_equal(figures[2:], 0)
    np.testing.assert_array_equal(greeks([90, 110], 100, 1e-200, 1, 0), [[0, 10], [0, 1], *[[0, 0]] * 4])


def test_without_time_or_volatility_left():
    check_limits()


def test_arrays_broadcast_and_may_be_empty():
    figures = greeks(np.array([[90], [110]]), [80, 100, 120], 0.3, 1, 0.01)
    assert {figure.shape for figure in figures} == {(2, 3)}
    assert figures.vega[1, 2] == pytest.approx(closed_form(110, 120, 0.3, 1, 0.01).vega)
    assert figures.price.dtype == np.float64
    assert greeks([], 100, 0.3, 1, 0.01).price.shape == (0,)
    with pytest.raises(ValueError, match="cannot be broadcast"):
        greeks([1, 2, 3], [1, 2], 0.3, 1, 0)


@pytest.mark.parametrize(
    "arguments",
    ["forward 0", "strike -1", "strike nan", "volatility -0.1", "maturity -1", "maturity inf", "rate inf"],
)
def test_bad_input_is_one_line(run, arguments):
    name, value = arguments.split()
    (line,) = run(f"greeks --{arguments}", code=1).stderr.splitlines()
    assert line.startswith(
        f"Error: No such {name}. Received: {name}={float(value)}. Forward and strike have to be above"
    )


def test_figures_that_no_float_holds():
    with pytest.raises(ValueError, match=r"out of the range of float64\. Received: forward=2\.0, .*rate=-1000\.0\. "):
        greeks([1, 2], [1, 1], 1, 1, [0, -1000])
