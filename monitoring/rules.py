"""Recording rules and alerts, as Prometheus reads them.

An alert compares a recorded signal with a threshold: the signal can be looked at, and tested, while all is well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monitoring import queries
from monitoring.queries import Scope, series

OBJECTIVE = 0.99
"""Share of the rows that are to be answered within their deadlines. Yours may differ: `--objective`."""
RUNBOOK = "docs/runbook.md"
"""Where annotations point to, before the heading. A place people can open is better: `--runbook`."""
PREFIX = "job_model:gearshift"
BY = ("job", "model")

BURN_WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


@dataclass(frozen=True, slots=True)
class Recording:
    """A series that Prometheus computes."""

    name: str
    expression: str

    def rule(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {"record": self.name, "expr": self.expression}


@dataclass(frozen=True, slots=True)
class Alert:
    """What somebody is to be told, and where it says what to do."""

    name: str
    expression: str
    lasts: str
    severity: str
    """`page`: somebody is woken. `ticket`: it can wait for the morning."""
    summary: str
    description: str
    heading: str
    """Of the runbook: the text of a heading, from which the anchor is made."""

    def rule(self, runbook: str) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.lasts,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{runbook}#{anchor(self.heading)}",
            },
        }


def anchor(heading: str) -> str:
    """The fragment that leads to a heading of a Markdown page."""
    kept = (letter for letter in heading.lower() if letter.isalnum() or letter in " -_")
    return "".join(kept).replace(" ", "-")


def missed_name(window: str) -> str:
    """The recorded share of missed rows over a window."""
    return f"{PREFIX}_missed:ratio_rate{window}"


ACCURACY = f"{PREFIX}_effective_accuracy:ratio_rate5m"
FAILED = f"{PREFIX}_failed:ratio_rate5m"
LOAD_SHARE = f"{PREFIX}_chosen_for_load:ratio_rate5m"
QUEUE_ROWS = f"{PREFIX}_queue_rows:sum"
QUEUE_SLOPE = f"{PREFIX}_queue_rows:deriv10m"
ERROR_RATIO = f"{PREFIX}_prediction_error_ratio:p50_rate15m"
LATENCY = f"{PREFIX}_request_duration_seconds:p99_rate5m"
REPLACED = "job:gearshift_replacements:sum30m"
REPLICAS = "job:gearshift_replicas:sum"


def recordings() -> tuple[Recording, ...]:
    """Every recorded series; those that others are made of come first."""
    five, fifteen = Scope("5m", BY), Scope("15m", BY)
    per_job = Scope("30m", ("job",))
    return (
        *(Recording(missed_name(window), queries.missed(Scope(window, BY))) for window in BURN_WINDOWS),
        Recording(ACCURACY, queries.effective_accuracy(five)),
        Recording(FAILED, queries.failed(five)),
        Recording(LOAD_SHARE, queries.chosen_for_load(five)),
        Recording(QUEUE_ROWS, queries.level("gearshift_queue_rows", five)),
        Recording(QUEUE_SLOPE, f"deriv({QUEUE_ROWS}[10m])"),
        Recording(ERROR_RATIO, queries.quantile(0.5, "gearshift_prediction_error_ratio", fifteen)),
        Recording(
            LATENCY,
            queries.quantile(0.99, "gearshift_request_duration_seconds", five, outcome=queries.ANSWERED),
        ),
        Recording(REPLICAS, queries.level("gearshift_replicas", per_job)),
        Recording(REPLACED, queries.replacements(per_job)),
    )


def alerts(objective: float = OBJECTIVE) -> tuple[Alert, ...]:
    """Every alert. The burn rates and their windows are those of the Site Reliability Workbook, chapter 5."""
    budget = 1 - objective
    told = f"{objective:.4%}".rstrip("0%").rstrip(".") + " %"

    def burns(times: float, long: str, short: str) -> str:
        limit = f"{times * budget:.6g}"
        return f"({missed_name(long)} > {limit} and {missed_name(short)} > {limit})"

    return (
        Alert(
            "GearshiftBudgetBurnsFast",
            f"{burns(14.4, '1h', '5m')} or {burns(6, '6h', '30m')}",
            "2m",
            "page",
            "{{ $labels.model }} misses deadlines fast",
            f"{{{{ $value | humanizePercentage }}}} of the rows of {{{{ $labels.model }}}} were not answered within "
            f"their deadlines. The objective is {told}; at this rate a month's allowance is gone within days.",
            "Deadlines are missed",
        ),
        Alert(
            "GearshiftBudgetBurnsSlowly",
            f"{burns(3, '1d', '2h')} or {burns(1, '3d', '6h')}",
            "1h",
            "ticket",
            "{{ $labels.model }} misses more deadlines than allowed",
            f"{{{{ $value | humanizePercentage }}}} of the rows of {{{{ $labels.model }}}} were not answered within "
            f"their deadlines over a day or more. The objective is {told}.",
            "Deadlines are missed",
        ),
        Alert(
            "GearshiftSustainedDownShift",
            f"{LOAD_SHARE} > 0.5",
            "30m",
            "ticket",
            "{{ $labels.model }} runs on smaller variants",
            "{{ $value | humanizePercentage }} of the answers of {{ $labels.model }} come from a smaller variant than "
            "their budgets allow, because of load, for half an hour. Deadlines may be met; accuracy is what is paid.",
            "Smaller variants for a long time",
        ),
        Alert(
            "GearshiftQueueGrows",
            f"{QUEUE_SLOPE} > 0 and min_over_time({QUEUE_ROWS}[10m]) > 0",
            "10m",
            "page",
            "the queue of {{ $labels.model }} grows",
            "The queue of {{ $labels.model }} has not been empty for 20 minutes and gains {{ $value | humanize }} rows "
            "a second.",
            "The queue grows",
        ),
        Alert(
            "GearshiftPredictionDrift",
            f"{ERROR_RATIO} > 1.25 or {ERROR_RATIO} < 0.75",
            "15m",
            "ticket",
            "batches of {{ $labels.model }} do not take the time predicted",
            "Half of the batches of {{ $labels.model }} take {{ $value | humanize }} times the predicted time or more. "
            "What is admitted and what is refused rests on these predictions.",
            "Predictions are off",
        ),
        Alert(
            "GearshiftReplicaFlapping",
            f"{REPLACED} > clamp_min(2 * max_over_time({REPLICAS}[30m]), 3)",
            "1m",
            "page",
            "replicas of {{ $labels.job }} start again and again",
            "{{ $value | humanize }} replicas of {{ $labels.job }} were started again or lost within half an hour, "
            "more than twice as many as there are at most.",
            "Replicas start again and again",
        ),
        Alert(
            "GearshiftFails",
            f"{FAILED} > 0.01",
            "10m",
            "page",
            "{{ $labels.model }} fails",
            "{{ $value | humanizePercentage }} of the rows of {{ $labels.model }} were lost to something broken: a "
            "worker, or the model itself.",
            "Requests fail",
        ),
        Alert(
            "GearshiftVariantNotReady",
            f"{series('gearshift_variant_ready', Scope('', ()))} == 0",
            "10m",
            "ticket",
            "variant {{ $labels.variant }} of {{ $labels.model }} is not available",
            "At least one replica cannot serve variant {{ $labels.variant }} of {{ $labels.model }} for 10 minutes.",
            "A variant is not available",
        ),
        Alert(
            "GearshiftAbsent",
            f"absent({series('gearshift_replicas', Scope('', ()))})",
            "5m",
            "page",
            "no gateway is seen",
            "Prometheus has no numbers of any gateway for 5 minutes.",
            "No numbers from the gateway",
        ),
    )


def rule_file(objective: float = OBJECTIVE, runbook: str = RUNBOOK) -> dict[str, Any]:
    """The whole file."""
    return {
        "groups": [
            {"name": "gearshift-recording", "interval": "30s", "rules": [record.rule() for record in recordings()]},
            {"name": "gearshift-alerts", "interval": "30s", "rules": _alert_rules(alerts(objective), runbook)},
        ]
    }


def _alert_rules(found: Sequence[Alert], runbook: str) -> list[dict[str, Any]]:
    return [alert.rule(runbook) for alert in found]
