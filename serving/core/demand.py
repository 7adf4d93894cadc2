"""What one model is asked for, and what load makes it give up: the signals an autoscaler goes by.

Demand is worker time a second: how many workers the rows that arrive would keep busy if every one of them got the
accuracy it may have. It is known from arrivals and prices alone, so it is right in the middle of an overload too, where
the workers are all busy whatever there is to do, and a queue cut by admission says little.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp

from serving.core.fleet import VariantView
from serving.core.hull import CapacityValue
from serving.core.request import Eligibility

FAST = 10.0
"""The fast window is this much shorter than the slow one."""
FILLING = 0.125
"""Share of a budget that a batch may take to fill, as the look-ahead policy has it: it sets what a row costs."""

NOBODY = 0.01
"""Rows a second below which nobody is there to lose anything."""
PRIOR_S = 0.05
"""So many seconds of batches that took what was to be expected are believed in besides those seen."""


@dataclass(frozen=True, slots=True)
class DemandOptions:
    """How demand is looked at."""

    window_s: float = 10.0
    """Time constant of the slow window."""
    tolerance: float = 0.005
    """Accuracy, on average over rows, that may be given up to load before more workers are wanted."""


@dataclass(frozen=True, slots=True)
class ModelSignals:
    """One model over the last moments."""

    rows_per_s: float = 0.0
    """Rows that arrived, refused ones too."""
    demand: float = 0.0
    """Workers that the rows of the slow window would keep busy at the accuracy wanted."""
    demand_now: float = 0.0
    """The same over the fast window."""
    queued_s: float = 0.0
    """Worker time that the rows waiting would take at the accuracy wanted."""
    backlog_s: float = 0.0
    """The part of it that came before the slow window, so that demand knows nothing of it: where budgets are long."""
    attainment: float = 1.0
    """Share of rows answered in time, of those that ended in the fast window; failures of other kinds left out."""
    accuracy_forgone: float = 0.0
    """Accuracy given up because of load: best eligible less delivered, mean over the rows that ended in the fast
    window; a row that load left without an answer in time gives up all of its best."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a price depends on besides the variant."""

    workers: int
    horizon_s: float
    """About one latency budget: a batch has to fit into it."""
    batch_overhead_s: float = 0.0


class Demand:
    """The meter of one model. Counting costs an addition; windows and prices are worked out when it is read."""

    def __init__(self, variants: tuple[VariantView, ...], options: DemandOptions | None = None) -> None:
        options = options or DemandOptions()
        self._variants = variants
        self._tolerance = options.tolerance
        self._slow = _Window(options.window_s)
        self._fast = _Window(options.window_s / FAST)
        self._arrived: dict[Eligibility, int] = {}
        self._ended = self._met = 0
        self._forgone = 0.0
        self._times = [_Times() for _ in variants]
        self._window_s = options.window_s
        self._read_at_s: float | None = None
        self.forgone_total = 0.0
        """Accuracy given up since the start, summed over rows."""

    def arrived(self, eligibility: Eligibility, rows: int) -> None:
        """Rows that want an answer, whether or not the door lets them in."""
        self._arrived[eligibility] = self._arrived.get(eligibility, 0) + rows

    def refused(self, eligibility: Eligibility, rows: int) -> None:
        """Rows that arrived, and that load left at the door."""
        self.arrived(eligibility, rows)
        self.ended(eligibility, rows, None)

    def ended(self, eligibility: Eligibility, rows: int, variant: int | None) -> None:
        """Rows that `variant` answered in time, or that load left without such an answer (None)."""
        forgone = self._variants[eligibility.best].accuracy
        if variant is not None:
            self._met += rows
            forgone = max(0.0, forgone - self._variants[variant].accuracy)
        self._ended += rows
        self._forgone += rows * forgone
        self.forgone_total += rows * forgone

    def ran(self, variant: int, rows: int, took_s: float) -> None:
        """A batch of `rows` rows took so long."""
        self._times[variant].add(self._variants[variant].table.seconds(rows), took_s)

    def read(self, now_s: float, around: Surroundings, queue_rows: int = 0) -> ModelSignals:
        """The signals now; what was counted since the last reading enters the windows. Read about once a second."""
        elapsed_s = 0.0 if self._read_at_s is None else now_s - self._read_at_s
        self._read_at_s = now_s
        if elapsed_s > 0:
            self._enter(elapsed_s, around)
        # What came before the first reading has no time it belongs to.
        self._arrived.clear()
        self._ended = self._met = 0
        self._forgone = 0.0
        slow, fast = self._slow, self._fast
        row_s = slow.work / slow.rows if slow.rows else 0.0
        return ModelSignals(
            rows_per_s=slow.rows,
            demand=slow.work,
            demand_now=fast.work,
            queued_s=queue_rows * row_s,
            backlog_s=max(0.0, queue_rows - slow.rows * self._window_s) * row_s,
            attainment=min(1.0, fast.met / fast.ended) if fast.ended > NOBODY else 1.0,
            accuracy_forgone=fast.forgone / fast.ended if fast.ended > NOBODY else 0.0,
        )

    def _enter(self, elapsed_s: float, around: Surroundings) -> None:
        """Let what was counted enter the windows."""
        rows = sum(self._arrived.values())
        prices = self._prices(around, rows / elapsed_s)
        work_s = sum(count * self._wanted_price(kind, prices) for kind, count in self._arrived.items())
        for window in (self._slow, self._fast):
            window.add(elapsed_s, rows, work_s, self._ended, self._met, self._forgone)
        for times in self._times:
            times.fade(exp(-elapsed_s / self._window_s))

    def _prices(self, around: Surroundings, rows_per_s: float) -> list[float]:
        """Worker-seconds a row of each variant, in batches as there are rows to fill them with.

        Batches take other times than the table says: what is known of a variant itself goes before what is known of
        all. A slow host multiplies times, a noisy one adds to each: of the two, the price of a variant that hardly
        runs is raised by what raises it least. Otherwise the noise around a variant of some microseconds, which is all
        that runs in an overload, would multiply the price of one of milliseconds.
        """
        took_s = sum(times.took_s for times in self._times)
        tabled_s = sum(times.tabled_s for times in self._times)
        ratio = (took_s + PRIOR_S) / (tabled_s + PRIOR_S)
        extra_s = (took_s - tabled_s) / max(1.0, sum(times.batches for times in self._times))
        filled = max(1, int(rows_per_s * around.horizon_s * FILLING / max(1, around.workers)))
        within_s = around.horizon_s / ratio
        prices = []
        for variant, times in zip(self._variants, self._times, strict=True):
            most = min(filled, variant.knee_rows)
            row_s = variant.table.least_seconds_per_row(within_s, most)
            guess = min(ratio, 1 + extra_s / most / row_s) if ratio > 1 else ratio
            price_s = row_s * (times.took_s + PRIOR_S * guess) / (times.tabled_s + PRIOR_S)
            prices.append(price_s + around.batch_overhead_s / most)
        return prices

    def _wanted_price(self, eligibility: Eligibility, prices: list[float]) -> float:
        """Least price a row of any mix of the eligible variants that gives up no more than is tolerated."""
        allowed = eligibility.variants
        cheapest = min(prices[v] for v in allowed)
        hull = CapacityValue((prices[v], self._variants[v].accuracy) for v in allowed)
        wanted = self._variants[eligibility.best].accuracy - self._tolerance
        return max(cheapest, hull.price_of(wanted))  # no mix may count on rows that nobody answers


