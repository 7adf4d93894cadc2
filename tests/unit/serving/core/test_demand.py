from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.demand import (
    Demand,
    DemandOptions,
    ModelSignals,
    ReplicaSignals,
    Surroundings,
    sum_of,
    together,
)
from serving.core.request import Eligibility
from tests.support.views import choice, request, scheduler_of, small_and_large, view

AROUND = Surroundings(workers=2, horizon_s=0.1)
BOTH = choice(0, 1)


def watched(demand: Demand, rows_per_s: int, seconds: int, kind: Eligibility = BOTH) -> ModelSignals:
    """The signals after a steady stream of rows."""
    signals = demand.read(0.0, AROUND)
    for second in range(1, seconds + 1):
        demand.arrived(kind, rows_per_s)
        signals = demand.read(float(second), AROUND)
    return signals


def test_demand_is_the_work_of_the_accuracy_wanted() -> None:
    """30 rows a second, 10 ms each on the accurate variant: 0.3 workers, whatever answers them."""
    signals = watched(Demand(small_and_large(), DemandOptions(tolerance=0.0)), 30, 300)
    assert signals.rows_per_s == pytest.approx(30)
    assert signals.demand == pytest.approx(0.3)
    assert signals.demand_now == pytest.approx(0.3)


def test_tolerance_buys_a_cheaper_mix() -> None:
    """0.1 of the 0.3 between the variants: a third of the rows may cost 1 ms instead of 10."""
    signals = watched(Demand(small_and_large(), DemandOptions(tolerance=0.1)), 30, 300)
    assert signals.demand == pytest.approx(30 * (2 / 3 * 0.010 + 1 / 3 * 0.001))


def test_whatever_is_tolerated_every_row_is_to_be_answered() -> None:
    signals = watched(Demand(small_and_large(), DemandOptions(tolerance=1.0)), 30, 300)
    assert signals.demand == pytest.approx(30 * 0.001)


def priced(ran: dict[int, float], seconds: int = 40, quiet: int = 0) -> float:
    """Workers that 30 rows a second are worth, where each second 20 batches of one row took `ran` by variant."""
    demand = Demand(small_and_large(), DemandOptions(tolerance=0.0))
    signals = demand.read(0.0, AROUND)
    for second in range(1, seconds + 1):
        demand.arrived(BOTH, 30)
        if second <= seconds - quiet:
            for variant, took_s in ran.items():
                for _ in range(20):
                    demand.ran(variant, 1, took_s)
        signals = demand.read(float(second), AROUND)
    return signals.demand_now


def test_a_slow_host_multiplies_prices() -> None:
    assert priced({0: 0.002, 1: 0.020}) == pytest.approx(0.6, rel=0.06)


def test_a_fast_host_lowers_prices() -> None:
    assert priced({1: 0.005}) == pytest.approx(0.15, rel=0.06)


def test_noise_around_a_small_variant_does_not_multiply_the_price_of_a_large_one() -> None:
    """The small variant takes 4 ms more than its 1: the large one takes 14 a row, not 50."""
    assert priced({0: 0.005}) == pytest.approx(30 * 0.014, rel=0.06)


def test_what_is_known_of_a_variant_goes_before_what_is_known_of_all() -> None:
    assert priced({0: 0.005, 1: 0.010}) == pytest.approx(0.3, rel=0.06)


def test_what_was_seen_is_forgotten_when_nothing_runs() -> None:
    assert priced({1: 0.100}, seconds=200, quiet=150) == pytest.approx(0.3, rel=0.06)


def test_many_rows_are_priced_in_the_batches_they_fill() -> None:
    batching = (view(0, 0.9, (10, 12, 16, 24), knee_rows=8),)
    options = DemandOptions(tolerance=0.0)
    assert watched(Demand(batching, options), 2000, 300, kind=choice(0)).demand == pytest.approx(2000 * 0.024 / 8)
    assert watched(Demand(batching, options), 10, 300, kind=choice(0)).demand == pytest.approx(10 * 0.010)


def test_requests_that_move_between_replicas_are_not_counted_twice() -> None:
    old, new = (Demand(small_and_large(), DemandOptions(tolerance=0.0)) for _ in range(2))
    watched(old, 30, 300)
    new.read(300.0, AROUND)
    for second in range(301, 330):
        old.arrived(BOTH, 15)
        new.arrived(BOTH, 15)
        parts = [demand.read(float(second), AROUND) for demand in (old, new)]
        assert sum_of(parts).demand == pytest.approx(0.3, rel=0.01)
        assert sum_of(parts).demand_now == pytest.approx(0.3, rel=0.01)


