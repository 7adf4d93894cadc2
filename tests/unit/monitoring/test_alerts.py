"""Alerts under promtool: each fires for what it is about, and is silent when all is well."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.generate import HERE, RULES
from monitoring.rules import alerts
from tests.support.prometheus import promtool

MODEL = 'job="g",instance="a:8002",model="m",version="1"'
HEALTHY = {
    f'gearshift_rows_total{{{MODEL},outcome="met"}}': "0+6000x9000",
    f'gearshift_rows_total{{{MODEL},outcome="late"}}': "0x9000",
    f'gearshift_rows_total{{{MODEL},outcome="failed"}}': "0x9000",
    f'gearshift_rows_total{{{MODEL},outcome="cancelled"}}': "0+3000x9000",
    f'gearshift_selection_total{{{MODEL},variant="v",reason="load"}}': "0+10x9000",
    f'gearshift_selection_total{{{MODEL},variant="v",reason="most_accurate"}}': "0+90x9000",
    f"gearshift_queue_rows{{{MODEL}}}": "0 5 0 9 0 3 0 0 7 0x9000",
    f'gearshift_prediction_error_ratio_bucket{{{MODEL},le="0.9"}}': "0+10x9000",
    f'gearshift_prediction_error_ratio_bucket{{{MODEL},le="1.1"}}': "0+90x9000",
    f'gearshift_prediction_error_ratio_bucket{{{MODEL},le="+Inf"}}': "0+100x9000",
    f'gearshift_variant_ready{{{MODEL},variant="v"}}': "1x9000",
    'gearshift_replicas{job="g",instance="a:8002",role="gateway"}': "2x9000",
    'gearshift_replica_starts_total{job="g",instance="a:8002",role="gateway"}': "2x9000",
}
"""One sample a minute; callers who leave are no reason to wake anybody."""


@dataclass(frozen=True)
class Case:
    """What differs from health, and when the alert is to be seen."""

    alert: str
    differs: Mapping[str, str]
    at: str
    quiet_at: str
    """A moment at which it is not to be seen yet."""
    labels: str = 'job="g",model="m"'


CASES = [
    Case(
        "GearshiftBudgetBurnsFast",  # a fifth of the rows is late, from the start
        {f'gearshift_rows_total{{{MODEL},outcome="late"}}': "0+1500x9000"},
        at="10m",
        quiet_at="1m",
    ),
    Case(
        "GearshiftBudgetBurnsFast",  # a tenth: slower than 14.4 times the budget, faster than 6 times
        {f'gearshift_rows_total{{{MODEL},outcome="late"}}': "0+667x9000"},
        at="30m",
        quiet_at="1m",
    ),
    Case(
        "GearshiftBudgetBurnsSlowly",  # three in two hundred
        {f'gearshift_rows_total{{{MODEL},outcome="late"}}': "0+92x9000"},
        at="3h",
        quiet_at="30m",
    ),
    Case(
        "GearshiftSustainedDownShift",
        {f'gearshift_selection_total{{{MODEL},variant="v",reason="load"}}': "0+200x9000"},
        at="45m",
        quiet_at="20m",
    ),
    Case("GearshiftQueueGrows", {f"gearshift_queue_rows{{{MODEL}}}": "1+30x9000"}, at="30m", quiet_at="5m"),
    Case(
        "GearshiftPredictionDrift",  # slower than believed
        {f'gearshift_prediction_error_ratio_bucket{{{MODEL},le="1.1"}}': "0+10x9000"}
        | {f'gearshift_prediction_error_ratio_bucket{{{MODEL},le="2.0"}}': "0+100x9000"},
        at="40m",
        quiet_at="10m",
    ),
    Case(
        "GearshiftPredictionDrift",  # faster than believed
        {f'gearshift_prediction_error_ratio_bucket{{{MODEL},le="0.5"}}': "0+100x9000"}
        | {
            f'gearshift_prediction_error_ratio_bucket{{{MODEL},le="{bound}"}}': "0+100x9000" for bound in ("0.9", "1.1")
        },
        at="40m",
        quiet_at="10m",
    ),
    Case(
        "GearshiftReplicaFlapping",  # on one node, where the counter goes on
        {'gearshift_replica_starts_total{job="g",instance="a:8002",role="gateway"}': "2+1x9000"},
        at="30m",
        quiet_at="3m",
        labels='job="g"',
    ),
    Case(
        "GearshiftReplicaFlapping",  # one pod after the other, each a new instance
        {
            f'gearshift_replicas{{job="g",instance="pod-{number}:8002"}}': f"_x{3 * number} 1 1 1 stale"
            for number in range(1, 20)
        },
        at="40m",
        quiet_at="5m",
        labels='job="g"',
    ),
    Case(
        "GearshiftFails",
        {f'gearshift_rows_total{{{MODEL},outcome="failed"}}': "0+300x9000"},
        at="20m",
        quiet_at="5m",
    ),
    Case(
        "GearshiftVariantNotReady",
        {f'gearshift_variant_ready{{{MODEL},variant="v"}}': "0x9000"},
        at="15m",
        quiet_at="5m",
        labels=f'{MODEL},variant="v"',
    ),
    Case(
        "GearshiftAbsent",
        {'gearshift_replicas{job="g",instance="a:8002",role="gateway"}': "2x3 stale"},
        at="20m",
        quiet_at="3m",
        labels="",
    ),
]


def test_every_alert_has_a_case() -> None:
    assert {case.alert for case in CASES} == {alert.name for alert in alerts()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_it_fires_for_what_it_is_about(case: Case, tmp_path: Path) -> None:
    checked = run(tmp_path, HEALTHY | dict(case.differs), [(case.at, case.alert, [case.labels])])
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_it_waits_until_it_is_sure(case: Case, tmp_path: Path) -> None:
    checked = run(tmp_path, HEALTHY | dict(case.differs), [(case.quiet_at, case.alert, [])])
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_nothing_fires_while_all_is_well(tmp_path: Path) -> None:
    moments = ("5m", "1h", "5h")
    expected = [(at, alert.name, []) for alert in alerts() for at in moments]
    checked = run(tmp_path, HEALTHY, expected)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_scaling_out_and_in_again_wakes_nobody(tmp_path: Path) -> None:
    replica = 'job="g",instance="a:8002",role="gateway"'
    differs = {
        f"gearshift_replicas{{{replica}}}": "1x4 8x9 1x100",
        f"gearshift_replica_starts_total{{{replica}}}": "1x4 8x120",
    }
    moments = ("6m", "15m", "25m")
    checked = run(tmp_path, HEALTHY | differs, [(at, "GearshiftReplicaFlapping", []) for at in moments])
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_files_pass_the_checks_of_prometheus() -> None:
    for kind, name in (("rules", RULES), ("config", "prometheus.yml")):
        checked = promtool("check", kind, str(HERE / name))
        assert checked.returncode == 0, checked.stdout + checked.stderr


def run(folder: Path, series: Mapping[str, str], expected: list[tuple[str, str, list[str]]]) -> Any:
    """Promtool's verdict on alerts: (when, name, label sets that fire)."""
    severities = {alert.name: alert.severity for alert in alerts()}
    document = {
        "rule_files": [str(HERE / RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f'ALERTS{{alertstate="firing",alertname="{name}"}}',
                        "eval_time": at,
                        "exp_samples": [{"labels": fired(name, severities[name], text), "value": 1} for text in labels],
                    }
                    for at, name, labels in expected
                ],
            }
        ],
    }
    file = folder / "alerts.test.yaml"
    file.write_text(yaml.safe_dump(document))
    return promtool("test", "rules", str(file))


def fired(name: str, severity: str, labels: str) -> str:
    """The series that Prometheus keeps of a firing alert."""
    rest = f",{labels}" if labels else ""
    return f'ALERTS{{alertname="{name}",alertstate="firing",severity="{severity}"{rest}}}'
