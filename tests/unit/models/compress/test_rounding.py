import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.compress.rounding import rounded


def layer(seed: int, channels: int = 6, inputs: int = 40, rows: int = 400):
    """Weights, and inputs that go together as those of neighbouring pixels do."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, 8)) @ rng.normal(size=(8, inputs)) + 0.3 * rng.normal(size=(rows, inputs))
    return rng.normal(size=(channels, inputs)), mixed


def error(weights, integers, scales, x) -> float:
    """Squared change of the outputs over their own size."""
    exact = x @ weights.T
    return float(np.square(x @ (integers * scales[:, None]).T - exact).sum() / np.square(exact).sum())


def nearest(weights, bits: int):
    scales = np.abs(weights).max(axis=1) / (2 ** (bits - 1) - 1)
    return np.rint(weights / scales[:, None]), scales


@pytest.mark.parametrize("seed", range(5))
def test_outputs_change_much_less_than_with_the_nearest_numbers(seed: int) -> None:
    weights, x = layer(seed)
    integers, scales = rounded(weights, x.T @ x / len(x), 4)
    assert error(weights, integers, scales, x) < 0.35 * error(weights, *nearest(weights, 4), x)


@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(1, 90))
def test_numbers_fit_and_scales_are_positive(seed: int, bits: int, inputs: int) -> None:
    weights, x = layer(seed, inputs=inputs)
    integers, scales = rounded(weights, x.T @ x / len(x), bits)
    assert integers.shape == weights.shape
    assert integers.dtype == np.int8
    assert -(2 ** (bits - 1)) <= integers.min()
    assert integers.max() < 2 ** (bits - 1)
    assert (scales > 0).all()


def test_more_bits_change_less() -> None:
    weights, x = layer(1)
    moments = x.T @ x / len(x)
    errors = [error(weights, *rounded(weights, moments, bits), x) for bits in (3, 4, 6, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4


def test_an_input_that_is_always_zero_and_a_channel_without_weights_do_no_harm() -> None:
    weights, x = layer(2)
    x[:, 3] = 0
    weights[1] = 0
    given_weights = weights.copy()
    integers, scales = rounded(weights, x.T @ x / len(x), 4)
    assert not integers[:, 3].any()
    assert not integers[1].any()
    assert np.isfinite(scales).all()
    np.testing.assert_array_equal(weights, given_weights)
