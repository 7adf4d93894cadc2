"""What must hold whatever arrives: the production scheduler, its policy and its workers, driven by drawn events."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core.budget import RequestBudget
from serving.core.fleet import VariantView
from serving.core.outcome import Outcome
from serving.core.scheduler import Dispatch
from tests.support.simulator import Run, as_predicted, simulate
from tests.support.views import Arrival, families, scheduler_of, small_and_large, workloads

workers = st.integers(1, 3)
depths = st.integers(1, 2)


@st.composite
def durations(draw: st.DrawFn) -> Callable[[Dispatch], float]:
    """Batches that take a drawn multiple of what was expected: noise, stalls, or a host turned slow."""
    ratios = draw(st.lists(st.sampled_from((0.5, 0.9, 1.0, 1.0, 1.1, 1.5, 8.0)), min_size=1, max_size=6))
    turn = iter(range(10**9))
    return lambda batch: batch.expected_s * ratios[next(turn) % len(ratios)]


@given(families(), workloads(cancels=True), workers, depths, durations())
def test_every_request_ends_exactly_once(
    family: tuple[VariantView, ...],
    arrivals: list[Arrival],
    workers: int,
    depth: int,
    durations: Callable[[Dispatch], float],
) -> None:
    scheduler = scheduler_of(family)
    run = simulate(scheduler, arrivals, workers=workers, depth=depth, durations=durations)
    run.outcomes()  # fails by itself
    assert len(scheduler.queue) == scheduler.queue.rows == scheduler.queue.size_bytes == 0


@given(families(), workloads(cancels=True), workers, depths, durations())
def test_batches_are_lawful(
    family: tuple[VariantView, ...],
    arrivals: list[Arrival],
    workers: int,
    depth: int,
    durations: Callable[[Dispatch], float],
) -> None:
    run = simulate(scheduler_of(family), arrivals, workers=workers, depth=depth, durations=durations)
    for batch in run.batches:
        chosen = batch.decision
        assert chosen.rows == sum(request.rows for request in chosen.requests)
        assert chosen.rows <= family[chosen.variant].knee_rows or len(chosen.requests) == 1
        assert len(set(chosen.requests)) == len(chosen.requests)
        assert set(chosen.requests) <= set(batch.queue)
        assert len({request.group for request in chosen.requests}) == 1
        assert all(chosen.variant in request.eligibility.variants for request in chosen.requests)


@given(families(), workloads(cancels=True), workers, depths, durations())
def test_equals_are_taken_in_the_order_of_their_deadlines(
    family: tuple[VariantView, ...],
    arrivals: list[Arrival],
    workers: int,
    depth: int,
    durations: Callable[[Dispatch], float],
) -> None:
    run = simulate(scheduler_of(family), arrivals, workers=workers, depth=depth, durations=durations)
    for batch in run.batches:
        taken = set(batch.decision.requests)
        for request in taken:
            before = batch.queue[: batch.queue.index(request)]
            alike = [r for r in before if r.eligibility is request.eligibility and r.group == request.group]
            assert set(alike) <= taken


@given(families(), workloads(), workers, depths)
@settings(max_examples=500)
def test_with_exact_predictions_what_is_admitted_is_met(
    family: tuple[VariantView, ...], arrivals: list[Arrival], workers: int, depth: int
) -> None:
    run = simulate(scheduler_of(family, exact=True), arrivals, workers=workers, depth=depth, durations=as_predicted)
    assert set(run.outcomes()) <= {Outcome.MET, Outcome.REJECTED}


@given(families(), workloads(cancels=True), workers, depths)
def test_the_same_events_lead_to_the_same_decisions(
    family: tuple[VariantView, ...], arrivals: list[Arrival], workers: int, depth: int
) -> None:
    def once() -> Run:
        return simulate(scheduler_of(family), arrivals, workers=workers, depth=depth, durations=as_predicted)

    first, second = once(), once()
    assert first.decisions == second.decisions
    assert first.outcomes() == second.outcomes()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_idle_system_admits_and_meets_a_lone_request(workers: int) -> None:
    run = simulate(
        scheduler_of(small_and_large(), exact=True),
        [Arrival(0.0, 1, RequestBudget(latency_s=0.010))],
        workers=workers,
        durations=as_predicted,
    )
    assert run.outcomes() == [Outcome.MET]
    assert run.batches[0].decision.variant == 1
