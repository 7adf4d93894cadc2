"""Time of one decision and of one admission with 1,000 requests queued: `python -m loadtests.bench_decide`.

Twelve variants, 1.7 times dearer each, on two workers. Processor time of this process, so that neighbours count little.
`alike`: single rows of one class and budget; `mixed`: four floors, three budgets, one to four rows.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from serving.core.fleet import VariantView
from serving.core.latency import LatencyTable
from serving.core.lookahead import LookAhead
from serving.core.request import Eligibility, Request
from serving.core.scheduler import Dispatch, Scheduler, SchedulerOptions

VARIANTS, QUEUED, DECISIONS, REPEATS = 12, 1000, 300, 5
SIZES = (1, 2, 4, 8, 16, 32, 64)
OVERHEAD_S = 0.0002

ResultT = TypeVar("ResultT")


def main() -> None:
    """Print one line a kind of queue, microseconds: median (least to most) over the repeats."""
    for mixed in (False, True):
        runs = [_run(mixed=mixed, seed=seed) for seed in range(1, REPEATS + 1)]
        told = []
        for name, which in (("decide", 0), ("offer", 1)):
            for percent in (50, 99):
                each = [_percentile(run[which], percent) for run in runs]
                told.append(f"{name} p{percent} {statistics.median(each):.0f} ({min(each):.0f} to {max(each):.0f})")
        sys.stdout.write(f"{'mixed' if mixed else 'alike'}, {QUEUED} queued: {', '.join(told)} us\n")


def _run(*, mixed: bool, seed: int) -> tuple[list[float], list[float]]:
    """Microseconds of each decision and of each admission."""
    rng = random.Random(seed)  # noqa: S311  # arrivals, not secrets
    scheduler = Scheduler(_variants(), LookAhead, SchedulerOptions(batch_overhead_s=OVERHEAD_S))
    floors = (0, 3, 6, 8) if mixed else (0,)
    classes = [Eligibility(tuple(range(floor, VARIANTS)), VARIANTS - 1, "most_accurate") for floor in floors]
    decisions: list[float] = []
    offers: list[float] = []
    now_s = 1.0
    for _ in range(DECISIONS):
        for _ in range(3 * QUEUED):  # the door may refuse some
            if len(scheduler.queue) >= QUEUED:
                break
            request = Request(
                rows=rng.choice((1, 1, 1, 2, 4)) if mixed else 1,
                arrival_s=now_s,
                deadline_s=now_s + (rng.choice((0.5, 1.0, 2.0)) if mixed else 1.0) + rng.random() * 0.01,
                eligibility=rng.choice(classes),
            )
            _timed(partial(scheduler.offer, request, now_s, (now_s, now_s)), offers)
        decision = _timed(partial(scheduler.decide, now_s, 1, (now_s, now_s + 0.001)), decisions)
        if isinstance(decision, Dispatch):
            now_s += decision.expected_s / 2
    return decisions, offers


def _variants() -> tuple[VariantView, ...]:
    views = []
    for index in range(VARIANTS):
        one_s = 20e-6 * 1.7**index
        table = LatencyTable(SIZES, [one_s * (0.3 + 0.7 * rows) for rows in SIZES])
        views.append(
            VariantView(index, f"v{index}", 0.8 + 0.015 * index, table, table.knee_rows(OVERHEAD_S, SIZES[-1]), 0.1)
        )
    return tuple(views)


def _timed(work: Callable[[], ResultT], into: list[float]) -> ResultT:
    started_ns = time.process_time_ns()
    result = work()
    into.append((time.process_time_ns() - started_ns) / 1e3)
    return result


def _percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[round((len(values) - 1) * percent / 100)]


if __name__ == "__main__":
    main()
