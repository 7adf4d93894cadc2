"""The requests of a scenario, one by one: the same for every policy, simulated or live."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from heapq import merge
from itertools import accumulate, islice, takewhile
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from loadtests.arrivals import CHUNK, gamma, poisson, read_trace, trace
from loadtests.scenario import GammaArrivals, Scenario, ScenarioError, Stream, TraceArrivals
from serving.core.budget import RequestBudget
from serving.core.fleet import VariantView

_TIMES, _KINDS, _ROWS = range(3)


@dataclass(frozen=True, slots=True)
class Call:
    """One request as its caller intends it."""

    at_s: float
    """Intended send, seconds from the start of the run: latency counts from here, however late it is really sent."""
    model: str
    rows: int
    budget: RequestBudget
    """One object for each class."""
    kind: str
    """Name of the class it belongs to."""


def capacity_rows_s(variants: tuple[VariantView, ...], workers: int, batch_overhead_s: float = 0.0) -> float:
    """Rows a second that `workers` workers do with the fastest variant in batches at its knee.

    `batch_overhead_s` is what a batch costs besides the model. This is what a scenario's `load` is a fraction of.
    """
    fastest = min(variants, key=lambda view: view.table.seconds(1))
    return workers * fastest.knee_rows / (fastest.table.seconds(fastest.knee_rows) + batch_overhead_s)


def calls(scenario: Scenario, capacity: Mapping[str, float], seed: int | None = None) -> Iterator[Call]:
    """The scenario's requests in the order of their times, made as they are asked for.

    `capacity` gives `capacity_rows_s` of each model, with all workers of the fleet; only a scenario with a `load`
    needs it. `seed` defaults to the scenario's own. Times, classes and sizes come from random streams of their own,
    so what is changed in one leaves the others as they were.
    Raises `ScenarioError` and `TraceError` at once, not on the way.
    """
    chosen = scenario.seed if seed is None else seed
    parts = [_requests(stream, _times(stream, capacity, chosen), chosen) for stream in scenario.streams()]
    found = parts[0] if len(parts) == 1 else merge(*parts, key=attrgetter("at_s"))
    if scenario.requests is not None:
        return islice(found, scenario.requests)
    end_s = scenario.end_s
    return takewhile(lambda call: call.at_s < end_s, found)


def request_rate(stream: Stream, capacity: Mapping[str, float]) -> float:
    """Requests a second of the stream at factor 1; of a trace, on average.

    A load is the share of the fleet's time that the stream takes on the smallest variants. Raises `ScenarioError`,
    and of a trace `TraceError`.
    """
    arrivals = stream.arrivals
    if isinstance(arrivals, TraceArrivals) and arrivals.compression is not None:
        return _recorded_rate(arrivals) * arrivals.compression
    if arrivals.rate is not None:
        return arrivals.rate
    if missing := sorted({entry.model for entry in stream.classes} - capacity.keys()):
        raise ScenarioError(
            f"the load cannot be turned into a rate: the capacity of {', '.join(missing)} is not known; "
            f"measure it, or give the scenario a 'rate'"
        )
    shares = _weights(stream)
    fleet_s = sum(
        share * entry.mean_rows / capacity[entry.model] for share, entry in zip(shares, stream.classes, strict=True)
    )
    return (arrivals.load or 0.0) / fleet_s


def _times(stream: Stream, capacity: Mapping[str, float], seed: int) -> Iterator[float]:
    arrivals = stream.arrivals
    if isinstance(arrivals, TraceArrivals):
        compression = arrivals.compression or request_rate(stream, capacity) / _recorded_rate(arrivals)
        return trace(arrivals.file, compression, arrivals.column)
    rate = request_rate(stream, capacity)
    phases = [entry.phase() for entry in arrivals.phases]
    rng = _random(seed, stream, _TIMES)
    if isinstance(arrivals, GammaArrivals):
        return gamma(rate, arrivals.cv2, rng, phases)
    return poisson(rate, rng, phases)


def _recorded_rate(arrivals: TraceArrivals) -> float:
    """Requests a second as it was recorded."""
    times = read_trace(arrivals.file, arrivals.column)
    if times[-1] <= 0:
        raise ScenarioError(f"trace {arrivals.file}: all its requests come at the same time, so it has no rate")
    return (len(times) - 1) / times[-1]


def _requests(stream: Stream, times: Iterator[float], seed: int) -> Iterator[Call]:
    """Give each arrival a class and a size."""
    kinds_rng, rows_rng = _random(seed, stream, _KINDS), _random(seed, stream, _ROWS)
    pick_kind = _picker(_weights(stream))
    pick_rows = [_picker([item.share for item in entry.rows]) for entry in stream.classes]
    sizes = [[item.rows for item in entry.rows] for entry in stream.classes]
    kinds = [(entry.model, entry.budget(), entry.name) for entry in stream.classes]
    while chunk := list(islice(times, CHUNK)):
        # Always as many draws, also where they are not looked at: the next chunk must not depend on this one's.
        drawn = pick_kind(kinds_rng.random(CHUNK))
        shares = rows_rng.random(CHUNK)
        places = np.zeros(CHUNK, dtype=np.intp)
        for kind, pick in enumerate(pick_rows):
            mine = drawn == kind
            places[mine] = pick(shares[mine])
        for at_s, kind, place in zip(chunk, drawn.tolist(), places.tolist(), strict=False):
            model, budget, name = kinds[kind]
            yield Call(at_s, model, sizes[kind][place], budget, name)


def _weights(stream: Stream) -> list[float]:
    """The classes' shares of the stream; they add up to 1."""
    weights = [entry.weight or 1.0 for entry in stream.classes]
    return [weight / sum(weights) for weight in weights]


def _picker(shares: list[float]) -> Callable[[NDArray[np.float64]], NDArray[np.intp]]:
    """Turns uniform numbers of [0, 1) into places, each as often as its share says."""
    # Without the last bound, which rounding may leave below 1, every number finds a place.
    bounds = np.array(list(accumulate(shares))[:-1])
    return lambda uniform: np.searchsorted(bounds, uniform, side="right")


def _random(seed: int, stream: Stream, purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream.number, purpose)))
