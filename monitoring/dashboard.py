"""The dashboard: what the gateway is asked, what it answers with, what that takes, and whether it is believed."""

from collections.abc import Mapping, Sequence
from typing import Any

from monitoring import queries
from monitoring.panels import DATASOURCE, Panel, Query, laid_out
from monitoring.queries import ANSWERED, Scope, level, mean, quantile, rate, ratio
from monitoring.rules import OBJECTIVE

UID = "gearshift"
CHOSEN = {"job": "$job", "model": "$model"}
WINDOW = "$__rate_interval"
REQUESTS = "gearshift_request_duration_seconds"


def scope(*by: str) -> Scope:
    """The series the reader has chosen, apart by these labels."""
    return Scope(WINDOW, by, CHOSEN)


def service(objective: float) -> Sequence[Panel]:
    """The whole service in a few numbers, and over time."""
    all_of_it, models = scope(), scope("model")
    spent = 1 - objective
    return (
        Panel(
            "Effective accuracy",
            "Accuracy delivered in time over all rows; late, refused and lost rows count 0. The one number to watch.",
            [Query(queries.effective_accuracy(all_of_it))],
            unit="percentunit", kind="stat", width=6, top=1,
        ),
        Panel(
            "Attainment",
            f"Rows answered within their deadlines, of all whose callers waited. The objective is {objective:.2%}.",
            [Query(queries.attainment(all_of_it))],
            unit="percentunit", kind="stat", width=6, top=1,
        ),
        Panel(
            "Requests",
            "Requests that reached a model's door.",
            [Query(rate("gearshift_outcome_total", all_of_it))],
            unit="reqps", kind="stat", width=6,
        ),
        Panel(
            "Replicas",
            "Gateway replicas that live, and in the split topology the workers.",
            [Query(level("gearshift_replicas", scope("role")), "{{role}}")],
            kind="stat", width=6,
        ),
        Panel(
            "Traffic by outcome",
            "How requests end. Anything but met is a broken promise; cancelled is the caller's own doing.",
            [Query(rate("gearshift_outcome_total", scope("outcome")), "{{outcome}}")],
            unit="reqps", stacked="normal",
        ),
        Panel(
            "Missed deadlines",
            f"Share of the rows not answered in time. The line is what an objective of {objective:.2%} allows.",
            [Query(queries.missed(models), "{{model}}")],
            unit="percentunit", marks={"red": round(spent, 6)},
        ),
        Panel(
            "Effective accuracy and accuracy of the answers",
            "They part when rows are missed; they sink together when smaller variants answer.",
            [
                Query(queries.effective_accuracy(models), "{{model}} effective"),
                Query(queries.accuracy_of_answers(models), "{{model}} of the answers"),
            ],
            unit="percentunit", top=1, bottom=None,
        ),
    )  # fmt: skip


def variants() -> Sequence[Panel]:
    """Who answers, and why."""
    return (
        Panel(
            "Variant mix",
            "Answers by the variant that gave them.",
            [Query(rate("gearshift_selection_total", scope("model", "variant")), "{{model}} {{variant}}")],
            unit="percent", stacked="percent",
        ),
        Panel(
            "Reasons",
            "Why the variants were chosen: load is the price of too few workers, budget is what callers asked for.",
            [Query(rate("gearshift_selection_total", scope("reason")), "{{reason}}")],
            unit="percent", stacked="percent",
        ),
        Panel(
            "Chosen for load",
            "Share of the answers from a smaller variant than the budget allows: the first sign of saturation.",
            [Query(queries.chosen_for_load(scope("model")), "{{model}}")],
            unit="percentunit", top=1, marks={"orange": 0.5},
        ),
        Panel(
            "Accuracy forgone",
            "Accuracy given up because of load, a row: what more workers would win back. Autoscaling watches it.",
            [Query(queries.accuracy_forgone(scope("model")), "{{model}}")],
            unit="percentunit",
        ),
        Panel(
            "Answers given again",
            "Share of the requests to models whose answers are kept that got a kept one; nothing where none are kept.",
            [
                Query(
                    ratio(
                        rate("gearshift_cache_lookups_total", scope("model"), result='="hit"'),
                        rate("gearshift_cache_lookups_total", scope("model")),
                    ),
                    "{{model}}",
                )
            ],
            unit="percentunit", top=1,
        ),
        Panel(
            "Variants ready",
            "1 while every replica can serve the variant.",
            [Query(level("gearshift_variant_ready", scope("model", "variant"), how="min"), "{{model}} {{variant}}")],
            top=1,
        ),
    )  # fmt: skip


