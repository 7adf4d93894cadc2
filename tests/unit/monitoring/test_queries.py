import re
from collections.abc import Iterator

import pytest

from monitoring import queries
from monitoring.dashboard import dashboard_rows
from monitoring.queries import SPECS, Scope, UnknownSeriesError, series
from monitoring.rules import alerts, recordings
from serving.core.outcome import Outcome

NAMES = re.compile(r"\bgearshift_[a-z_]+")
ANYWHERE = Scope("5m", ())


def every_expression() -> Iterator[str]:
    for panels in dashboard_rows().values():
        yield from (query.expression for panel in panels for query in panel.queries)
    yield from (record.expression for record in recordings())
    yield from (alert.expression for alert in alerts())


def base_name(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name) if name not in SPECS else name


def test_every_name_in_every_expression_is_in_the_metric_table() -> None:
    found = {
        base_name(name) for expression in every_expression() for name in NAMES.findall(without_recorded(expression))
    }
    assert found <= set(SPECS)
    assert len(found) > 20


def without_recorded(expression: str) -> str:
    return re.sub(r"\b[a-z_]+:gearshift_[a-z_]+:\w+", "", expression)


def test_every_recorded_series_an_alert_asks_for_is_recorded() -> None:
    recorded = {record.name for record in recordings()}
    expressions = [alert.expression for alert in alerts()] + [record.expression for record in recordings()]
    asked = {name for text in expressions for name in re.findall(r"\b[a-z_]+:gearshift_[a-z_]+:\w+", text)}
    assert asked <= recorded
    assert asked


def test_what_is_recorded_from_another_comes_after_it() -> None:
    seen: set[str] = set()
    for record in recordings():
        assert set(re.findall(r"\b[a-z_]+:gearshift_[a-z_]+:\w+", record.expression)) <= seen
        seen.add(record.name)


def test_outcomes_in_matchers_exist() -> None:
    named = {
        value
        for expression in every_expression()
        for matched in re.findall(r'outcome[!=]=?~?"([^"$]*)"', expression)
        for value in matched.split("|")
    }
    assert named <= {outcome.value for outcome in Outcome}
    assert "met" in named


def test_a_scope_selects_by_the_labels_a_metric_has() -> None:
    scope = Scope("5m", (), {"model": "a.*", "job": "g", "variant": "v"})
    assert series("gearshift_queue_rows", scope) == 'gearshift_queue_rows{job=~"g",model=~"a.*"}'
    assert series("gearshift_workers", scope) == 'gearshift_workers{job=~"g"}'
    assert series("gearshift_workers", ANYWHERE) == "gearshift_workers"


@pytest.mark.parametrize(
    ("name", "suffix", "where"),
    [
        ("gearshift_no_such_total", "", {}),
        ("gearshift_rows_total", "_bucket", {}),
        ("gearshift_batch_rows", "", {}),
        ("gearshift_rows_total", "", {"variant": '="x"'}),
    ],
)
def test_what_is_not_in_the_table_is_refused(name: str, suffix: str, where: dict[str, str]) -> None:
    with pytest.raises(UnknownSeriesError):
        series(name, ANYWHERE, suffix=suffix, **where)


def test_attainment_leaves_out_callers_who_left() -> None:
    assert queries.attainment(Scope("1m", ("model",))) == (
        'sum by (model) (rate(gearshift_rows_total{outcome="met"}[1m])) / '
        'sum by (model) (rate(gearshift_rows_total{outcome!="cancelled"}[1m]))'
    )
