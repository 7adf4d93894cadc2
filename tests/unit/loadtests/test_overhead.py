import urllib.request
from dataclasses import dataclass, field
from typing import Any

import pytest

from loadtests.benchmark.load import LoadResult
from loadtests.benchmark.wire import Payload
from loadtests.overhead import PLAIN, RATIOS, Server, Window, compared, measure, sink

PAYLOAD = Payload(b"{}", {})


@dataclass
class Tree:
    """A server that has spent more processor time each time it is asked."""

    spent_s: list[float]

    def cpu_s(self) -> float:
        return self.spent_s.pop(0)


@dataclass
class Load:
    result: LoadResult
    name: str = "fake"
    asked: list[tuple[str, int, int]] = field(default_factory=list)

    def run(self, url: str, payload: Payload, connections: int, duration_s: int) -> LoadResult:
        self.asked.append((url, connections, duration_s))
        return self.result


def server(*spent_s: float) -> Server:
    tree: Any = Tree(list(spent_s))
    return Server("http://here", tree)


def test_a_window_divides_processor_time_by_answers() -> None:
    load = Load(LoadResult(requests=200, seconds=2.0, p50_s=0.0, p99_s=0.0))
    window = measure(server(10.0, 10.5), load, PAYLOAD, 16, 2)
    assert window == Window(rps=100.0, cpu_us=2500.0)
    assert load.asked == [("http://here", 16, 2)]


@pytest.mark.parametrize("result", [LoadResult(5, 1.0, 0.0, 0.0, {"status": 1}), LoadResult(0, 1.0, 0.0, 0.0)])
def test_wrong_answers_are_no_measurement(result: LoadResult) -> None:
    with pytest.raises(RuntimeError, match="http://here"):
        measure(server(1.0, 2.0), Load(result), PAYLOAD, 16, 1)


def test_servers_are_compared_within_their_round() -> None:
    """A host that halves its speed from round to round does not look like a difference."""
    speeds = (1000.0, 500.0, 250.0)
    rounds = [
        {
            name: Window(rps * (1.0 if name == PLAIN else 0.9), 1e5 / rps * (1.0 if name == PLAIN else 1.2))
            for name in RATIOS
        }
        for rps in speeds
    ]
    plain, *others = compared(rounds)
    assert plain == (PLAIN, "500", "200.0", "", "")
    for line in others:
        assert line[3:] == ("-10.0% (-10.0% to -10.0%)", "+20.0% (+20.0% to +20.0%)")


def test_one_round_has_no_spread() -> None:
    lines = compared([{name: Window(100.0, 10.0) for name in RATIOS}])
    assert lines[1][3] == "+0.0% (+0.0% to +0.0%)"


def test_the_sink_takes_everything() -> None:
    with sink() as endpoint:
        request = urllib.request.Request(endpoint, data=b"spans", method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