def latency() -> Sequence[Panel]:
    """Where the time goes."""
    all_of_it = scope()
    requests = rate("gearshift_outcome_total", all_of_it)
    buckets = Scope(WINDOW, ("le",), CHOSEN)
    return (
        Panel(
            "Latency of answered requests",
            "From the receipt of the last byte to the answer. Points are traced requests, where tracing is on.",
            [Query(rate(REQUESTS, buckets, suffix="_bucket", outcome=ANSWERED), exemplars=True)],
            unit="s", kind="heatmap", bottom=None,
        ),
        Panel(
            "Of it, in the queue",
            "From the receipt to the start of the batch.",
            [Query(rate("gearshift_queue_duration_seconds", buckets, suffix="_bucket"), exemplars=True)],
            unit="s", kind="heatmap", bottom=None,
        ),
        Panel(
            "Of it, in the model",
            "Time of the batches.",
            [Query(rate("gearshift_compute_duration_seconds", buckets, suffix="_bucket"))],
            unit="s", kind="heatmap", bottom=None,
        ),
        Panel(
            "Quantiles",
            "Of answered requests.",
            [_quantile(share) for share in (0.5, 0.95, 0.99)],
            unit="s",
        ),
        Panel(
            "Mean time, split",
            "The wait for a batch, the model, and turning bytes into tensors and back.",
            [
                Query(mean("gearshift_queue_duration_seconds", all_of_it), "queue"),
                Query(mean("gearshift_compute_duration_seconds", all_of_it), "model"),
                Query(ratio(rate("gearshift_decode_seconds_total", all_of_it), requests), "decode"),
                Query(ratio(rate("gearshift_encode_seconds_total", all_of_it), requests), "encode"),
            ],
            unit="s", stacked="normal",
        ),
        Panel(
            "Errors by status",
            "Inference requests answered with an error, those that no model saw included.",
            [Query(rate("gearshift_refused_total", scope("status")), "{{status}}")],
            unit="reqps",
        ),
    )  # fmt: skip


def _quantile(share: float) -> Query:
    expression = quantile(share, REQUESTS, scope("model"), outcome=ANSWERED)
    return Query(expression, f"{{{{model}}}} p{share * 100:g}", exemplars=True)


def work() -> Sequence[Panel]:
    """Queue, batches and workers."""
    models, by_variant = scope("model"), scope("model", "variant")
    return (
        Panel(
            "Rows waiting",
            "Rises and falls with bursts; one that only rises is an alert.",
            [Query(level("gearshift_queue_rows", models), "{{model}}")],
        ),
        Panel(
            "Input bytes waiting",
            "Bounded by limits.max_queue_bytes for each model and replica.",
            [Query(level("gearshift_queue_bytes", models), "{{model}}")],
            unit="bytes",
        ),
        Panel(
            "Workers busy",
            "Share of the workers' time spent on batches.",
            [
                Query(
                    ratio(rate("gearshift_worker_busy_seconds_total", scope()), level("gearshift_workers", scope())),
                    "busy",
                )
            ],
            unit="percentunit", top=1,
        ),
        Panel(
            "Rows a batch",
            "Mean, by variant.",
            [Query(mean("gearshift_batch_rows", by_variant), "{{model}} {{variant}}")],
        ),
        Panel(
            "Batch sizes",
            "All batches by their rows.",
            [Query(rate("gearshift_batch_rows", Scope(WINDOW, ("le",), CHOSEN), suffix="_bucket"))],
            kind="heatmap", bottom=None,
        ),
        Panel(
            "Batches",
            "Batches a second, by variant.",
            [Query(rate("gearshift_batch_rows", by_variant, suffix="_count"), "{{model}} {{variant}}")],
            unit="ops",
        ),
    )  # fmt: skip


