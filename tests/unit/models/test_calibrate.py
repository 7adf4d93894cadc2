import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from models import calibrate
from models.calibrate import (
    ASSUMED_REMOTE,
    BATCH_ROWS,
    REMOTE_AGE_S,
    TURNS,
    Measuring,
    fingerprint,
    known_profiles,
    least_seconds,
    processor,
    profile_family,
    random_inputs,
)
from models.cascade import composed
from models.manifest import Cascade, Datatype, Family, LatencyProfile, Padding, Remote, TensorSpec, Variant
from models.session import ModelRunError, Session, Tensor, VariantLost
from tests.support import tiny_models


class Timed:
    """In the place of a session: a batch takes what `ms` says, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ms_of: Mapping[int, float], axis: str = "x") -> None:
        self.now_s = 0.0
        self.rows: list[int] = []
        self.busy: list[float] = []
        """Extra milliseconds of the next runs: the host is busy."""
        self.fails = False
        self._ms_of = ms_of
        self._axis = axis
        monkeypatch.setattr(calibrate.time, "perf_counter", lambda: self.now_s)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = len(inputs[self._axis])
        self.rows.append(rows)
        self.now_s += (self._ms_of[rows] + (self.busy.pop(0) if self.busy else 0.0)) / 1e3
        if self.fails:
            raise ModelRunError("no such index")
        return {}

    def as_session(self) -> Session:
        return cast("Session", self)


def family(max_batch_rows: int = 256, shape: tuple[int, ...] = (-1, 2)) -> Family:
    tensor = TensorSpec(name="x", datatype="FP32", shape=shape)
    variants = tuple(
        Variant(name=name, file=f"{name}.onnx", sha256=digit * 64, size_bytes=1)
        for name, digit in (("a", "0"), ("b", "1"))
    )
    return Family(name="m", inputs=(tensor,), outputs=(tensor,), max_batch_rows=max_batch_rows, variants=variants)


def measure(session: Session, whole: Family, *, within_s: float, duty: float = 1.0) -> LatencyProfile:
    measuring = Measuring(session, whole, within_s=within_s, duty=duty)
    for _ in range(TURNS - 1):
        measuring.turn()
    return measuring.profile()


ALL_PAY = {rows: 1.0 + rows / 100 for rows in BATCH_ROWS}
NONE_PAY = {rows: 10.0 * rows for rows in BATCH_ROWS}


def test_a_profile_says_what_each_size_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = measure(Timed(monkeypatch, ALL_PAY).as_session(), family(), within_s=1.0)
    assert profile.rows == BATCH_ROWS
    assert profile.seconds == pytest.approx([ALL_PAY[rows] / 1e3 for rows in BATCH_ROWS])


def test_sizes_stop_where_throughput_does(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = measure(Timed(monkeypatch, NONE_PAY).as_session(), family(), within_s=10.0)
    assert profile.rows[0] == 1
    assert len(profile.rows) <= 5


def test_sizes_stop_beyond_the_usual_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = measure(Timed(monkeypatch, ALL_PAY).as_session(), family(), within_s=0.00103)
    assert profile.rows == (1, 2, 4)


def test_sizes_stop_at_the_limit_of_the_family(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure(Timed(monkeypatch, ALL_PAY).as_session(), family(8), within_s=1.0).rows == (1, 2, 4, 8)
    timed = Timed(monkeypatch, ALL_PAY)
    assert measure(timed.as_session(), family(shape=(2, 2)), within_s=1.0).rows == (1,)
    assert set(timed.rows) == {2}  # a model without a batch axis is run as it is


def test_a_busy_moment_of_the_host_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, ALL_PAY)
    timed.busy = [0.0, 50.0, 0.0, 50.0, 50.0, 0.0] * 3
    profile = measure(timed.as_session(), family(4), within_s=1.0)
    assert profile.seconds == pytest.approx([ALL_PAY[rows] / 1e3 for rows in (1, 2, 4)])


def test_an_input_the_model_cannot_process_still_tells_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, ALL_PAY)
    timed.fails = True
    assert least_seconds(timed.as_session(), {"x": np.zeros((4, 2), np.float32)}) == pytest.approx(0.00104)


def test_a_real_session_is_measured() -> None:
    content = tiny_models.affine()
    profile = measure(Session(content), tiny_models.family_of({"a": content}, max_batch_rows=4), within_s=1.0)
    assert profile.rows == (1, 2, 4)
    assert all(0 < seconds < 1 for seconds in profile.seconds)
    assert (profile.energy_mj_per_row, profile.energy_source) == (0.0, "none")


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        ("FP32", "float32"),
        ("FP16", "float16"),
        ("INT8", "int8"),
        ("UINT64", "uint64"),
        ("BOOL", "bool"),
        ("BYTES", "O"),
    ],
)
def test_random_inputs_fit_the_family(datatype: Datatype, dtype: str) -> None:
    specs = (TensorSpec(name="x", datatype=datatype, shape=(-1, 3, -1)),)
    array = random_inputs(specs, 5)["x"]
    assert array.dtype == np.dtype(dtype)
    assert array.shape == (5, 3, calibrate.FREE_AXIS)
    np.testing.assert_array_equal(array, random_inputs(specs, 5)["x"])


def test_an_axis_that_is_filled_up_is_measured_at_its_longest() -> None:
    spec = TensorSpec(name="ids", datatype="INT64", shape=(-1, -1, -1), padding=Padding(axis=1, buckets=(4, 40)))
    assert random_inputs((spec,), 5)["ids"].shape == (5, 40, calibrate.FREE_AXIS)


def test_a_profile_holds_for_the_length_it_was_measured_at() -> None:
    def inputs(*buckets: int) -> tuple[TensorSpec, ...]:
        padding = Padding(axis=1, buckets=buckets) if buckets else None
        return (TensorSpec(name="ids", datatype="INT64", shape=(-1, -1), padding=padding),)

    variant = family().variants[0]
    assert fingerprint(variant, inputs()) == fingerprint(variant)
    assert fingerprint(variant, inputs(4, 40)) == fingerprint(variant, inputs(8, 40))
    assert len({fingerprint(variant, inputs(*buckets)) for buckets in ((), (4,), (4, 40))}) == 3


class Sessions:
    """Hands out timed sessions, all on one clock, and keeps for whom."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._timed = Timed(monkeypatch, ALL_PAY)
        self.asked: list[str] = []
        self.busy_s: list[tuple[float, float]] = []
        """From when to when another takes the processor, and every run takes a tenth of a second."""
        self.ended_s: list[tuple[str, float]] = []
        """Who ran, and when that was over."""

    def __call__(self, variant: Variant) -> Session:
        self.asked.append(variant.name)
        return cast("Session", _Run(self, variant.name))

    def run(self, name: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if any(begin_s <= self._timed.now_s < end_s for begin_s, end_s in self.busy_s):
            self._timed.busy = [100.0]
        answer = self._timed.run(inputs)
        self.ended_s.append((name, self._timed.now_s))
        return answer


class _Run:
    def __init__(self, sessions: Sessions, name: str) -> None:
        self._sessions = sessions
        self._name = name

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._sessions.run(self._name, inputs)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Sessions:
    return Sessions(monkeypatch)


def profiles_of(sessions: Sessions, cache: Path, **rest: bool) -> dict[str, LatencyProfile]:
    return profile_family(family(4), sessions, cache_dir=cache, watts_per_core=10.0, **rest)


def test_what_was_measured_is_remembered(sessions: Sessions, tmp_path: Path) -> None:
    first = profiles_of(sessions, tmp_path / "cache")
    assert profiles_of(sessions, tmp_path / "cache") == first
    assert sessions.asked == ["a", "b"]
    assert known_profiles(family(4), cache_dir=tmp_path / "cache", watts_per_core=10.0) == first
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_measuring_again_is_a_matter_of_asking(sessions: Sessions, tmp_path: Path) -> None:
    profiles_of(sessions, tmp_path)
    profiles_of(sessions, tmp_path, refresh=True)
    assert sessions.asked == ["a", "b"] * 2


def test_only_what_is_not_known_is_measured(sessions: Sessions, tmp_path: Path) -> None:
    profiles_of(sessions, tmp_path)
    (tmp_path / f"{fingerprint(family().variant('b'))}.json").write_text("{torn")
    assert known_profiles(family(), cache_dir=tmp_path, watts_per_core=1.0) is None
    profiles_of(sessions, tmp_path)
    assert sessions.asked == ["a", "b", "b"]


def test_a_cache_that_cannot_be_written_costs_nothing_else(sessions: Sessions, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = profiles_of(sessions, tmp_path / "file" / "cache")
    assert set(found) == {"a", "b"}


def test_progress_is_told(sessions: Sessions, tmp_path: Path) -> None:
    said: list[str] = []
    profile_family(family(1), sessions, cache_dir=tmp_path, watts_per_core=0, progress=said.append)
    assert said == ["measuring m a", "measuring m b"]


def test_a_busy_moment_as_long_as_three_turns_of_one_variant_shows_in_none(sessions: Sessions, tmp_path: Path) -> None:
    quiet = profiles_of(sessions, tmp_path / "quiet")
    began_s = sessions.ended_s[-1][1]
    a_turn_s = 3 * 3 * 0.1  # three sizes, each warmed up and run twice
    sessions.busy_s = [(began_s, began_s + 3 * a_turn_s)]
    busy = profiles_of(sessions, tmp_path / "busy")
    assert sessions.ended_s[-1][1] - began_s > 3 * a_turn_s, "it was in the way"
    for name in ("a", "b"):
        assert busy[name].seconds == pytest.approx(quiet[name].seconds)


def test_energy_is_processor_time_times_power(sessions: Sessions, tmp_path: Path) -> None:
    profile = profiles_of(sessions, tmp_path)["a"]
    assert profile.energy_source == "estimate"
    assert profile.energy_mj_per_row == pytest.approx(10.0 * 1.01)  # 10 W for 1.01 ms
    known = known_profiles(family(), cache_dir=tmp_path, watts_per_core=0)
    assert known is not None
    assert (known["a"].energy_source, known["a"].energy_mj_per_row) == ("none", 0.0)


def test_a_profile_holds_for_one_artifact_and_one_host(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = family().variants
    assert fingerprint(a) == fingerprint(a.model_copy(update={"name": "other"}))
    assert fingerprint(a) != fingerprint(b)
    before = fingerprint(a)
    monkeypatch.setattr(calibrate.os, "sched_getaffinity", lambda _pid: set(range(99)))
    assert fingerprint(a) != before
    monkeypatch.undo()
    monkeypatch.setattr(calibrate, "processor", lambda: "another")
    assert fingerprint(a) != before


def test_the_processor_has_a_name() -> None:
    assert processor()


def test_beside_traffic_it_rests_in_proportion_to_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, ALL_PAY)
    rested: list[float] = []
    monkeypatch.setattr(calibrate.time, "sleep", rested.append)
    profile = measure(timed.as_session(), family(4), within_s=1.0, duty=0.2)
    assert sum(rested) == pytest.approx(4 * timed.now_s), "a fifth of the time was work"
    assert profile.seconds == pytest.approx([ALL_PAY[rows] / 1e3 for rows in (1, 2, 4)]), "and rest is not counted"


def mixed(**more: Variant) -> Family:
    """The family of two files, with other variants before them."""
    plain = family(4)
    return plain.model_copy(update={"variants": (*more.values(), *plain.variants)})


RULE = Cascade(first="b", then="a", output="x", threshold=0.5, escalation=0.25)
CLOUD = Variant(name="cloud", remote=Remote(url="http://cloud.invalid", model="big"))


def test_a_cascade_is_composed_and_never_measured(sessions: Sessions, tmp_path: Path) -> None:
    whole = mixed(both=Variant(name="both", cascade=RULE))
    found = profile_family(whole, sessions, cache_dir=tmp_path, watts_per_core=10.0)
    assert sessions.asked == ["a", "b"]
    assert list(found) == ["both", "a", "b"]
    assert found["both"] == composed(found["b"], found["a"], 0.25)
    assert known_profiles(whole, cache_dir=tmp_path, watts_per_core=10.0) == found


def test_the_profile_of_an_endpoint_is_believed_for_a_while(
    sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = mixed(cloud=CLOUD)

    def again() -> None:
        profile_family(whole, sessions, cache_dir=tmp_path, watts_per_core=10.0)

    again()
    again()
    assert sessions.asked == ["cloud", "a", "b"]
    place = tmp_path / f"{fingerprint(CLOUD, whole.inputs)}.json"
    written_s = place.stat().st_mtime
    os.utime(place, (written_s, written_s - REMOTE_AGE_S - 60))
    assert known_profiles(whole, cache_dir=tmp_path, watts_per_core=10.0) is None
    again()
    assert sessions.asked == ["cloud", "a", "b", "cloud"]


def test_profiles_of_endpoints_are_told_apart() -> None:
    others = [
        CLOUD.remote,
        Remote(url="http://other.invalid", model="big"),
        Remote(url="http://cloud.invalid", model="bigger"),
        Remote(url="http://cloud.invalid", model="big", version="2"),
        Remote(url="http://cloud.invalid", model="big", variant="x"),
    ]
    assert len({fingerprint(Variant(name="cloud", remote=remote)) for remote in others}) == len(others)
    patient = Remote(url="http://cloud.invalid", model="big", timeout_ms=9.0)
    assert fingerprint(Variant(name="c", remote=patient)) == fingerprint(CLOUD)


def test_an_endpoint_that_is_away_is_measured_another_time(sessions: Sessions, tmp_path: Path) -> None:
    away = True
    said: list[str] = []

    def runner_of(variant: Variant) -> Session:
        if away and variant.remote is not None:
            raise VariantLost("nobody there")
        return sessions(variant)

    def found() -> dict[str, LatencyProfile]:
        return profile_family(mixed(cloud=CLOUD), runner_of, cache_dir=tmp_path, watts_per_core=0, progress=said.append)

    assert found()["cloud"] == ASSUMED_REMOTE
    assert "m cloud does not answer: nobody there" in said
    away = False
    assert found()["cloud"] != ASSUMED_REMOTE
    assert sessions.asked == ["a", "b", "cloud"]
