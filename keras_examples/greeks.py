"""A European call on a forward in Black's model, and how its price reacts, by automatic differentiation.

Source: F. Black, "The pricing of commodity contracts", Journal of Financial Economics 3 (1976).
"""

import contextlib
import importlib
import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_examples.tensors import derivative

CERTAIN = 40  # standard deviations: exp(-40² / 2) is 0 in float64
TINIEST = math.ulp(0)


class Greeks(NamedTuple):
    """The price of a call and its derivatives, arrays of one shape."""

    price: np.ndarray  # in the currency of the forward, paid today
    delta: np.ndarray  # by the forward
    vega: np.ndarray  # by the volatility
    gamma: np.ndarray  # twice by the forward
    vanna: np.ndarray  # by the forward and the volatility
    volga: np.ndarray  # twice by the volatility


def call_price(forward: Any, strike: Any, volatility: Any, maturity: Any, rate: Any) -> Any:
    """The price of calls by Black's formula, element by element of tensors of one shape, see `greeks`."""
    distance = ops.log(forward / strike)
    deviation = volatility * ops.sqrt(maturity)
    certain = ops.abs(distance) >= CERTAIN * deviation
    deviation = ops.where(certain, ops.ones_like(deviation), deviation)  # so that no derivative divides by zero
    upper = distance / deviation + deviation / 2
    lower = upper - deviation
    uncertain = forward * normal(upper) - strike * normal(lower)
    gain = forward - strike
    intrinsic = gain * (ops.sign(gain) + 1) / 2  # its derivative at the money is a half, unlike that of a maximum
    return ops.exp(-rate * maturity) * ops.where(certain, intrinsic, uncertain)


def normal(x: Any) -> Any:
    """The normal distribution function, to full precision also where it is close to 0."""
    return ops.erfc(-x * math.sqrt(0.5)) / 2


def greeks(forward: Any, strike: Any, volatility: Any, maturity: Any, rate: Any) -> Greeks:
    """Prices European calls on forwards, and differentiates the price once and twice.

    Computed in float64, but for Apple GPUs, which have float32 only. Without volatility or time left a call is worth
    its discounted intrinsic value: delta is the discount, 0 or, at the money, half the discount, and the rest is 0. At
    the money that is a choice, since gamma grows without limit there.

    Inputs are numbers or arrays that broadcast: forwards and strikes above 0, volatility (a year, 0.3 for 30 %) and
    maturity (years left) at least 0, and the continuously compounded rate (a year). Raises ValueError if one is not so,
    or not finite, or if a result is beyond float64.
    """
    names = ("forward", "strike", "volatility", "maturity", "rate")
    least = (TINIEST, TINIEST, 0, 0, -math.inf)
    given = (forward, strike, volatility, maturity, rate)
    inputs = np.broadcast_arrays(*(np.asarray(values, np.float64) for values in given))
    for name, values, lowest in zip(names, inputs, least):
        if (bad := ~(np.isfinite(values) & (values >= lowest))).any():
            raise ValueError(
                f"No such {name}. Received: {name}={values[bad][0]}. Forward and strike have to be above 0, volatility "
                "and maturity not below 0, and all of them finite."
            )
    on_jax = keras.backend.backend() == "jax"
    with importlib.import_module("jax").enable_x64(True) if on_jax else contextlib.nullcontext():
        dtype = "float32" if "mps" in str(ops.zeros(()).device) else "float64"
        tensors = [ops.convert_to_tensor(values.astype(dtype)) for values in inputs]
        delta, vega = derivative(call_price, 0), derivative(call_price, 2)
        functions = (call_price, delta, vega, derivative(delta, 0), derivative(delta, 2), derivative(vega, 2))
        figures = [ops.convert_to_numpy(function(*tensors)) for function in functions]
    if (bad := ~np.isfinite(figures).all(axis=0)).any():
        received = ", ".join(f"{name}={values[bad][0]}" for name, values in zip(names, inputs))
        raise ValueError(f"The figures are out of the range of {dtype}. Received: {received}. Give milder numbers.")
    return Greeks(*figures)
