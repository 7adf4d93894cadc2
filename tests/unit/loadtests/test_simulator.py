from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.durations import Overhead
from loadtests.simulation.events import SimulationError
from loadtests.simulation.records import OUTCOMES
from loadtests.simulation.served import Served
from loadtests.simulation.setting import Assumptions, Fleet
from loadtests.simulator import Result, simulate
from loadtests.workload import Call
from serving.core.budget import RequestBudget
from serving.core.edf import EdfQueue
from serving.core.fleet import FleetSnapshot, VariantView
from serving.core.latency import LatencyModel
from serving.core.outcome import Outcome
from serving.core.policies.registry import NamedPolicy, named_policy
from serving.core.scheduler import Decision, Dispatch, Expire, Scheduler, SchedulerOptions, Wait
from tests.support.durations import durations_of
from tests.support.simulator import simulate as drive
from tests.support.views import Arrival, small_and_large, workloads

TIMES = {"v0": (1, 2, 4, 8), "v1": (10, 20, 40, 80)}
TINY = Served("tiny", small_and_large(), durations_of(TIMES))
EXACT = Assumptions(noise=False, batch_overhead_s=0.0)
LARGE_ONLY = named_policy("fixed:v1")
SMALL_ONLY = named_policy("fixed:v0")


def calls(*at_ms: float, budget_ms: float = 1000, rows: int = 1, model: str = "tiny") -> list[Call]:
    budget = RequestBudget(budget_ms / 1e3)
    return [Call(at / 1e3, model, rows, budget, "only") for at in at_ms]


def latencies_ms(result: Result) -> list[float]:
    return [round(value * 1e3, 6) for value in result.records.latency_s]


def outcomes(result: Result) -> list[Outcome]:
    return [OUTCOMES[code] for code in result.records.outcome]


def test_requests_queue_for_the_worker() -> None:
    result = simulate(calls(0, 1, 2), [TINY], Fleet(workers=1), SMALL_ONLY, assumptions=EXACT)
    assert latencies_ms(result) == [1, 1, 1]
    result = simulate(calls(0, 1, 2), [TINY], Fleet(workers=1), LARGE_ONLY, assumptions=EXACT)
    # The two that came while the first ran share a batch of 20 ms.
    assert latencies_ms(result) == [10, 29, 28]
    assert result.ended_s == pytest.approx(0.030)
    assert result.busy_share == pytest.approx(1.0)


def test_arrivals_of_one_moment_share_a_batch() -> None:
    result = simulate(calls(5, 5, 5), [TINY], Fleet(workers=1), SMALL_ONLY, assumptions=EXACT)
    assert latencies_ms(result) == [3, 3, 3]
    assert list(result.records.batch_rows) == [3]


def test_busy_neighbours_make_batches_longer() -> None:
    slow = Served("tiny", small_and_large(), durations_of(TIMES, full=2.0))
    result = simulate(calls(0, 1), [slow], Fleet(workers=2), LARGE_ONLY, assumptions=EXACT)
    assert latencies_ms(result) == [10, 20]


def test_the_gateways_own_time_is_spent_one_thing_at_a_time() -> None:
    own = Overhead(parse_us=1000, hand_off_us=500, render_us=250)
    assumed = Assumptions(overhead=own, noise=False, batch_overhead_s=0.0)
    alone = simulate(calls(0), [TINY], Fleet(workers=1), SMALL_ONLY, assumptions=assumed)
    assert latencies_ms(alone) == [1 + 0.5 + 1 + 0.25]
    together = simulate(calls(0, 0), [TINY], Fleet(workers=2), SMALL_ONLY, assumptions=assumed)
    # The second is parsed after the first, before the first's batch is handed over.
    assert latencies_ms(together)[1] > latencies_ms(alone)[0] + 1 - 1e-9


def test_the_schedulers_learn_of_the_overhead() -> None:
    assumed = Assumptions(overhead=Overhead(render_us=3000), noise=False, batch_overhead_s=0.0)
    tight = calls(*(100.0 * at for at in range(200)), budget_ms=12.6)
    result = simulate(tight, [TINY], Fleet(workers=1), named_policy("look-ahead"), assumptions=assumed)
    assert outcomes(result)[0] is Outcome.LATE
    assert outcomes(result)[-50:] == [Outcome.MET] * 50
    assert set(result.records.variant[-50:]) == {0}


def test_what_no_variant_can_meet_is_refused() -> None:
    result = simulate(calls(0, budget_ms=0.5), [TINY], Fleet(), SMALL_ONLY, assumptions=EXACT)
    found = result.metrics()
    assert (found.rejected, found.infeasible, found.attainment) == (1, 1, 0.0)


def test_expired_requests_are_counted() -> None:
    result = simulate(calls(0, 1, 2, 3, budget_ms=12), [TINY], Fleet(workers=1), LARGE_ONLY, assumptions=EXACT)
    assert outcomes(result) == [Outcome.MET, *[Outcome.EXPIRED] * 3]


def test_models_share_the_workers() -> None:
    other = Served("other", small_and_large(), durations_of(TIMES))
    both = sorted([*calls(0, 2, budget_ms=500), *calls(1, budget_ms=40, model="other")], key=lambda call: call.at_s)
    result = simulate(both, [TINY, other], Fleet(workers=1), LARGE_ONLY, assumptions=EXACT)
    # The more urgent head goes first, whatever its model.
    assert latencies_ms(result) == [10, 19, 28]
    assert result.metrics().variant_rows == {"tiny": {"v0": 0, "v1": 2}, "other": {"v0": 0, "v1": 1}}


