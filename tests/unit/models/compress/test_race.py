from threading import Barrier, Lock

import numpy as np
import pytest

from models.compress.dataset import Rows
from models.compress.energy import NoMeter, ProcessorTimeMeter
from models.compress.race import LEAST_TURNS, SIZES, Race

ROWS = Rows({"x": np.arange(100, dtype=np.float32)[:, None]}, None)


class Host:
    """A clock that only models move, on a machine that becomes slower from run to run."""

    def __init__(self, slowing: float = 0.0) -> None:
        self.now_s = 0.0
        self.slowness = 1.0
        self._slowing = slowing

    def clock(self) -> float:
        return self.now_s

    def spend(self, seconds: float) -> None:
        self.now_s += seconds * self.slowness
        self.slowness += self._slowing


class Model:
    """Takes the same time for each row and remembers what it was given."""

    def __init__(self, host: Host, seconds_a_row: float) -> None:
        self._host = host
        self._seconds_a_row = seconds_a_row
        self.given: list[np.ndarray] = []

    def run(self, inputs):
        self.given.append(inputs["x"])
        self._host.spend(self._seconds_a_row * len(inputs["x"]))


@pytest.fixture
def run():
    """Races two variants, of half and of twice the reference's time, so many turns."""

    def run(host, turns, sizes=(1, 4), rows=ROWS, meter=None):
        models = {name: Model(host, 0.001 * factor) for name, factor in {"half": 0.5, "twice": 2.0}.items()}
        with Race(Model(host, 0.001), models, rows, 1, meter or NoMeter(), host.clock) as race:
            for number in range(turns):
                race.turn(number, sizes)
        return race, models

    return run


def test_times_single_runs(run):
    race, _ = run(Host(), turns=2)
    assert race.samples["half", "alone", 4] == pytest.approx([0.002] * len(race.samples["half", "alone", 4]))
    assert len(race.samples["half", "alone", 4]) >= 2 * 3
    assert race.ratios["half", "alone", 4] == pytest.approx([0.5, 0.5])
    assert race.ratios["twice", "alone", 1] == pytest.approx([2.0, 2.0])


def test_drift_of_the_host_cancels(run):
    host = Host(slowing=0.0005)
    race, _ = run(host, turns=6)
    assert host.slowness > 1.2, "the host must have become much slower for this to say anything"
    assert race.ratios["half", "alone", 1] == pytest.approx([0.5] * 6, rel=0.01)
    assert race.ratios["twice", "alone", 4] == pytest.approx([2.0] * 6, rel=0.01)


def test_runs_on_several_real_batches(run):
    _, models = run(Host(), turns=1, sizes=(4,))
    firsts = {int(batch[0, 0]) for batch in models["half"].given}
    assert firsts == {0, 4, 8, 12}


def test_takes_what_rows_there_are(run):
    _, models = run(Host(), turns=1, sizes=(4,), rows=ROWS.take(slice(0, 5)))
    assert {int(batch[0, 0]) for batch in models["half"].given} == {0}


def test_energy_is_for_one_row_in_batches_of_one(run):
    host = Host()
    race, _ = run(host, turns=2, meter=ProcessorTimeMeter(10.0, host.clock))
    assert race.joules_a_row["half"] == pytest.approx([0.005, 0.005])
    assert race.joules_a_row["twice"] == pytest.approx([0.02, 0.02])


class TestRehearsal:
    def sizes(self, limit_s, seconds_a_row=0.001, rows=ROWS):
        host = Host()
        model = Model(host, seconds_a_row)
        with Race(model, {"same": Model(host, seconds_a_row)}, rows, 1, NoMeter(), host.clock) as race:
            return *race.rehearse(limit_s), host.now_s

    def test_all_sizes_where_there_is_time(self):
        assert self.sizes(1e6)[0] == SIZES

    def test_no_larger_batch_than_there_are_rows(self):
        assert self.sizes(1e6, rows=ROWS.take(slice(0, 5)))[0] == (1, 2, 4)

    @pytest.mark.parametrize("limit_s", [0.5, 1.0, 2.0, 4.0])
    def test_leaves_out_what_does_not_fit(self, limit_s):
        sizes, turn_s, spent_s = self.sizes(limit_s)
        assert 1 <= len(sizes) < len(SIZES)
        assert spent_s + LEAST_TURNS * turn_s <= limit_s

    def test_single_rows_in_any_case(self):
        sizes, _, spent_s = self.sizes(0.001, seconds_a_row=1.0)
        assert sizes == (1,)
        assert spent_s <= 4.0, "larger batches must not be tried where even single rows take too long"


def test_all_workers_run_at_the_same_time():
    together, lock, calls = Barrier(3, timeout=20), Lock(), []

    class Meeting:
        """The first run of each block waits for the others: one thread alone would wait in vain."""

        def run(self, inputs):
            with lock:
                calls.append(None)
                warming = len(calls) <= 3
            if warming:
                together.wait()

    class Reference:
        def run(self, inputs):
            pass

    now_s = iter(range(10**9))
    with Race(Reference(), {"one": Meeting()}, ROWS, 3, NoMeter(), lambda: float(next(now_s))) as race:
        assert race.modes == ("alone", "busy")
        race.modes = ("busy",)
        race.turn(0, (1,))
    assert len(race.samples["one", "busy", 1]) >= 3
    assert ("one", "alone", 1) not in race.samples
