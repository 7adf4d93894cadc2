"""PromQL over the gateway's metrics. Every name and label is looked up in the metric table, so none can be stale.

What a panel shows and what an alert watches is the same function here, over another window.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from serving.core.outcome import Outcome
from serving.metrics import DERIVED, TABLE, Spec

SPECS: Mapping[str, Spec] = MappingProxyType({spec.name: spec for spec in (*TABLE, *DERIVED)})
TARGET_LABELS = frozenset({"job", "instance"})
"""Labels that Prometheus adds."""
ANSWERED = f'=~"{Outcome.MET}|{Outcome.LATE}"'
MET, LOST = f'="{Outcome.MET}"', f'="{Outcome.FAILED}"'
WAITED = f'!="{Outcome.CANCELLED}"'
"""A caller who left says nothing about the service."""


class UnknownSeriesError(ValueError):
    """A query names what the metric table does not have."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which series, over which time, and what is kept apart."""

    window: str
    """Of rates: `5m`, or a variable of the dashboard."""
    by: tuple[str, ...]
    """Labels that stay."""
    where: Mapping[str, str] = field(default_factory=dict)
    """Regular expressions by label, where the metric has it; values are used as they are."""


def series(name: str, scope: Scope, *, suffix: str = "", **where: str) -> str:
    """A selector. `where`: label -> matcher, such as `'="met"'`; the scope adds its own.

    Raises `UnknownSeriesError` for a metric, a suffix or a label that the table does not have.
    """
    spec = SPECS.get(name)
    if spec is None:
        raise UnknownSeriesError(f"there is no metric {name}")
    if (spec.kind == "histogram") != (suffix in ("_bucket", "_sum", "_count")):
        raise UnknownSeriesError(f"{name} is a {spec.kind}: suffix {suffix!r} does not fit")
    unknown = where.keys() - set(spec.labels)
    if unknown:
        raise UnknownSeriesError(f"{name} has no label {sorted(unknown)}")
    known = TARGET_LABELS | set(spec.labels)
    matchers = {label: f'=~"{value}"' for label, value in scope.where.items() if label in known} | where
    inside = ",".join(f"{label}{matcher}" for label, matcher in sorted(matchers.items()))
    return f"{name}{suffix}{{{inside}}}" if inside else f"{name}{suffix}"


def rate(name: str, scope: Scope, *, suffix: str = "", **where: str) -> str:
    """What a counter gains a second, summed."""
    return summed(f"rate({series(name, scope, suffix=suffix, **where)}[{scope.window}])", scope.by)


def level(name: str, scope: Scope, *, how: str = "sum") -> str:
    """A gauge now; `how` several become one."""
    return aggregated(how, series(name, scope), scope.by)


def quantile(share: float, name: str, scope: Scope, **where: str) -> str:
    """A quantile of a histogram."""
    buckets = rate(name, replace(scope, by=(*scope.by, "le")), suffix="_bucket", **where)
    return f"histogram_quantile({share:g}, {buckets})"


def mean(name: str, scope: Scope, **where: str) -> str:
    """The mean of what a histogram has seen."""
    return f"{rate(name, scope, suffix='_sum', **where)} / {rate(name, scope, suffix='_count', **where)}"


def summed(expression: str, by: tuple[str, ...]) -> str:
    """The sum, apart by these labels."""
    return aggregated("sum", expression, by)


def aggregated(how: str, expression: str, by: tuple[str, ...]) -> str:
    """Several series as one for each value of these labels."""
    return f"{how} by ({', '.join(by)}) ({expression})" if by else f"{how}({expression})"


def attainment(scope: Scope) -> str:
    """Rows answered within their deadlines, of all whose callers waited."""
    met = rate("gearshift_rows_total", scope, outcome=MET)
    return f"{met} / {rate('gearshift_rows_total', scope, outcome=WAITED)}"


def missed(scope: Scope) -> str:
    """The rest: what an error budget is spent on."""
    return f"1 - {attainment(scope)}"


def failed(scope: Scope) -> str:
    """Rows lost to something broken, of all."""
    lost = rate("gearshift_rows_total", scope, outcome=LOST)
    return f"{lost} / {rate('gearshift_rows_total', scope, outcome=WAITED)}"


def effective_accuracy(scope: Scope) -> str:
    """Accuracy delivered in time over all rows: late, refused and lost ones count 0."""
    return f"{rate('gearshift_accuracy_total', scope)} / {rate('gearshift_rows_total', scope, outcome=WAITED)}"


def accuracy_of_answers(scope: Scope) -> str:
    """Mean accuracy of the variants that answered in time."""
    return f"{rate('gearshift_accuracy_total', scope)} / {rate('gearshift_rows_total', scope, outcome=MET)}"


def chosen_for_load(scope: Scope) -> str:
    """Share of the answers that came from a smaller variant because of load."""
    shifted = rate("gearshift_selection_total", scope, reason='="load"')
    return f"{shifted} / {rate('gearshift_selection_total', scope)}"


def ratio(over: str, under: str) -> str:
    """One expression over another."""
    return f"{over} / {under}"


def accuracy_forgone(scope: Scope) -> str:
    """Accuracy given up because of load, a row: what more workers would win back."""
    return ratio(rate("gearshift_accuracy_forgone_total", scope), rate("gearshift_rows_total", scope, outcome=WAITED))


def replacements(scope: Scope) -> str:
    """Replicas started again at the same address, and addresses that went away, within the window."""
    starts = summed(f"increase({series('gearshift_replica_starts_total', scope)}[{scope.window}])", scope.by)
    seen = aggregated("count", f"count_over_time({series('gearshift_replicas', scope)}[{scope.window}])", scope.by)
    return f"{starts} + {seen} - {aggregated('count', series('gearshift_replicas', scope), scope.by)}"
