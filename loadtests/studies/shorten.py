"""Make a scenario as long as a simulation has time for, without changing what happens in it."""

from collections.abc import Mapping
from math import inf

from loadtests.arrivals import Phase, read_trace
from loadtests.scenario import GammaArrivals, PhaseEntry, PoissonArrivals, Scenario, Stream, TraceArrivals
from loadtests.workload import request_rate

_AnyArrivals = PoissonArrivals | GammaArrivals | TraceArrivals


def resized(scenario: Scenario, capacity: Mapping[str, float], least: int, most: int) -> Scenario:
    """The scenario with about `least` to `most` requests; `capacity` as for `workload.calls`.

    Where the rate changes, all phases are shortened or stretched by one factor, so that each keeps its share of the
    run. A steady rate ends sooner or later, a trace sooner. Raises `ScenarioError` and `TraceError`.
    """
    if scenario.requests is not None:
        return scenario.model_copy(update={"requests": min(max(scenario.requests, least), most)})
    expected = expected_requests(scenario, capacity)
    wanted = min(max(expected, least), most)
    if wanted == expected:
        return scenario
    if not any(_phases(stream.arrivals) for stream in scenario.streams()):
        return scenario.model_copy(update={"requests": round(wanted), "duration_s": None})
    factor = wanted / expected
    return scenario.model_copy(
        update={
            "duration_s": None if scenario.end_s == inf else scenario.end_s * factor,
            "arrivals": _scaled(scenario.arrivals, factor),
            "classes": tuple(
                entry.model_copy(update={"arrivals": _scaled(entry.arrivals, factor)}) for entry in scenario.classes
            ),
        }
    )


def expected_requests(scenario: Scenario, capacity: Mapping[str, float]) -> float:
    """How many requests the scenario has on average. Raises `ScenarioError` and `TraceError`."""
    if scenario.requests is not None:
        return float(scenario.requests)
    return sum(_expected(stream, request_rate(stream, capacity), scenario.end_s) for stream in scenario.streams())


def _expected(stream: Stream, rate: float, end_s: float) -> float:
    arrivals = stream.arrivals
    if isinstance(arrivals, TraceArrivals):
        return min(len(read_trace(arrivals.file, arrivals.column)), rate * end_s)
    total, begun_s, factor = 0.0, 0.0, 1.0
    for phase in _phases(arrivals):
        lasts_s = min(phase.duration_s, end_s - begun_s)
        if lasts_s <= 0:
            break
        factor = phase.start + (phase.end - phase.start) * lasts_s / phase.duration_s
        total += (phase.start + factor) / 2 * lasts_s
        begun_s += lasts_s
    # The last factor stays for ever.
    return rate * (total + max(0.0, end_s - begun_s) * factor) if factor or total else 0.0


def _phases(arrivals: _AnyArrivals | None) -> list[Phase]:
    if arrivals is None or isinstance(arrivals, TraceArrivals):
        return []
    return [entry.phase() for entry in arrivals.phases]


def _scaled(arrivals: _AnyArrivals | None, factor: float) -> _AnyArrivals | None:
    if arrivals is None or isinstance(arrivals, TraceArrivals):
        return arrivals
    phases: tuple[PhaseEntry, ...] = tuple(
        entry.model_copy(update={"duration_s": entry.duration_s * factor}) for entry in arrivals.phases
    )
    return arrivals.model_copy(update={"phases": phases})
