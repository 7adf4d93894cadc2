from pathlib import Path

import pytest

from loadtests.benchmark.load import LoadResult
from loadtests.benchmark.results import Cell
from loadtests.benchmark.runner import Plan, Runner, new_results
from loadtests.benchmark.wrk import WrkError

pytestmark = pytest.mark.server


class FakeLoad:
    name = "fake"

    def __init__(self, broken=False):
        self.calls = []
        self.broken = broken

    def run(self, url, payload, connections, duration_s):
        self.calls.append((connections, duration_s, payload.headers["Content-Type"]))
        if self.broken:
            raise WrkError("no totals")
        return LoadResult(100, float(duration_s), 0.001, 0.002, {"read": 1} if duration_s == 1 else {})


class Log:
    def __init__(self):
        self.servers_done = 0
        self.measured_cells = []

    def doing(self, what):
        pass

    def measured(self, cell, sample):
        self.measured_cells.append((sample.repeat, cell))

    def failed(self, failure):
        pass

    def server_done(self):
        self.servers_done += 1


def run(servers, oracle, folder, load, repeats=2):
    plan = Plan(servers, ["json", "binary"], [1, 4], repeats, duration_s=3, warmup_s=1, extra_env={})
    results = new_results(plan, oracle, "command", {})
    log = Log()
    Runner(plan, load, oracle, Path("unused.onnx"), folder, results, log).run()
    return plan, results, log


def test_repeats_are_the_outer_loop_and_every_cell_is_warmed_up_then_measured(stub, oracle, tmp_path):
    load = FakeLoad()
    plan, results, log = run([stub(name="one"), stub(name="two")], oracle, tmp_path, load)
    one_server = [("json", 1), ("json", 4), ("binary", 1), ("binary", 4)]
    expected = [
        (repeat, Cell(name, body, count)) for repeat in (1, 2) for name in ("one", "two") for body, count in one_server
    ]
    assert log.measured_cells == expected
    assert len(expected) == plan.cells
    assert plan.load_s == 16 * 4
    assert log.servers_done == 4
    assert load.calls[:4] == [
        (1, 1, "application/json"),
        (1, 3, "application/json"),
        (4, 1, "application/json"),
        (4, 3, "application/json"),
    ]
    assert results.complete
    summary = results.summary(Cell("one", "json", 4))
    assert (summary.repeats, summary.rps.median) == (2, pytest.approx(100 / 3))
    assert summary.errors == {"read": 2}  # those of the warm-up are not hidden
    assert not results.sound


@pytest.mark.parametrize(("fault", "said"), [("exit", "ended with 7"), ("wrong", "json: row")])
def test_a_failed_server_is_told_once_and_the_others_are_measured(stub, oracle, tmp_path, fault, said):
    _, results, log = run([stub(fault, name="bad"), stub(name="good")], oracle, tmp_path, FakeLoad())
    (failure,) = results.failures
    assert (failure.server, failure.repeat) == ("bad", 1)
    assert said in failure.reason
    assert {cell.server for _, cell in log.measured_cells} == {"good"}
    assert results.complete
    assert not results.sound


def test_a_generator_that_fails_is_a_failure_of_the_run(stub, oracle, tmp_path):
    _, results, _ = run([stub()], oracle, tmp_path, FakeLoad(broken=True))
    assert [failure.reason for failure in results.failures] == ["no totals"]
    assert results.samples == {}
