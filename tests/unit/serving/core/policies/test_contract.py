"""What every policy keeps, ours and the published ones, whatever arrives: one suite for all of them."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core.budget import RequestBudget
from serving.core.fleet import VariantView
from serving.core.outcome import Outcome
from serving.core.policies.batching import largest_batch
from serving.core.policies.registry import LOOK_AHEAD, POLICIES, named_policy
from serving.core.scheduler import Dispatch, Scheduler, SchedulerOptions
from tests.support.simulator import Run, as_predicted, simulate
from tests.support.views import Arrival, families, small_and_large, workloads

NAMES = [
    "look-ahead",
    "fixed:fastest",
    "fixed:most-accurate",
    "clipper:most-accurate",
    "bentoml:most-accurate",
    "infaas:0.7",
    "proteus:0.04",
    "slackfit",
    "slackfit-queue",
    "max-batch",
    "max-accuracy",
]
BOTH_WAYS = [*NAMES, *(f"{name}+early-drop" for name in NAMES if name != LOOK_AHEAD)]

every_policy = pytest.mark.parametrize("name", BOTH_WAYS)
workers = st.integers(1, 3)
depths = st.integers(1, 2)
Durations = Callable[[Dispatch], float]


def scheduler(family: tuple[VariantView, ...], name: str) -> Scheduler:
    policy = named_policy(name)
    return Scheduler(family, policy.make, SchedulerOptions(admission=policy.admission))


@st.composite
def durations(draw: st.DrawFn) -> Durations:
    ratios = draw(st.lists(st.sampled_from((0.5, 0.9, 1.0, 1.1, 1.5, 8.0)), min_size=1, max_size=6))
    turn = iter(range(10**9))
    return lambda batch: batch.expected_s * ratios[next(turn) % len(ratios)]


def test_every_policy_of_the_register_is_held_to_the_contract() -> None:
    assert {name.partition(":")[0] for name in NAMES} == set(POLICIES)


@every_policy
@given(family=families(), arrivals=workloads(cancels=True), workers=workers, depth=depths, durations=durations())
@settings(max_examples=40)
def test_the_contract(
    name: str,
    family: tuple[VariantView, ...],
    arrivals: list[Arrival],
    workers: int,
    depth: int,
    durations: Durations,
) -> None:
    driven = scheduler(family, name)
    run = simulate(driven, arrivals, workers=workers, depth=depth, durations=durations)
    # Exactly one end for each, so nobody starves; the driver itself refuses an empty Expire.
    outcomes = run.outcomes()
    assert len(driven.queue) == driven.queue.rows == driven.queue.size_bytes == 0
    if name != LOOK_AHEAD:
        assert Outcome.REJECTED not in outcomes
    for batch in run.batches:
        chosen = batch.decision
        assert chosen.rows == sum(request.rows for request in chosen.requests)
        assert chosen.rows <= largest_batch(family[chosen.variant]) or len(chosen.requests) == 1
        assert len(set(chosen.requests)) == len(chosen.requests)
        assert set(chosen.requests) <= set(batch.queue)
        assert len({request.group for request in chosen.requests}) == 1
        assert all(chosen.variant in request.eligibility.variants for request in chosen.requests)
        if name != LOOK_AHEAD:
            assert chosen.requests[0] is batch.queue[0]
    _requires_a_reason_to_drop(name, run)


def _requires_a_reason_to_drop(name: str, run: Run) -> None:
    """Without early drop, and where the rule does not shed by itself, a request lives until its deadline."""
    if name.endswith("+early-drop") or name.partition(":")[0] in {LOOK_AHEAD, "fixed", "bentoml"}:
        return
    for at_s, what, *numbers in run.decisions:
        if what == "expire":
            assert all(run.requests[number].deadline_s <= at_s for number in numbers)  # type: ignore[call-overload]


@every_policy
@given(family=families(), arrivals=workloads(), workers=workers)
@settings(max_examples=15)
def test_the_same_events_lead_to_the_same_decisions(
    name: str, family: tuple[VariantView, ...], arrivals: list[Arrival], workers: int
) -> None:
    first, second = (
        simulate(scheduler(family, name), arrivals, workers=workers, durations=as_predicted) for _ in range(2)
    )
    assert first.decisions == second.decisions


@every_policy
def test_a_lone_request_with_time_to_spare_is_met(name: str) -> None:
    run = simulate(
        scheduler(small_and_large(), name), [Arrival(0.0, 1, RequestBudget(0.5))], workers=1, durations=as_predicted
    )
    assert run.outcomes() == [Outcome.MET]


@every_policy
def test_a_request_that_allows_one_variant_gets_it(name: str) -> None:
    # Far apart: a rule that waits to the last moment would let one of two expire.
    asked = [Arrival(1.0 * at, 1, RequestBudget(0.5, variant=f"v{at % 2}")) for at in range(4)]
    run = simulate(scheduler(small_and_large(), name), asked, workers=1, durations=as_predicted)
    assert run.outcomes() == [Outcome.MET] * 4
    assert [batch.decision.variant for batch in run.batches] == [0, 1, 0, 1]
