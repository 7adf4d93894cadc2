import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.zoo.text.tokens import (
    CHARACTERS,
    FIRST,
    PADDING,
    UNKNOWN,
    alphabet,
    encode,
    encode_batch,
    normalise,
    numbered,
)

AB = numbered(" ab")


def test_a_text_is_framed_by_spaces_and_numbered():
    assert encode("ab", AB) == [2, 3, 4, 2]
    assert encode("", AB) == [2, 2]
    assert encode("a?b", AB) == [2, 3, UNKNOWN, 4, 2]


@pytest.mark.parametrize("same", ["A b", "a  B", "\ta\nb ", " a\u00a0b"])
def test_case_and_white_space_do_not_matter(same):
    assert encode(same, AB) == encode("a b", AB)


def test_composed_and_decomposed_characters_are_the_same():
    composed, decomposed = "Šíř", unicodedata.normalize("NFD", "Šíř")
    assert composed != decomposed
    assert encode(decomposed) == encode(composed)
    assert UNKNOWN not in encode(composed)


@given(st.text())
def test_every_text_has_numbers_of_the_alphabet(text):
    numbers = encode(text)
    assert len(numbers) == len(normalise(text)) + 2
    assert all(UNKNOWN <= number < CHARACTERS for number in numbers)


def test_a_batch_is_as_long_as_its_longest_text():
    batch = encode_batch(["a", "abb", ""], AB)
    assert batch.dtype == np.int64
    assert batch.tolist() == [
        [2, 3, 2, PADDING, PADDING],
        [2, 3, 4, 4, 2],
        [2, 2, PADDING, PADDING, PADDING],
    ]
    assert encode_batch([], AB).shape == (0, 0)


def test_the_alphabet_begins_with_the_space_and_has_each_character_once():
    numbers = alphabet()
    assert len(numbers) == CHARACTERS - FIRST
    assert sorted(numbers.values()) == list(range(FIRST, CHARACTERS))
    assert numbers[" "] == FIRST