class _Times:
    """What one variant's batches took, and should have taken by its table; over about the slow window."""

    __slots__ = ("batches", "tabled_s", "took_s")

    def __init__(self) -> None:
        self.batches = self.tabled_s = self.took_s = 0.0

    def add(self, tabled_s: float, took_s: float) -> None:
        """One batch more."""
        self.batches += 1
        self.tabled_s += tabled_s
        self.took_s += took_s

    def fade(self, kept: float) -> None:
        """Time has passed."""
        self.batches *= kept
        self.tabled_s *= kept
        self.took_s *= kept


class _Window:
    """Means a second over about the last `constant_s`, exponentially weighted.

    They begin at nothing and rise, as those of other replicas fall: when requests move from one replica to another,
    the sum over replicas stays what it is.
    """

    __slots__ = ("_constant_s", "ended", "forgone", "met", "rows", "work")

    def __init__(self, constant_s: float) -> None:
        self._constant_s = constant_s
        self.rows = self.work = self.ended = self.met = self.forgone = 0.0

    def add(self, elapsed_s: float, rows: int, work_s: float, ended: int, met: int, forgone: float) -> None:
        """What was counted during the last `elapsed_s` (> 0)."""
        weight = 1 - exp(-elapsed_s / self._constant_s)
        self.rows += weight * (rows / elapsed_s - self.rows)
        self.work += weight * (work_s / elapsed_s - self.work)
        self.ended += weight * (ended / elapsed_s - self.ended)
        self.met += weight * (met / elapsed_s - self.met)
        self.forgone += weight * (forgone / elapsed_s - self.forgone)


@dataclass(frozen=True, slots=True)
class ReplicaSignals:
    """What one replica, or several together, say of their load."""

    workers: float
    busy: float
    """Workers that ran a batch, mean over about the last window."""
    models: Mapping[str, ModelSignals]
    """By model name; versions of one model count together."""

    def flat(self) -> dict[str, float]:
        """As numbers by name, which is what travels."""
        numbers = {"workers": self.workers, "busy": self.busy}
        for name, model in self.models.items():
            numbers |= {f"{name}|{field}": getattr(model, field) for field in ModelSignals.__slots__}
        return numbers

    @classmethod
    def read(cls, numbers: Mapping[str, float]) -> "ReplicaSignals":
        """What `flat` wrote; of a model whatever is there."""
        fields: dict[str, dict[str, float]] = {}
        for name, value in numbers.items():
            model, _, field = name.rpartition("|")
            if model and field in ModelSignals.__slots__:
                fields.setdefault(model, {})[field] = value
        models = {model: ModelSignals(**values) for model, values in fields.items()}
        return cls(numbers.get("workers", 0.0), numbers.get("busy", 0.0), models)


def together(signals: "list[ReplicaSignals]") -> ReplicaSignals:
    """Several replicas as one: work adds up, shares are means over rows."""
    by_model: dict[str, list[ModelSignals]] = {}
    for replica in signals:
        for name, model in replica.models.items():
            by_model.setdefault(name, []).append(model)
    return ReplicaSignals(
        workers=sum(replica.workers for replica in signals),
        busy=sum(replica.busy for replica in signals),
        models={name: sum_of(models) for name, models in by_model.items()},
    )


def sum_of(models: "list[ModelSignals]") -> ModelSignals:
    """One model on several replicas, or several versions of it."""
    rows = sum(model.rows_per_s for model in models)
    shares = [model.rows_per_s / rows if rows else 1 / len(models) for model in models]
    weighed = list(zip(shares, models, strict=True))
    return ModelSignals(
        rows_per_s=rows,
        demand=sum(model.demand for model in models),
        demand_now=sum(model.demand_now for model in models),
        queued_s=sum(model.queued_s for model in models),
        backlog_s=sum(model.backlog_s for model in models),
        attainment=sum(share * model.attainment for share, model in weighed),
        accuracy_forgone=sum(share * model.accuracy_forgone for share, model in weighed),
    )
