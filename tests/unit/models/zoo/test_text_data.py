import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.zoo.errors import DatasetError
from models.zoo.text import data
from models.zoo.text.data import LANGUAGES, LONGEST, fingerprint, frequent_characters, part_of, sort_out
from models.zoo.text.tokens import CHARACTERS, alphabet, numbered

TEXTS = st.text("abc ", min_size=0, max_size=4)
THINGS = st.integers(0, 40).map(lambda number: f"things/{number}")
PAIRS = st.lists(st.tuples(THINGS, TEXTS), max_size=30)


def thing_in(part):
    """Some thing that belongs to a part."""
    return next(thing for thing in map(str, range(1000)) if part_of(thing) == part)


TRAIN, VALIDATION, TEST = map(thing_in, ("train", "validation", "test"))


def test_parts_have_the_sizes_they_should():
    sizes = Counter(part_of(f"territories/{number}") for number in range(20_000))
    assert sizes["test"] / 20_000 == pytest.approx(0.15, abs=0.01)
    assert sizes["validation"] / 20_000 == pytest.approx(0.05, abs=0.01)
    assert sizes.total() == 20_000


def test_a_name_of_several_languages_is_left_out():
    parts = sort_out({"de": [(TRAIN, "Peru"), (TRAIN, "Polen")], "nl": [(TRAIN, "peru "), (TRAIN, "Polen!")]})
    assert parts["train"] == {"polen": "de", "polen!": "nl"}


def test_a_name_of_several_things_is_held_out_only_if_all_of_them_are():
    named = [(TEST, "Guinea"), (TRAIN, "guinea"), (TEST, "Iran"), (VALIDATION, "Iran"), (TEST, "Cuba"), (TEST, "CUBA")]
    parts = sort_out({"de": named})
    assert parts == {"train": {"guinea": "de"}, "validation": {"iran": "de"}, "test": {"cuba": "de"}}


@pytest.mark.parametrize("name", ["", "a", "a1", "1 2", "x" * (LONGEST + 1)])
def test_what_is_hardly_a_name_or_too_long_is_left_out(name):
    assert sort_out({"de": [(TRAIN, name)]})["train"] == {}
    assert sort_out({"de": [(TRAIN, "x" * LONGEST)]})["train"]


@given(german=PAIRS, dutch=PAIRS)
def test_nothing_held_out_was_trained_on_in_any_language(german, dutch):
    parts = sort_out({"de": german, "nl": dutch})
    assert not parts["train"].keys() & parts["test"].keys()
    assert not parts["validation"].keys() & parts["test"].keys()
    trained = {thing for thing, _ in german + dutch if part_of(thing) == "train"}
    names_of_trained = {data.normalise(name) for thing, name in german + dutch if thing in trained}
    assert not names_of_trained & parts["test"].keys()
    assert list(parts["train"]) == sorted(parts["train"])


def test_frequent_characters_come_first_and_the_space_counts_at_both_ends():
    assert frequent_characters(("bba", "cb"), 3) == " ba"
    assert frequent_characters(("bba", "cb"), 9) == " bac"


def test_the_fingerprint_tells_every_change():
    parts = sort_out({"de": [(TRAIN, "Polen"), (TEST, "Kuba")]})
    others = [
        sort_out({"nl": [(TRAIN, "Polen"), (TEST, "Kuba")]}),
        sort_out({"de": [(TEST, "Polen"), (TEST, "Kuba")]}),
        sort_out({"de": [(TRAIN, "Polen")]}),
    ]
    assert fingerprint(parts) == fingerprint(sort_out({"de": [(TEST, "Kuba"), (TRAIN, "Polen")]}))
    assert len({fingerprint(some) for some in (parts, *others)}) == 4


def test_other_locale_data_are_refused(monkeypatch):
    pytest.importorskip("babel")
    monkeypatch.setattr(data, "SHA256", "0" * 64)
    with pytest.raises(DatasetError, match=r"Babel \S+ has other names .* pip install babel==2"):
        data.load("test")


def test_absent_locale_data_are_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "babel", None)  # as if it were not installed
    with pytest.raises(DatasetError, match="not installed here"):
        data.load("test")


def test_the_names_are_those_the_family_was_made_from():
    pytest.importorskip("babel")
    train, test = data.load("train"), data.load("test")
    assert (len(train.texts), len(test.texts)) == (44_566, 8_389)
    assert set(test.labels) == set(train.labels) == set(range(len(LANGUAGES)))
    assert not set(train.texts) & set(test.texts)
    assert alphabet() == numbered(frequent_characters(train.texts))
    ids = test.ids()
    assert ids.dtype == np.int64
    assert ids.max() < CHARACTERS
    assert ids.shape[0] == len(test.texts)
    assert ids.shape[1] <= LONGEST + 2
