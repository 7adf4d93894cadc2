import random
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from loadtests.benchmark.load import LoadResult
from loadtests.benchmark.wire import Payload
from loadtests.overhead import (
    CONTROL,
    PLAIN,
    Round,
    Server,
    Session,
    Window,
    ask,
    compared,
    read_sessions,
    sink,
    write_session,
)

PAYLOAD = Payload(b"{}", {})
SHARES = {PLAIN: 0.0, CONTROL: 0.0, "10 %": 0.1}


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


def server(name: str, *spent_s: float) -> Server:
    tree: Any = Tree(list(spent_s))
    return Server(f"http://{name}", tree)


def test_a_window_is_asked_as_told() -> None:
    load = Load(LoadResult(requests=200, seconds=2.0, p50_s=0.0, p99_s=0.0))
    assert ask(server("here"), load, PAYLOAD, 16, 2) == (200, 2.0)
    assert load.asked == [("http://here", 16, 2)]


@pytest.mark.parametrize("result", [LoadResult(5, 1.0, 0.0, 0.0, {"status": 1}), LoadResult(0, 1.0, 0.0, 0.0)])
def test_wrong_answers_are_no_measurement(result: LoadResult) -> None:
    with pytest.raises(RuntimeError, match="http://here"):
        ask(server("here"), Load(result), PAYLOAD, 16, 1)


def test_a_round_asks_everyone_twice_there_and_back() -> None:
    load = Load(LoadResult(requests=200, seconds=2.0, p50_s=0.0, p99_s=0.0))
    servers = {"a": server("a", 10.0, 11.0, 14.0), "b": server("b", 0.0, 2.0, 2.5)}
    session = Session(servers, load, random.Random(1), 16, 2)
    session.warm_up()
    load.asked.clear()
    first, second = session.round(), session.round()
    asked = [url for url, _, _ in load.asked]
    assert sorted(asked[:4]) == ["http://a", "http://a", "http://b", "http://b"]
    assert asked[:4] == asked[3::-1]
    assert asked[4:] == asked[:3:-1]
    assert first == {"a": Window(400, 4.0, 1.0), "b": Window(400, 4.0, 2.0)}
    assert second == {"a": Window(400, 4.0, 3.0), "b": Window(400, 4.0, 0.5)}, "what was spent since the last round"
    assert (first["a"].rps, first["a"].cpu_us) == (100.0, 2500.0)


def round_of(rps: int, slower: float = 1.0, dearer: float = 1.0) -> Round:
    """A host that answers `rps`, and the server that traces among those."""
    plain = Window(rps, 1.0, 0.1)
    return {PLAIN: plain, CONTROL: plain, "10 %": Window(round(rps * slower), 1.0, 0.1 * slower * dearer)}


def test_servers_are_compared_within_their_round() -> None:
    """A host that halves its speed from round to round does not look like a difference."""
    session = [round_of(rps, slower=0.9, dearer=1.2) for rps in (1000, 500, 250)]
    plain, control, traced = compared([session, session], SHARES)
    assert plain == (PLAIN, "500", "200.0", "", "", "")
    assert control[3:] == ("+0.0% (+0.0% to +0.0%)", "+0.0% (+0.0% to +0.0%)", "")
    assert traced[3:5] == ("-10.0% (-10.0% to -10.0%)", "+20.0% (+20.0% to +20.0%)")
    assert traced[5] == "467"  # 20, 40 and 80 us more for each answer, one in ten of which was traced


def test_the_interval_is_of_sessions_where_there_are_several() -> None:
    """Rounds that agree within a session say nothing of the next session's servers."""
    calm = [[round_of(1000, slower=0.9)] * 50, [round_of(1000, slower=1.1)] * 50]
    changes = compared(calm, SHARES)[2][3]
    assert changes == "-0.5% (-10.0% to +10.0%)"
    assert compared([calm[0] + calm[1]], SHARES)[2][3] != changes


def test_one_round_has_no_spread() -> None:
    lines = compared([[round_of(100)]], SHARES)
    assert lines[1][3] == "+0.0% (+0.0% to +0.0%)"


def test_sessions_are_kept_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rounds.jsonl"
    for slower in (0.9, 0.8):
        write_session(file, [round_of(1000, slower), round_of(500, slower)])
    assert read_sessions(file) == [[round_of(1000, s), round_of(500, s)] for s in (0.9, 0.8)]


def test_a_file_compares_the_same_servers_throughout(tmp_path: Path) -> None:
    file = tmp_path / "rounds.jsonl"
    write_session(file, [round_of(1000)])
    write_session(file, [{PLAIN: Window(1, 1.0, 1.0)}])
    with pytest.raises(ValueError, match="different servers"):
        read_sessions(file)


def test_the_sink_takes_everything() -> None:
    with sink() as endpoint:
        request = urllib.request.Request(endpoint, data=b"spans", method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
