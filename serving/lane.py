"""One served model: its family, its scheduler, and its place in the metrics."""

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Self

import numpy as np

from models.cascade import WENT_ON
from models.manifest import ESCALATED, Family, LatencyProfile
from serving.cache import ResponseCache
from serving.config import CacheSettings, ConfigError, SchedulerSettings
from serving.core.budget import RequestBudget, eligible_variants
from serving.core.demand import DemandOptions, ModelSignals
from serving.core.errors import Infeasible, UnknownModel
from serving.core.fleet import VariantView, view_variants
from serving.core.lookahead import LookAheadSettings
from serving.core.outcome import Outcome
from serving.core.policies.batching import PolicyError
from serving.core.policies.registry import NamedPolicy, named_policy
from serving.core.request import Eligibility, Reason, Request
from serving.core.scheduler import Scheduler, SchedulerOptions
from serving.metrics import Counter, Histogram, Metrics
from serving.ports import Execution


@dataclass(frozen=True, slots=True)
class Done:
    """How one request was answered, for its account."""

    rows: int
    variant: VariantView
    reason: Reason
    duration_s: float
    queue_s: float


class Lane:
    """A model on its way through the gateway, from budget to account."""

    def __init__(
        self,
        family: Family,
        profiles: dict[str, LatencyProfile],
        settings: SchedulerSettings,
        max_queue_bytes: int,
        metrics: Metrics,
        batch_overhead_s: float = 0.0,
        demand: DemandOptions | None = None,
        cache: CacheSettings | None = None,
    ) -> None:
        """`profiles` by variant name; `batch_overhead_s` as the backend has it; `demand`: how load is looked at;
        `cache`: whose answers are kept.

        Raises `ConfigError` when the policy asks for a variant the family does not have.
        """
        self.family = family
        self.profiles = profiles
        self.key = f"{family.name}/{family.version}"
        self.weight = settings.weights.get(family.name, 1.0)
        """What it may count on of the workers, relative to other models."""
        views = view_variants(family, profiles, batch_overhead_s)
        policy = policy_of(settings)
        options = SchedulerOptions(
            max_queue_bytes, settings.plan_quantile, batch_overhead_s, policy.admission, demand or DemandOptions()
        )
        try:
            self.scheduler = Scheduler(views, policy.make, options)
        except PolicyError as error:
            raise ConfigError(f"setting scheduler.policy, model '{family.name}': {error}") from error
        self.variants = self.scheduler.variants
        self._calibrated = views
        self._revision = 0
        self.accuracy_known = family.variants[0].accuracy is not None
        self.free_axes = any(-1 in spec.shape[1:] for spec in family.inputs)
        """Whether shapes behind the rows may differ between requests, so that not all can share a batch."""
        self.paddings = {spec.name: spec.padding for spec in family.inputs if spec.padding is not None}
        """How inputs of different lengths are filled up to share a batch, by name."""
        default = family.default_budget
        self.default_budget = RequestBudget(
            latency_s=default.latency_ms / 1e3,
            min_accuracy=default.min_accuracy,
            max_energy_mj=default.max_energy_mj,
            prefer=default.prefer,
        )
        kept = cache is not None and cache.keeps(family.name)
        self.cache = ResponseCache(cache.max_bytes, cache.max_age_s) if cache is not None and kept else None
        """Answers to give again; None where the model's are not kept."""
        self.users = 0
        """Requests between the look-up of this lane and their end: see `__enter__`."""
        self.in_flight = 0
        """Batches that run."""
        self.closed = False
        """Whether the model is gone, and nothing can be admitted any more."""
        self._known: dict[tuple[tuple[int, ...], int, Reason], Eligibility] = {}
        # Callers repeat their budgets: what one allows is worked out once.
        self.eligibility = lru_cache(maxsize=4096)(self._eligibility)
        self._labels = (family.name, family.version)
        self._metrics = metrics
        self.decode_s = metrics.counter("gearshift_decode_seconds_total", *self._labels)
        self.encode_s = metrics.counter("gearshift_encode_seconds_total", *self._labels)
        self._queue_s = self._histogram("gearshift_queue_duration_seconds")
        self._error_ratio = self._histogram("gearshift_prediction_error_ratio")
        self._accuracy = self._counter("gearshift_accuracy_total")
        self._forgone_told = 0.0
        self._answered_at = self._counter("gearshift_last_inference_time_seconds")
        # There from the start, so that the first that is counted is seen as a rise, and a share of none is 0.
        for outcome in Outcome:
            self._counter("gearshift_outcome_total", outcome.value)
            self._counter("gearshift_rows_total", outcome.value)
        for variant in self.variants:
            self._counter("gearshift_variant_ready", variant.name).value = 1
            self._counter("gearshift_selection_total", variant.name, "load")

    def __enter__(self) -> Self:
        """Hold on to the lane: its model stays until `__exit__`, also when it is unloaded meanwhile."""
        self.users += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.users -= 1

    @property
    def idle(self) -> bool:
        """Whether nobody needs the model any more."""
        return not (self.users or self.in_flight or self.scheduler.queue)

    def retire(self) -> None:
        """Say on the metrics page that the model is offered no longer."""
        self._counter("gearshift_demand_workers").value = 0
        self._counter("gearshift_work_queued_seconds").value = 0
        self._counter("gearshift_cache_bytes").value = 0
        for variant in self.variants:
            self._counter("gearshift_variant_ready", variant.name).value = 0

    def count_answer(self, done: Done, *, met: bool) -> None:
        """Account for a request that got its answer."""
        outcome = Outcome.MET if met else Outcome.LATE
        self._count(outcome, done.rows, done.variant.name, done.duration_s)
        self._queue_s.observe(done.queue_s)
        self._answered_at.value = time.time()
        self._counter("gearshift_selection_total", done.variant.name, done.reason).value += 1
        if met and self.accuracy_known:
            self._accuracy.value += done.rows * done.variant.accuracy

    def exemplify(self, done: Done, trace_id: str, *, met: bool) -> None:
        """Let a traced request stand for others like it: its trace is shown beside the buckets it fell into."""
        outcome = Outcome.MET if met else Outcome.LATE
        durations = self._histogram("gearshift_request_duration_seconds", done.variant.name, outcome.value)
        durations.exemplify(done.duration_s, trace_id)
        self._queue_s.exemplify(done.queue_s, trace_id)

    def count_end(self, outcome: Outcome, rows: int, duration_s: float) -> None:
        """Account for a request that ended without an answer."""
        self._count(outcome, rows, "", duration_s)

    def suspend(self, variant: int) -> list[Request]:
        """Do without a variant until `resume`. Returns the waiting requests that no other can answer."""
        self._counter("gearshift_variant_ready", self.variants[variant].name).value = 0
        self.eligibility.cache_clear()
        return self.scheduler.suspend(variant)

    def resume(self, variant: int, took_s: float) -> None:
        """Use a variant again, which just took so long for one row."""
        self.scheduler.resume(variant, took_s / self.variants[variant].table.seconds(1))
        self.eligibility.cache_clear()
        self._counter("gearshift_variant_ready", self.variants[variant].name).value = 1

    def doubt(self, budget: RequestBudget, rows: int, now_s: float) -> None:
        """The budget is refused as infeasible. Where calibration found it feasible, what was learnt since is doubted:
        a variant that nobody else asks for would not be seen again.
        """
        try:
            eligible_variants(budget, rows, self._calibrated, self.family.name)
        except (Infeasible, UnknownModel):
            return
        self.scheduler.doubt(now_s)
        self._follow_tables()

    def count_look_up(self, result: Literal["hit", "miss"], spent_s: float) -> None:
        """Account for a search among the kept answers."""
        self._counter("gearshift_cache_lookups_total", result).value += 1
        self._counter("gearshift_cache_lookup_seconds_total", result).value += spent_s

    def count_remote_failure(self, variant: int) -> None:
        """Account for a batch that an endpoint did not answer."""
        self._counter("gearshift_remote_failures_total", self.variants[variant].name).value += 1

    def count_batch(self, variant: int, rows: int, execution: Execution, now_s: float, crowd: float = 0.0) -> None:
        """Learn from a batch that finished at `now_s`, and account for it. `crowd`: see `Scheduler.observe`."""
        name = self.variants[variant].name
        expected_s = self._expected_s(variant, rows, execution)
        took_s = execution.service_s
        ratio = self.scheduler.observe(variant, rows, took_s, now_s, expected_s=expected_s, crowd=crowd)
        self._follow_tables()
        self._error_ratio.observe(ratio)
        self._histogram("gearshift_compute_duration_seconds", name).observe(execution.compute_s)
        self._histogram("gearshift_batch_rows", name).observe(rows)
        profile = self.profiles[name]
        if profile.energy_source != "none":
            # The profile's price at batch 1 is power times time; the power holds for any batch.
            watts = profile.energy_mj_per_row / 1e3 / (profile.seconds[0] / profile.rows[0])
            self._counter("gearshift_energy_joules_total", profile.energy_source).value += watts * execution.service_s

    def count_stages(self, rows: int, input_s: float, infer_s: float, output_s: float) -> None:
        """Account for where the time of one batch went: merging requests, the model, splitting its answer."""
        self._counter("gearshift_batches_total", str(rows)).value += 1
        for stage, spent_s in (("input", input_s), ("infer", infer_s), ("output", output_s)):
            self._counter("gearshift_batch_stage_seconds_total", str(rows), stage).value += spent_s

    def read_signals(self, now_s: float, workers: int) -> ModelSignals:
        """What an autoscaler goes by; also put on the metrics page. To be read about once a second."""
        signals = self.scheduler.signals(now_s, workers)
        self._counter("gearshift_demand_workers").value = signals.demand
        self._counter("gearshift_work_queued_seconds").value = signals.queued_s
        if self.accuracy_known:
            forgone = self.scheduler.demand.forgone_total
            # Added, not set: another lane of this very version may have counted before.
            self._counter("gearshift_accuracy_forgone_total").value += forgone - self._forgone_told
            self._forgone_told = forgone
        return signals

    def publish_state(self) -> None:
        """Set the gauges that describe the queue."""
        queue = self.scheduler.queue
        self._counter("gearshift_queue_rows").value = queue.rows
        self._counter("gearshift_queue_bytes").value = queue.size_bytes
        self._counter("gearshift_slowdown_ratio").value = self.scheduler.latency.slowdown
        if self.cache is not None:
            self._counter("gearshift_cache_bytes").value = self.cache.size_bytes
            for cause, count in self.cache.evicted.items():
                # Added, not set: another lane of this very version may have counted before.
                self._counter("gearshift_cache_evictions_total", cause).value += count
                self.cache.evicted[cause] = 0

    def _count(self, outcome: Outcome, rows: int, variant: str, duration_s: float) -> None:
        self._histogram("gearshift_request_duration_seconds", variant, outcome.value).observe(duration_s)
        self._counter("gearshift_outcome_total", outcome.value).value += 1
        self._counter("gearshift_rows_total", outcome.value).value += rows

    def _counter(self, name: str, *labels: str) -> Counter:
        return self._metrics.counter(name, *self._labels, *labels)

    def _histogram(self, name: str, *labels: str) -> Histogram:
        return self._metrics.histogram(name, *self._labels, *labels)

    def _expected_s(self, variant: int, rows: int, execution: Execution) -> float | None:
        """What a cascade should have taken, given the rows that went on; None for what is no cascade."""
        cascade = self.variants[variant].cascade
        if cascade is None:
            return None
        first, then = cascade
        latency = self.scheduler.latency
        count = int(np.count_nonzero(execution.outputs[ESCALATED] == WENT_ON))
        return latency.mean_s(first, rows) + (latency.mean_s(then, count) if count else 0.0)

    def _follow_tables(self) -> None:
        """What budgets allow goes by the tables as they are corrected now."""
        if self._revision != self.scheduler.latency.revision:
            self._revision = self.scheduler.latency.revision
            self.eligibility.cache_clear()

    def _eligibility(self, budget: RequestBudget, rows: int) -> Eligibility:
        away = self.scheduler.latency.suspended
        found = eligible_variants(budget, rows, self.variants, self.family.name, away)
        return self._known.setdefault((found.variants, found.best, found.reason), found)


def policy_of(settings: SchedulerSettings) -> NamedPolicy:
    """The policy the settings name, ready to be given a family."""
    return named_policy(
        settings.policy,
        LookAheadSettings(
            utilization=settings.utilization,
            min_success=settings.min_success,
            plan_quantile=settings.plan_quantile,
            energy_weight=settings.energy_weight,
        ),
    )
