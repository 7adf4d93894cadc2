import asyncio
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.cache import ENTRY_BYTES, TEXT_BYTES, ResponseCache, key_of
from serving.config import CacheSettings
from serving.core.budget import RequestBudget, eligible_variants
from serving.core.errors import Infeasible
from serving.core.fleet import VariantView
from serving.metrics import stat
from serving.ports import WorkerLost
from serving.testing import FakeBackend
from tests.support.gateways import House
from tests.support.views import budgets, families, small_and_large

SMALL, LARGE = small_and_large()
MakeHouse = Callable[..., House]
KEEP = CacheSettings(models=("m",))


def answer(size: int = 0) -> dict[str, np.ndarray]:
    return {"y": np.zeros(size, np.uint8)}


def test_what_is_kept_is_found_until_it_is_too_old() -> None:
    cache = ResponseCache(10 * ENTRY_BYTES, max_age_s=5.0)
    cache.keep(b"a", answer(3), LARGE, now_s=1.0)
    kept = cache.find(b"a", 6.0)
    assert kept is not None
    assert (kept.outputs["y"].shape, kept.variant) == ((3,), LARGE)
    assert cache.find(b"b", 1.0) is None
    assert cache.find(b"a", 6.1) is None
    assert (len(cache), cache.size_bytes, cache.evicted) == (0, 0, {"space": 0, "age": 1})


def test_the_longest_unused_make_room() -> None:
    cache = ResponseCache(3 * ENTRY_BYTES, max_age_s=100.0)
    for key in (b"a", b"b", b"c"):
        cache.keep(key, answer(), LARGE, now_s=0.0)
    cache.find(b"a", 1.0)
    cache.keep(b"d", answer(), LARGE, now_s=2.0)
    assert [key for key in (b"a", b"b", b"c", b"d") if cache.find(key, 3.0)] == [b"a", b"c", b"d"]
    assert cache.evicted["space"] == 1


def test_an_answer_larger_than_everything_is_not_kept() -> None:
    cache = ResponseCache(2 * ENTRY_BYTES, max_age_s=100.0)
    cache.keep(b"a", answer(), LARGE, now_s=0.0)
    cache.keep(b"b", answer(ENTRY_BYTES + 1), LARGE, now_s=0.0)
    assert cache.find(b"a", 0.0) is not None
    assert len(cache) == 1


def test_only_a_more_accurate_answer_replaces_one() -> None:
    cache = ResponseCache(10 * ENTRY_BYTES, max_age_s=10.0)
    for variant, now_s in ((SMALL, 0.0), (LARGE, 1.0), (SMALL, 2.0), (LARGE, 3.0)):
        cache.keep(b"a", answer(int(now_s)), variant, now_s)
    kept = cache.find(b"a", 4.0)
    assert kept is not None
    assert (kept.variant, kept.made_s, cache.size_bytes) == (LARGE, 1.0, ENTRY_BYTES + 1)
    cache.keep(b"a", answer(), SMALL, now_s=12.0)
    found = cache.find(b"a", 12.0)
    assert found is not None
    assert found.variant is SMALL, "what is too old stands in nobody's way"


def test_what_is_kept_is_a_copy_nobody_can_change() -> None:
    batch = {"y": np.arange(6).reshape(3, 2)}
    cache = ResponseCache(10 * ENTRY_BYTES, max_age_s=10.0)
    cache.keep(b"a", {"y": batch["y"][1:2]}, LARGE, now_s=0.0)
    batch["y"][:] = -1
    kept = cache.find(b"a", 0.0)
    assert kept is not None
    assert kept.outputs["y"].tolist() == [[2, 3]]
    assert kept.outputs["y"].base is None
    with pytest.raises(ValueError, match="read-only"):
        kept.outputs["y"][0] = 0


def test_texts_are_counted_by_their_letters() -> None:
    cache = ResponseCache(10 * ENTRY_BYTES, max_age_s=10.0)
    cache.keep(b"a", {"y": np.array([b"abc", b""], object)}, LARGE, now_s=0.0)
    assert cache.size_bytes == ENTRY_BYTES + 2 * TEXT_BYTES + 3


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"), st.integers(0, 3 * ENTRY_BYTES), st.sampled_from((SMALL, LARGE)), st.floats(0, 3)
        ),
        max_size=40,
    )
)
def test_it_never_holds_more_than_it_may(steps: list[tuple[str, int, VariantView, float]]) -> None:
    cache = ResponseCache(4 * ENTRY_BYTES, max_age_s=5.0)
    now_s = 0.0
    for name, size, variant, after_s in steps:
        now_s += after_s
        cache.keep(name.encode(), answer(size), variant, now_s)
        held = [kept for key in "abcdef" if (kept := cache._kept.get(key.encode()))]
        assert cache.size_bytes == sum(kept.size_bytes for kept in held) <= 4 * ENTRY_BYTES
        for key in "abcdef":
            found = cache.find(key.encode(), now_s)
            assert found is None or now_s - found.made_s <= 5.0


