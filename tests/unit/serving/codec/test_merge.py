import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.manifest import Padding
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


PADDING = Padding(axis=1, buckets=(4, 8), value=-1)


def texts_of(*lengths: int, rows: int = 1) -> list[dict[str, Array]]:
    """Requests whose rows are 1, 2, ... up to their length."""
    return [{"ids": np.tile(np.arange(1, length + 1), (rows, 1))} for length in lengths]


def test_requests_of_one_bucket_have_one_key() -> None:
    empty, short, full, longer, longest = texts_of(0, 1, 4, 5, 8)
    paddings = {"ids": PADDING}
    keys = [batch_key(request, paddings) for request in (empty, short, full, longer, longest)]
    assert keys == [(("ids", (4,)),)] * 3 + [(("ids", (8,)),)] * 2
    assert batch_key(short) != batch_key(full)
    with pytest.raises(ValueError, match="a length of 9 is above the largest bucket, 8"):
        batch_key(texts_of(9)[0], paddings)


@given(lengths=st.lists(st.integers(0, 8), min_size=1, max_size=6), rows=st.integers(1, 3))
def test_different_lengths_are_filled_up_to_the_bucket(lengths: list[int], rows: int) -> None:
    bucket = PADDING.bucket_of(max(lengths))
    lengths = [length for length in lengths if PADDING.bucket_of(length) == bucket]
    requests = texts_of(*lengths, rows=rows)

    batch = merge(requests, {"ids": PADDING})["ids"]

    assert batch.shape == (rows * len(lengths), bucket)
    assert batch.dtype == requests[0]["ids"].dtype
    for place, length in enumerate(lengths):
        for row in batch[place * rows : (place + 1) * rows]:
            assert row.tolist() == [*range(1, length + 1)] + [-1] * (bucket - length)


def test_a_request_alone_is_filled_up_too_but_not_copied_when_it_is_full() -> None:
    short, full = texts_of(3, 4)
    assert merge([short], {"ids": PADDING})["ids"].tolist() == [[1, 2, 3, -1]]
    assert merge([full], {"ids": PADDING})["ids"] is full["ids"]
    assert short["ids"].shape == (1, 3)


def test_only_the_inputs_that_say_so_are_filled_up() -> None:
    first, second = ({"ids": np.ones((1, length)), "x": np.ones((1, 3))} for length in (2, 3))
    batch = merge([first, second], {"ids": PADDING})
    assert (batch["ids"].shape, batch["x"].shape) == ((2, 4), (2, 3))
    with pytest.raises(BatchError, match="input 'ids': shapes differ"):
        merge([first, second])


def test_filling_goes_along_any_axis_behind_the_rows() -> None:
    padding = Padding(axis=2, buckets=(4,), value=0.5)
    parts = [{"x": np.ones((1, 2, 3), np.float32)}, {"x": np.ones((2, 2, 4), np.float32)}]
    batch = merge(parts, {"x": padding})["x"]
    assert batch.shape == (3, 2, 4)
    assert batch[0, :, 3].tolist() == [0.5, 0.5]
    assert batch.sum() == 3 * 2 * 4 - 1
    assert batch_key(parts[0], {"x": padding}) == (("x", (2, 4)),)
    unlike = [parts[0], {"x": np.ones((1, 3, 3), np.float32)}]
    with pytest.raises(BatchError, match="shapes differ"):
        merge(unlike, {"x": padding})


def test_an_input_without_the_axis_does_not_merge() -> None:
    with pytest.raises(BatchError, match="input 'ids': shapes differ"):
        merge([{"ids": np.zeros(3)}], {"ids": PADDING})


@pytest.mark.parametrize("lengths", [(4, 5), (5, 4), (9,), (4, 9)])
def test_other_buckets_do_not_merge(lengths: tuple[int, ...]) -> None:
    with pytest.raises(BatchError, match="input 'ids'"):
        merge(texts_of(*lengths), {"ids": PADDING})