def test_the_fast_window_sees_a_step_first() -> None:
    demand = Demand(small_and_large(), DemandOptions(tolerance=0.0))
    watched(demand, 10, 60)
    demand.arrived(BOTH, 100)
    signals = demand.read(61.0, AROUND)
    assert 0.1 < signals.demand < 0.25 < signals.demand_now < 1.0


def test_what_load_takes_is_counted_against_the_best_allowed() -> None:
    demand = Demand(small_and_large())
    demand.read(0.0, AROUND)
    demand.ended(BOTH, 3, 1)  # the best: nothing given up
    demand.ended(BOTH, 2, 0)  # shifted down
    demand.ended(choice(0), 4, 0)  # the only one allowed
    demand.refused(BOTH, 1)
    signals = demand.read(1.0, AROUND)
    assert signals.accuracy_forgone == pytest.approx((2 * 0.3 + 0.9) / 10)
    assert signals.attainment == pytest.approx(0.9)
    assert demand.forgone_total == pytest.approx(2 * 0.3 + 0.9)
    assert 0 < signals.rows_per_s < 1, "only what arrived is a rate, and it begins at nothing"


def test_an_idle_model_asks_for_nothing() -> None:
    demand = Demand(small_and_large())
    assert demand.read(0.0, AROUND, queue_rows=5) == ModelSignals()
    assert demand.read(1.0, AROUND) == ModelSignals()


def test_what_waits_longer_than_the_window_is_backlog() -> None:
    """10 rows a second for 60 s, none of them served: the window knows of about 100."""
    demand = Demand(small_and_large(), DemandOptions(tolerance=0.0))
    for second in range(61):
        signals = demand.read(float(second), AROUND, queue_rows=10 * second)
        demand.arrived(BOTH, 10)
    assert signals.queued_s == pytest.approx(600 * 0.010)
    assert signals.backlog_s == pytest.approx(500 * 0.010, rel=0.01)
    assert demand.read(61.0, AROUND, queue_rows=50).backlog_s == 0.0


def test_the_scheduler_counts_what_comes_to_its_door() -> None:
    """One is answered, one waits, one is refused because of the work ahead, one can never be met."""
    scheduler = scheduler_of(small_and_large(), exact=True)
    scheduler.signals(0.0, 1)
    first, second = (request(20, BOTH) for _ in range(2))
    scheduler.offer(first, 0.0, [0.0])
    scheduler.offer(second, 0.0, [0.0])
    scheduler.offer(request(41, choice(1), rows=4), 0.0, [0.0])
    scheduler.offer(request(0.5, choice(0)), 0.0, [0.0])
    scheduler.ended(first, 1)
    signals = scheduler.signals(1.0, 1)
    assert signals.rows_per_s == pytest.approx((2 + 4) * (1 - exp(-0.1)))
    assert signals.attainment == pytest.approx(1 / 5)
    assert signals.queued_s > 0


rates = st.integers(0, 50).map(float)
models = st.builds(
    ModelSignals,
    rows_per_s=rates,
    demand=rates,
    demand_now=rates,
    queued_s=rates,
    attainment=st.sampled_from((0.5, 1.0)),
    accuracy_forgone=st.sampled_from((0.0, 0.25)),
)
replicas = st.builds(ReplicaSignals, workers=rates, busy=rates, models=st.dictionaries(st.sampled_from("ab|"), models))


@given(replicas)
def test_signals_survive_their_way(signals: ReplicaSignals) -> None:
    assert ReplicaSignals.read(signals.flat()) == signals


@given(st.lists(replicas, min_size=1, max_size=4))
def test_together_work_adds_up_and_shares_stay_shares(signals: list[ReplicaSignals]) -> None:
    total = together(signals)
    assert total.workers == sum(replica.workers for replica in signals)
    for name, model in total.models.items():
        parts = [replica.models[name] for replica in signals if name in replica.models]
        assert model.demand == sum(part.demand for part in parts)
        least, most = min(p.attainment for p in parts), max(p.attainment for p in parts)
        assert least - 1e-9 <= model.attainment <= most + 1e-9


def test_a_busy_replica_counts_for_more() -> None:
    quiet, busy = ModelSignals(rows_per_s=1, attainment=1.0), ModelSignals(rows_per_s=9, attainment=0.5)
    assert sum_of([quiet, busy]).attainment == pytest.approx(0.55)