def predictions() -> Sequence[Panel]:
    """Whether the scheduler's beliefs hold, and what the answers cost."""
    models = scope("model")
    return (
        Panel(
            "Prediction error",
            "Observed over predicted time of batches: 1 is right, above is slower than believed.",
            [
                Query(quantile(share, "gearshift_prediction_error_ratio", models), f"{{{{model}}}} p{share * 100:g}")
                for share in (0.1, 0.5, 0.9)
            ],
            marks={"orange": 1.25},
        ),
        Panel(
            "Slowdown",
            "How much slower batches are than when they were calibrated; predictions allow for it.",
            [Query(level("gearshift_slowdown_ratio", models, how="max"), "{{model}}")],
            marks={"orange": 1.5},
        ),
        Panel(
            "Power",
            "Energy spent on batches, by how it is known.",
            [Query(rate("gearshift_energy_joules_total", scope("model", "source")), "{{model}} ({{source}})")],
            unit="watt",
        ),
        Panel(
            "Energy a row",
            "Joules for each row answered within its deadline.",
            [
                Query(
                    ratio(
                        rate("gearshift_energy_joules_total", models),
                        rate("gearshift_rows_total", models, outcome=queries.MET),
                    ),
                    "{{model}}",
                )
            ],
            unit="joule",
        ),
    )  # fmt: skip


def scaling() -> Sequence[Panel]:
    """Replicas come and go; what they take from their hosts."""
    jobs, hosts = scope("job"), scope("instance", "role")
    return (
        Panel(
            "Replicas and workers",
            "That live, and the workers that the rows arriving would keep busy at the accuracy wanted.",
            [
                Query(level("gearshift_replicas", scope("job", "role")), "{{job}} {{role}} replicas"),
                Query(level("gearshift_workers", jobs), "{{job}} workers"),
                Query(level("gearshift_demand_workers", jobs), "{{job}} demand"),
            ],
        ),
        Panel(
            "Work queued",
            "Worker time that the rows waiting would take at the accuracy wanted.",
            [Query(level("gearshift_work_queued_seconds", scope("model")), "{{model}}")],
            unit="s",
        ),
        Panel(
            "Replicas replaced",
            "Started again, or gone, within half an hour.",
            [Query(queries.replacements(Scope("30m", ("job",), CHOSEN)), "{{job}}")],
        ),
        Panel(
            "Processor",
            "Cores used by the replicas.",
            [Query(rate("gearshift_process_cpu_seconds_total", hosts), "{{instance}} {{role}}")],
        ),
        Panel(
            "Memory",
            "Of the replicas; pages they share count in each.",
            [Query(level("gearshift_process_resident_memory_bytes", hosts), "{{instance}} {{role}}")],
            unit="bytes",
        ),
        Panel(
            "Connections and files",
            "Open client connections, and all open files and sockets.",
            [
                Query(level("gearshift_connections", jobs), "{{job}} connections"),
                Query(level("gearshift_process_open_fds", jobs), "{{job}} files"),
            ],
        ),
        Panel(
            "Age of the youngest replica",
            "Falls to zero when one is started.",
            [
                Query(
                    f"time() - {level('gearshift_process_start_time_seconds', scope('instance'), how='max')}",
                    "{{instance}}",
                )
            ],
            unit="s",
        ),
    )  # fmt: skip


def dashboard_rows(objective: float = OBJECTIVE) -> Mapping[str, Sequence[Panel]]:
    """Every row of the dashboard."""
    return {
        "Service": service(objective),
        "Variants": variants(),
        "Latency": latency(),
        "Queue, batches, workers": work(),
        "Predictions and energy": predictions(),
        "Scaling and processes": scaling(),
    }


def dashboard(objective: float = OBJECTIVE) -> dict[str, Any]:
    """The whole document, as Grafana imports or provisions it."""
    return {
        "uid": UID,
        "title": "Gearshift",
        "description": "Made by python -m monitoring.generate from the metric table. Change it there.",
        "tags": ["gearshift", "inference"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_datasource(), _label("job", "Job"), _label("model", "Model")]},
        "annotations": {"list": [_starts()]},
        "panels": laid_out(dashboard_rows(objective)),
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _label(name: str, title: str) -> dict[str, Any]:
    source = queries.series("gearshift_rows_total", Scope("", ()))
    return {
        "name": name,
        "label": title,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": f"label_values({source}, {name})",
        "query": {"query": f"label_values({source}, {name})", "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def _starts() -> dict[str, Any]:
    started = queries.series("gearshift_replica_starts_total", Scope("", (), {"job": "$job"}))
    return {
        "name": "Replica starts",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "blue",
        "expr": f"changes({started}[1m]) > 0",
        "titleFormat": "replica started",
        "textFormat": "{{instance}}",
    }
