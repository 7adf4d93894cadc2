from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.manifest import Padding
from serving.codec.shapes import check_datatype, check_rows, check_shape
from serving.core.errors import InvalidRequest


@given(shape=st.lists(st.integers(1, 2**31 - 1), min_size=3, max_size=3))
def test_products_are_exact(wire: Any, shape: list[int]) -> None:
    assert check_shape("m", wire.spec("x", "FP32", (-1, -1, -1)), shape) == shape[0] * shape[1] * shape[2]


def test_a_product_that_wraps_around_is_not_zero(wire: Any) -> None:
    with pytest.raises(InvalidRequest, match="each dimension must be from 0 to"):
        check_shape("m", wire.spec("x", "FP32", (-1, -1)), [2**32, 2**32])
    assert check_shape("m", wire.spec("x", "FP32", (-1, -1, -1)), [2**30, 2**30, 16]) == 2**64


def test_a_scalar_has_one_element(wire: Any) -> None:
    assert check_shape("m", wire.spec("x", "FP32", ()), []) == 1


def test_datatypes_must_match(wire: Any) -> None:
    check_datatype("m", wire.spec("x", "FP32", ()), "FP32")
    with pytest.raises(InvalidRequest, match="inference input 'x' data-type is 'FP64', but model 'm' expects 'FP32'"):
        check_datatype("m", wire.spec("x", "FP32", ()), "FP64")


def test_rows_are_the_first_axis_of_batchable_families_only(wire: Any) -> None:
    batchable = wire.family([wire.spec("x", "FP32", (-1, 2))], max_batch_rows=3)
    assert [check_rows(batchable, [(rows, 2)]) for rows in (1, 3)] == [1, 3]
    with pytest.raises(InvalidRequest, match="expected 1 to 3 rows .* got 0"):
        check_rows(batchable, [(0, 2)])
    with pytest.raises(InvalidRequest, match=f"batch-size must be <= 3 for '{batchable.name}', got 4 rows"):
        check_rows(batchable, [(4, 2)])
    lone = wire.family([wire.spec("x", "FP32", (-1, 2))], [wire.spec("y", "FP32", (1,))])
    assert check_rows(lone, [(0, 2)]) == 1
    assert check_rows(lone, [(99, 2)]) == 1


def test_a_length_above_the_largest_bucket_is_told(wire: Any) -> None:
    padding = Padding(axis=1, buckets=(16, 64))
    spec = wire.spec("ids", "INT64", (-1, -1)).model_copy(update={"padding": padding})
    assert check_shape("m", spec, [3, 64]) == 192
    assert check_shape("m", spec, [3, 0]) == 0
    with pytest.raises(InvalidRequest, match=r"input 'ids': expected a length of at most 64 \(dimension 1\), got 65"):
        check_shape("m", spec, [3, 65])