class TestGateways:
    def test_colocated_gateways_have_workers_of_their_own(self) -> None:
        fleet = Fleet(workers=1, gateways=4)
        assert fleet.total_workers == 4
        result = simulate(calls(*range(0, 400, 20)), [TINY], fleet, LARGE_ONLY, assumptions=EXACT)
        assert latencies_ms(result) == [10] * 20

    def test_split_gateways_queue_at_shared_workers_without_knowing(self) -> None:
        fleet = Fleet(workers=1, gateways=2, split=True)  # of the worker each says: it is mine
        asked = calls(*(20.0 * at + 0.1 * late for at in range(40) for late in range(2)))
        result = simulate(asked, [TINY], fleet, LARGE_ONLY, assumptions=EXACT)
        # Two batches of 10 ms every 20 ms, by one gateway or by both: the second waits for the first.
        assert max(latencies_ms(result)) == pytest.approx(19.9)
        assert result.busy_share == pytest.approx(1.0, abs=0.01)

    @pytest.mark.parametrize("gateways", [1, 2, 4])
    def test_gateways_with_workers_of_their_own_keep_their_promises(self, gateways: int) -> None:
        def share(*, two_choices: bool) -> float:
            asked = calls(*np.cumsum(np.random.default_rng(3).exponential(1.2, 4000)).tolist(), budget_ms=40)
            fleet = Fleet(workers=4, gateways=gateways, split=True, two_choices=two_choices)
            return simulate(asked, [TINY], fleet, named_policy("look-ahead"), assumptions=EXACT).metrics().attainment

        assert share(two_choices=False) > 0.985
        assert share(two_choices=True) < 0.97, "batches wait behind others that nobody counted on"

    def test_the_way_to_a_worker_and_back_takes_time(self) -> None:
        assumed = Assumptions(overhead=Overhead(travel_us=3000), noise=False, batch_overhead_s=0.0)
        result = simulate(calls(0), [TINY], Fleet(workers=2, split=True), SMALL_ONLY, assumptions=assumed)
        assert latencies_ms(result) == [7]


def test_the_same_seed_repeats_and_arrivals_do_not_depend_on_the_policy() -> None:
    noisy = Served("tiny", small_and_large(), durations_of(TIMES, ratios=(0.8, 1.0, 1.3)))
    asked = calls(*range(0, 300, 3), budget_ms=60)
    runs = [
        simulate(asked, [noisy], Fleet(workers=2, gateways=2), named_policy("look-ahead"), seed=seed)
        for seed in (1, 1, 2)
    ]
    assert runs[0].records.latency_s == runs[1].records.latency_s
    assert runs[0].records.latency_s != runs[2].records.latency_s


def test_classes_are_told_apart() -> None:
    asked = [Call(0.0, "tiny", 1, RequestBudget(1.0), "a"), Call(0.1, "tiny", 2, RequestBudget(0.0001), "b")]
    result = simulate(asked, [TINY], Fleet(), SMALL_ONLY)
    assert (result.metrics(kind="a").attainment, result.metrics(kind="b").attainment) == (1.0, 0.0)


def test_calls_out_of_order_are_told() -> None:
    with pytest.raises(SimulationError, match="order of their times"):
        simulate(calls(5, 1), [TINY], Fleet(), SMALL_ONLY)


class _Stubborn:
    """Decides the same whatever happens."""

    def __init__(self, decision: Decision | None) -> None:
        self._decision = decision

    def __call__(self, variants: tuple[VariantView, ...], latency: LatencyModel) -> "_Stubborn":
        return self

    def decide(self, now_s: float, queue: EdfQueue, fleet: FleetSnapshot) -> Decision:
        if self._decision is not None or not queue:
            return self._decision or Wait()
        return Dispatch(0, (queue.head,), 1, 0.001)


@pytest.mark.parametrize(
    ("decision", "told"), [(Wait(), "never ended"), (Expire(()), "empty Expire"), (None, "no worker was idle")]
)
def test_a_policy_that_breaks_the_rules_is_told(decision: Decision | None, told: str) -> None:
    policy = NamedPolicy("stubborn", _Stubborn(decision), admission=False)
    with pytest.raises(SimulationError, match=told):
        simulate(calls(0, 0), [TINY], Fleet(workers=1), policy)


@given(
    arrivals=workloads(),
    workers=st.integers(1, 3),
    name=st.sampled_from(("look-ahead", "slackfit-queue", "max-accuracy")),
)
@settings(max_examples=60, deadline=None)
def test_it_decides_as_the_reference_driver_does(arrivals: Sequence[Arrival], workers: int, name: str) -> None:
    policy = named_policy(name)
    asked = [Call(each.at_s, "tiny", each.rows, each.budget, "any") for each in arrivals]
    found = simulate(asked, [TINY], Fleet(workers=workers), policy, assumptions=EXACT)
    scheduler = Scheduler(TINY.variants, policy.make, SchedulerOptions(admission=policy.admission))
    plain = [Arrival(each.at_s, each.rows, each.budget) for each in arrivals]
    run = drive(
        scheduler,
        plain,
        workers=workers,
        durations=lambda batch: TINY.variants[batch.variant].table.seconds(batch.rows),
    )
    feasible = [end for number, end in enumerate(outcomes(found)) if number not in set(found.records.infeasible)]
    assert feasible == run.outcomes()
    assert sorted(found.records.batch_at_s) == sorted(batch.at_s for batch in run.batches)