@given(families(), budgets(), st.integers(1, 4), st.data())
def test_a_kept_answer_is_never_worse_than_what_the_budget_buys(
    family: tuple[VariantView, ...], budget: RequestBudget, rows: int, data: st.DataObject
) -> None:
    budget = replace(budget, variant=data.draw(st.none() | st.sampled_from([view.name for view in family])))
    try:
        choice = eligible_variants(budget, rows, family, "m")
    except Infeasible:
        return
    own = data.draw(st.sampled_from(family))
    cache = ResponseCache(10 * ENTRY_BYTES, 10.0)
    cache.keep(b"a", answer(), own, 0.0)
    kept = cache.find(b"a", 0.0)
    assert kept is not None
    served = kept.serves(budget, rows, choice, family)
    if own.index == choice.best:
        assert served
    if served:
        assert all(own.accuracy >= family[index].accuracy for index in choice.variants)
        assert budget.variant in (None, own.name)
        assert own.accuracy >= (budget.min_accuracy or 0.0)
        assert budget.max_energy_mj is None or own.energy_mj_per_row * rows <= budget.max_energy_mj


def test_unknown_accuracy_promises_no_floor() -> None:
    unknown = replace(LARGE, known_accuracy=None)
    cache = ResponseCache(10 * ENTRY_BYTES, 10.0)
    cache.keep(b"a", answer(), unknown, 0.0)
    kept = cache.find(b"a", 0.0)
    choice = eligible_variants(RequestBudget(latency_s=1.0), 1, (SMALL, LARGE), "m")
    assert kept is not None
    assert not kept.serves(RequestBudget(latency_s=1.0, min_accuracy=0.5), 1, choice, (SMALL, LARGE))


ARRAYS = (
    {"x": np.array([1, 2], np.int64)},
    {"x": np.array([1, 2], np.int32)},
    {"x": np.array([[1, 2]], np.int64)},
    {"x": np.array([[1], [2]], np.int64)},
    {"y": np.array([1, 2], np.int64)},
    {"x": np.array([1], np.int64), "y": np.array([2], np.int64)},
    {"x": np.array([b"ab", b"c"], object)},
    {"x": np.array([b"a", b"bc"], object)},
    {"x": np.array([], np.float32)},
    {"x": np.array([0.0])},
    {"x": np.array([-0.0])},
)


def test_keys_tell_inputs_apart() -> None:
    assert len({key_of(inputs) for inputs in ARRAYS}) == len(ARRAYS)
    assert key_of({"b": ARRAYS[0]["x"], "a": ARRAYS[1]["x"]}) == key_of({"a": ARRAYS[1]["x"], "b": ARRAYS[0]["x"]})
    strided = np.arange(8, dtype=np.int64)[::4]
    assert key_of({"x": strided}) == key_of({"x": strided.copy()})


async def test_the_same_again_is_answered_without_a_batch(make_house: MakeHouse) -> None:
    house = make_house(FakeBackend(), cache=KEEP)
    first, again, other = await house.call(1, 2), await house.call(1, 2), await house.call(2, 1)
    assert [result.cached for result in (first, again, other)] == [False, True, False]
    assert again.outputs["tag"].tolist() == [1, 2]
    assert (again.variant, again.accuracy, again.reason, again.queue_s) == ("large", 0.9, "most_accurate", 0.0)
    assert len(house.backend.batches) == 2
    assert house.counts() == {"met": 3}
    house.lane.publish_state()
    house.metrics.flush()
    page = house.metrics.collect()
    assert stat(page, "gearshift_cache_lookups_total", result="hit") == 1
    assert stat(page, "gearshift_cache_lookups_total", result="miss") == 2
    assert stat(page, "gearshift_cache_bytes") == 2 * (ENTRY_BYTES + 16)
    assert stat(page, "gearshift_selection_total", variant="large") == 3


async def test_a_lesser_answer_is_not_given_to_who_may_have_better(make_house: MakeHouse) -> None:
    house = make_house(FakeBackend(), cache=KEEP)
    assert (await house.call(1, latency_s=0.005)).variant == "small"
    better = await house.call(1)
    assert (better.variant, better.cached) == ("large", False)
    hurried = await house.call(1, latency_s=0.005)
    assert (hurried.variant, hurried.cached) == ("large", True)


async def test_floors_caps_and_pins_hold_for_kept_answers(make_house: MakeHouse) -> None:
    house = make_house(FakeBackend(), cache=KEEP)
    assert (await house.call(1)).variant == "large"
    assert (await house.call(1, min_accuracy=0.9)).cached
    assert (await house.call(1, max_energy_mj=5.0)).variant == "small"
    pinned = await house.call(1, variant="small")
    assert (pinned.variant, pinned.cached) == ("small", False)


async def test_models_that_are_not_named_keep_nothing(make_house: MakeHouse) -> None:
    for cache in (None, CacheSettings(), CacheSettings(models=("other",))):
        house = make_house(FakeBackend(), cache=cache)
        assert [(await house.call(1)).cached for _ in range(2)] == [False, False]


async def test_failures_are_not_kept(make_house: MakeHouse) -> None:
    house = make_house(FakeBackend(), cache=CacheSettings(models=("*",)))
    house.backend.fail_next(WorkerLost("gone"))
    ends = await asyncio.gather(house.call(1), return_exceptions=True)
    assert isinstance(ends[0], Exception)
    assert not (await house.call(1)).cached
