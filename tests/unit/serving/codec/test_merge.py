import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.codec.datatypes import Array
from serving.codec.merge import BatchError, batch_key, merge, split

ROWS = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def requests_of(rows: list[int]) -> list[dict[str, Array]]:
    """Each row of all requests holds a number of its own."""
    ends = np.cumsum(rows)
    return [
        {"a": np.arange(end - count, end)[:, None] * np.ones((1, 3), int), "b": np.arange(end - count, end) * 0.5}
        for count, end in zip(rows, ends, strict=True)
    ]


@given(rows=ROWS)
def test_every_request_gets_its_own_rows_back(rows: list[int]) -> None:
    requests = requests_of(rows)

    batch = merge(requests)
    parts = split({"sum": batch["a"].sum(axis=1) + batch["b"], "same": batch["a"]}, rows)

    assert len(parts) == len(requests)
    for request, part in zip(requests, parts, strict=True):
        assert np.array_equal(part["same"], request["a"])
        assert np.array_equal(part["sum"], request["a"].sum(axis=1) + request["b"])


@given(rows=ROWS, off=st.integers(-8, 8).filter(bool))
def test_outputs_of_another_length_are_refused(rows: list[int], off: int) -> None:
    total = sum(rows)
    with pytest.raises(BatchError, match=f"output 'y': expected {total} rows"):
        split({"x": np.zeros(total), "y": np.zeros(max(total + off, 0))}, rows)


def test_a_scalar_output_is_refused() -> None:
    with pytest.raises(BatchError, match="expected 1 rows, got no"):
        split({"y": np.float32(1).reshape(())}, [1])


@pytest.mark.parametrize("rows", [[], [0], [2, -1], [1, 0]])
def test_rows_must_be_positive(rows: list[int]) -> None:
    with pytest.raises(BatchError):
        split({"y": np.zeros(sum(rows))}, rows)


def test_split_gives_views() -> None:
    batch = np.zeros((4, 2))
    assert all(np.shares_memory(part["y"], batch) for part in split({"y": batch}, [1, 3]))


def test_one_request_is_not_copied() -> None:
    array = np.zeros((2, 2))
    assert merge([{"x": array}])["x"] is array


@pytest.mark.parametrize(
    "other",
    [
        {"y": np.zeros((1, 2), np.float32)},
        {"x": np.zeros((1, 2), np.float32), "y": np.zeros((1, 2), np.float32)},
        {"x": np.zeros((1, 2), np.float64)},
        {"x": np.zeros((1, 3), np.float32)},
        {"x": np.zeros((1,), np.float32)},
        {"x": np.zeros((), np.float32)},
        {},
    ],
)
def test_unlike_requests_do_not_merge(other: dict[str, Array]) -> None:
    like = {"x": np.zeros((1, 2), np.float32)}
    with pytest.raises(BatchError):
        merge([like, other])
    with pytest.raises(BatchError):
        merge([other, like])


def test_nothing_does_not_merge() -> None:
    with pytest.raises(BatchError):
        merge([])


def test_equal_keys_merge() -> None:
    one = {"x": np.zeros((1, 5)), "y": np.zeros((1, 2))}
    two = {"y": np.zeros((3, 2)), "x": np.zeros((3, 5))}
    assert batch_key(one) == batch_key(two)
    assert merge([one, two])["x"].shape == (4, 5)
    assert batch_key(one) != batch_key({"x": np.zeros((1, 4)), "y": np.zeros((1, 2))})


def test_texts_merge() -> None:
    texts = [{"t": np.array([b"a", b"b\0"], object)}, {"t": np.array([b""], object)}]
    assert merge(texts)["t"].tolist() == [b"a", b"b\0", b""]
