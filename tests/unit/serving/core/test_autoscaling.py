"""The control law on its own, and around a fleet that starts and stops replicas as it is told."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.autoscaling import Autoscaler, ModelTargets, ScalingRules, Wanted
from serving.core.demand import ModelSignals, ReplicaSignals

RULES = ScalingRules(
    min_replicas=1, max_replicas=10, up_delay_s=3, up_cooldown_s=15, down_delay_s=60, down_cooldown_s=10,
    targets=ModelTargets(target_busy=0.7),
)  # fmt: skip


def signals(demand: float, running: int, *, hurting: bool = False, busy: float | None = None) -> ReplicaSignals:
    """Of replicas with one worker each."""
    model = ModelSignals(100, demand, demand, accuracy_forgone=0.1 if hurting else 0.0)
    return ReplicaSignals(running, min(demand, running) if busy is None else busy, {"m": model})


def course(
    law: Autoscaler,
    demand: Callable[[float], float],
    seconds: int,
    *,
    start: int = 1,
    start_s: int = 5,
    price: float = 1.0,
    begin_s: int = 0,
) -> list[tuple[int, Wanted]]:
    """(replicas asked for, decision) second by second, where a replica takes `start_s` to start.

    `price`: what work really takes, over what the signals say: the load hurts where the replicas do not do.
    """
    target = running = start
    ready_at: list[int] = []
    found = []
    for now in range(begin_s, begin_s + seconds):
        while ready_at and ready_at[0] <= now:
            ready_at.pop(0)
            running += 1
        work = demand(now)
        hurting = work * price > running * 0.95
        wanted = law.decide(float(now), signals(work, running, hurting=hurting), running=running, target=target)
        if wanted.replicas > target:
            ready_at += [now + start_s] * (wanted.replicas - target)
        running = min(running, wanted.replicas)
        target = wanted.replicas
        found.append((target, wanted))
    return found


def changes(found: list[tuple[int, Wanted]], start: int = 1) -> list[tuple[int, int, str]]:
    """(second, replicas, why) of each change."""
    told, before = [], start
    for second, (target, wanted) in enumerate(found):
        if target != before:
            told.append((second, target, wanted.reason))
        before = target
    return told


def test_a_step_is_answered_in_one_go() -> None:
    """2.5 workers of work at 0.7: 4 replicas, asked for together as soon as it has lasted the delay."""
    assert changes(course(Autoscaler(RULES), lambda _: 2.5, 100)) == [(3, 4, "demand")]


def test_a_steady_load_that_fits_changes_nothing() -> None:
    assert changes(course(Autoscaler(RULES), lambda _: 0.69, 300)) == []


def test_a_spike_shorter_than_the_delay_is_left_alone() -> None:
    assert changes(course(Autoscaler(RULES), lambda s: 3.0 if s % 20 < 2 else 0.5, 200)) == []


def test_what_is_over_is_given_back_after_the_delay_and_in_steps() -> None:
    found = changes(course(Autoscaler(RULES), lambda s: 2.5 if s < 30 else 0.3, 200))
    assert found[0] == (3, 4, "demand")
    second, replicas, why = found[1]
    assert second == pytest.approx(30 + 60, abs=2)
    assert (replicas, why) == (2, "calm"), "half at most"
    assert found[2][0] >= second + 10
    assert found[2][1] == 1


def test_less_load_within_the_delay_gives_nothing_back() -> None:
    """A load that comes back every 50 s finds its replicas."""
    found = changes(course(Autoscaler(RULES), lambda s: 2.5 if s % 50 < 10 else 0.3, 400))
    assert found == [(3, 4, "demand")]


def test_a_margin_keeps_a_load_on_the_edge_from_flapping() -> None:
    """Between 2 and 3 replicas' worth, wobbling: it goes up once, and stays."""
    found = changes(course(Autoscaler(RULES), lambda s: 1.4 + 0.08 * ((s // 20) % 2) - 0.04, 2000, start=2), start=2)
    assert [replicas for _, replicas, _ in found] == [3]


def test_where_prices_are_wrong_feedback_finds_the_number_and_keeps_it() -> None:
    """Work takes 1.6 times what is thought: 3 replicas are computed and 4 are needed."""
    found = changes(course(Autoscaler(RULES), lambda _: 2.05, 600, price=1.8))
    assert found[0] == (3, 3, "demand")
    assert [(replicas, why) for _, replicas, why in found[1:]] == [(4, "missing_accuracy")]


def test_what_replicas_do_not_cure_is_not_cured_with_replicas() -> None:
    """Rows are missed all the time although nothing is to do."""
    found = changes(course(Autoscaler(RULES), lambda _: 0.1, 600, price=100.0))
    assert found == []


def test_what_the_load_has_no_part_in_keeps_no_replicas() -> None:
    """The most accurate variant is away, say: rows lose accuracy, whatever there is to do."""
    law = Autoscaler(RULES)
    target = 8
    for second in range(200):
        model = ModelSignals(100, 0.5, 0.5, accuracy_forgone=0.2)
        wanted = law.decide(second, ReplicaSignals(target, 0.5, {"m": model}), running=target, target=target)
        target = wanted.replicas
    assert target == 3, "what the largest correction could call for"


def test_replicas_on_their_way_are_waited_for() -> None:
    """A start takes a minute; meanwhile the load hurts, and nothing more is asked for."""
    assert changes(course(Autoscaler(RULES), lambda _: 2.5, 100, start_s=60)) == [(3, 4, "demand")]


def test_a_scale_out_is_no_larger_than_the_factor_and_goes_on_after_the_cool_down() -> None:
    law = Autoscaler(replace(RULES, max_up_factor=2.0, max_replicas=8))
    assert [(s, n) for s, n, _ in changes(course(law, lambda _: 9.0, 100))] == [(3, 2), (18, 4), (33, 8)]


def test_the_fast_window_counts_only_while_the_load_hurts() -> None:
    now_hurts = ModelSignals(100, 0.5, 3.0, accuracy_forgone=0.1)
    law = Autoscaler(RULES)
    for second in range(4):
        wanted = law.decide(second, ReplicaSignals(1, 1, {"m": now_hurts}), running=1, target=1)
    assert wanted.replicas == 4
    noise = replace(now_hurts, accuracy_forgone=0.0)
    law = Autoscaler(RULES)
    for second in range(4):
        wanted = law.decide(second, ReplicaSignals(1, 1, {"m": noise}), running=1, target=1)
    assert wanted.replicas == 1


def test_work_that_waits_is_worth_workers() -> None:
    waits = ModelSignals(10, 0.5, 0.5, queued_s=20.0, backlog_s=14.0)
    law = Autoscaler(RULES)
    for second in range(4):
        wanted = law.decide(second, ReplicaSignals(1, 1, {"m": waits}), running=1, target=1)
    assert wanted.needed == pytest.approx((0.5 + 14 / 10) / 0.7)
    assert wanted.replicas == 3


def test_busy_workers_are_not_taken_away_whatever_is_computed() -> None:
    law = Autoscaler(RULES)
    for second in range(100):
        wanted = law.decide(second, signals(0.3, 3, busy=2.5), running=3, target=3)
    assert wanted.replicas == 3


def test_each_model_counts_by_its_own_targets() -> None:
    rules = replace(RULES, models={"b": ModelTargets(target_busy=0.35)})
    models = {name: ModelSignals(10, 0.7, 0.7) for name in "ab"}
    law = Autoscaler(rules)
    for second in range(4):
        wanted = law.decide(second, ReplicaSignals(1, 1, models), running=1, target=1)
    assert wanted.needed == pytest.approx(1 + 2)
    assert wanted.model == "b"


def test_replicas_of_several_workers() -> None:
    law = Autoscaler(RULES)
    for second in range(4):
        wanted = law.decide(second, replace(signals(5.0, 1), workers=4.0), running=1, target=1)
    assert wanted.replicas == 2


@pytest.mark.parametrize(("target", "wanted"), [(0, 1), (12, 10), (5, 5)])
def test_bounds_hold_at_once_and_without_signals(target: int, wanted: int) -> None:
    assert Autoscaler(RULES).decide(0.0, None, running=target, target=target).replicas == wanted


@given(
    st.lists(st.tuples(st.floats(0, 12), st.booleans()), min_size=1, max_size=120),
    st.integers(1, 3),
    st.integers(3, 8),
)
def test_whatever_comes_the_bounds_and_steps_hold(loads: list[tuple[float, bool]], least: int, most: int) -> None:
    rules = ScalingRules(
        min_replicas=least, max_replicas=most, up_delay_s=2, up_cooldown_s=4, down_delay_s=8, down_cooldown_s=3,
        max_up_factor=2.0,
    )  # fmt: skip
    law = Autoscaler(rules)
    target, up_s, down_s = least, -100, -100
    for second, (demand, hurting) in enumerate(loads):
        wanted = law.decide(second, signals(demand, target, hurting=hurting), running=target, target=target)
        assert least <= wanted.replicas <= most
        if wanted.replicas > target:
            assert wanted.replicas <= max(target + 1, 2 * target)
            assert second - up_s >= 4
            up_s = second
        elif wanted.replicas < target:
            assert wanted.replicas >= target - max(1, target // 2)
            assert second - down_s >= 3
            assert all(load / 0.7 <= wanted.replicas for load, _ in loads[max(0, second - 7) : second + 1])
            down_s = second
        target = wanted.replicas
