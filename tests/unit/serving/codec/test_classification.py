import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.codec.classification import top_classes
from serving.codec.datatypes import WIRE_TYPES, Array

FP32 = WIRE_TYPES["FP32"]


def test_the_best_classes_of_each_row_with_labels() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.1, 0.5]], np.float32)
    texts = top_classes(scores, FP32, 2, ("bag", "boot", "coat"), batched=True)
    assert texts.tolist() == [["0.7:1:boot", "0.2:2:coat"], ["0.5:0:bag", "0.5:2:coat"]]


def test_without_labels_and_with_fewer_classes_than_asked() -> None:
    assert top_classes(np.array([[3.0, 4.0]], np.float32), FP32, 9, None, batched=True).tolist() == [["4.0:1", "3.0:0"]]


def test_an_output_without_rows_is_one_list() -> None:
    assert top_classes(np.array([1, 2], np.float32), FP32, 1, None, batched=False).tolist() == ["2.0:1"]


def test_nan_is_never_the_best() -> None:
    scores = np.array([[np.nan, -1.0, np.inf]], np.float32)
    assert top_classes(scores, FP32, 3, None, batched=True).tolist() == [["inf:2", "-1.0:1", "nan:0"]]


def test_no_rows_give_no_classes() -> None:
    assert top_classes(np.zeros((0, 3), np.float32), FP32, 2, None, batched=True).shape[0] == 0


def test_bf16_scores_are_widened() -> None:
    bits = np.array([[0x3F80, 0xC040, 0x4040]], np.uint16)
    assert top_classes(bits, WIRE_TYPES["BF16"], 3, None, batched=True).tolist() == [["3.0:2", "1.0:0", "-3.0:1"]]


@pytest.mark.parametrize("datatype", ["UINT8", "INT8", "UINT64", "INT64", "FP16", "FP32", "FP64"])
@given(data=st.data())
def test_it_is_the_stable_sort_by_falling_score(datatype: str, data: st.DataObject) -> None:
    wire = WIRE_TYPES[datatype]
    scores: Array = data.draw(hnp.arrays(wire.dtype, (2, 5), elements=hnp.from_dtype(wire.dtype, allow_nan=False)))
    best = data.draw(st.integers(1, 7))
    for row, texts in zip(scores, top_classes(scores, wire, best, None, batched=True).tolist(), strict=True):
        order = sorted(range(5), key=lambda index: (-row[index].item(), index))[:best]
        assert [int(text.split(":")[1]) for text in texts] == order
        assert [wire.dtype.type(text.split(":")[0]) for text in texts] == [row[index] for index in order]
