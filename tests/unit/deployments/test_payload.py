import pickle

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deployments.payload import pack, size_of, unpack

DTYPES = ["bool", "uint8", "int8", "uint16", "int32", "uint64", "int64", "float16", "float32", "float64"]


@given(st.sampled_from(DTYPES).flatmap(lambda d: arrays.arrays(d, arrays.array_shapes(min_dims=0, min_side=0))))
def test_arrays_survive_the_way_bit_by_bit(array: npt.NDArray[np.generic]) -> None:
    (back,) = unpack(pickle.loads(pickle.dumps(pack({"x": array})))).values()
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_arrays_that_are_not_contiguous_keep_their_order() -> None:
    array = np.arange(12).reshape(3, 4).T[::2]
    np.testing.assert_array_equal(unpack(pack({"x": array}))["x"], array)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3)])
def test_texts_travel_as_they_are(shape: tuple[int, ...]) -> None:
    array = np.array([b"a", "ü".encode(), b""], dtype=object).reshape(shape)
    back = unpack(pack({"x": array}))["x"]
    assert back.shape == shape
    assert back.tolist() == array.tolist()


def test_size_is_that_of_all_tensors() -> None:
    assert size_of({"a": np.zeros((2, 3), np.float32), "b": np.zeros(5, np.uint8)}) == 29
