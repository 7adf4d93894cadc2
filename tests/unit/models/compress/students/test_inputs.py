import numpy as np
import pytest

from models.compress.dataset import Rows
from models.compress.errors import Inapplicable
from models.compress.students.inputs import Images, Tokens, Vectors, kind_of

RANDOM = np.random.default_rng(0)


def kind(**inputs):
    return kind_of(Rows(inputs, None))


@pytest.mark.parametrize(
    ("shape", "layout", "channels"),
    [((9, 28, 30), "nhw", 1), ((9, 3, 28, 30), "nchw", 3), ((9, 28, 30, 3), "nhwc", 3), ((9, 1, 8, 8), "nchw", 1)],
)
def test_images_are_told_by_their_shape(shape, layout, channels):
    pixels = RANDOM.integers(0, 256, shape).astype(np.uint8)
    found = kind(image=pixels)
    assert isinstance(found, Images)
    assert (found.layout, found.channels) == (layout, channels)
    assert [shape[axis] for axis in found.sides] == [found.height, found.width]
    assert found.mean.shape == (channels,)
    assert np.average(found.mean) == pytest.approx(pixels.mean(), rel=1e-4)
    assert found.deviation == pytest.approx(73.9, abs=3.0)


@pytest.mark.parametrize("shape", [(9, 5), (9,), (9, 4, 4), (9, 2, 3, 4), (9, 64, 64, 64)])
def test_what_is_no_image_is_a_vector(shape):
    found = kind(numbers=RANDOM.normal(size=shape).astype("f"))
    assert isinstance(found, Vectors)
    assert found.length == np.prod(shape[1:])


def test_several_inputs_of_numbers_make_one_vector_and_constants_are_no_danger():
    found = kind(age=RANDOM.normal(40, 9, (50, 1)), flags=np.ones((50, 3), np.uint8))
    assert isinstance(found, Vectors)
    assert (found.names, found.length) == (("age", "flags"), 4)
    assert list(found.deviation[1:]) == [1.0, 1.0, 1.0]


def test_ids_are_tokens_with_a_mask_or_with_padding_or_with_neither():
    ids = np.array([[5, 3, 0, 0], [7, 0, 0, 0]])
    padded = kind(ids=ids)
    assert isinstance(padded, Tokens)
    assert (padded.padded, padded.mask, padded.vocabulary, padded.length) == (True, None, 8, 4)
    assert kind(ids=ids[:, ::-1]).padded
    # A zero between others is a word.
    assert not kind(ids=np.array([[5, 0, 3, 0]])).padded
    assert not kind(ids=ids + 1).padded
    bert = kind(attention_mask=np.minimum(ids, 1), input_ids=ids, token_type_ids=np.zeros_like(ids))
    assert (bert.name, bert.mask, bert.padded, bert.unused) == (
        "input_ids",
        "attention_mask",
        False,
        ("token_type_ids",),
    )


def test_whole_numbers_that_are_no_ids_are_a_vector():
    assert isinstance(kind(balance=np.array([[-3, 5], [2, 7]])), Vectors)
    assert isinstance(kind(nanoseconds=np.array([[10**12, 5], [2, 7]])), Vectors)


def test_what_no_student_can_read_is_told():
    with pytest.raises(Inapplicable, match="input 'text' is text"):
        kind(text=np.array([["a"], ["b"]], dtype=object))
    with pytest.raises(Inapplicable, match=r"tokens together with other inputs \(age\)"):
        kind(ids=np.array([[1, 2]]), age=np.array([[0.5]]))
    with pytest.raises(Inapplicable, match="input 'x' is empty"):
        kind(x=np.zeros((3, 0), "f"))
