import pytest

from serving.codec.budget import HEADERS, peek_latency_s, read_budget
from serving.codec.envelope import Parameter
from serving.core.budget import RequestBudget
from serving.core.errors import InvalidRequest

DEFAULT = RequestBudget(latency_s=0.1, min_accuracy=0.5)


def test_nothing_said_is_the_default_itself() -> None:
    assert read_budget(DEFAULT, {}) is DEFAULT


def test_every_parameter_counts() -> None:
    said: dict[str, Parameter] = {
        "latency_budget_ms": 20,
        "min_accuracy": 0.9,
        "max_energy_mj": 3.5,
        "prefer": "energy",
        "variant": "small",
        "priority": 7,
    }
    assert read_budget(DEFAULT, said) == RequestBudget(0.02, 0.9, 3.5, "energy", "small", 7)


def test_headers_say_the_same_in_text_and_parameters_win() -> None:
    headers = {"latency_budget_ms": "20", "min_accuracy": "0.9"}
    assert read_budget(DEFAULT, {}, headers) == RequestBudget(0.02, 0.9)
    assert read_budget(DEFAULT, {"latency_budget_ms": 5.5}, headers) == RequestBudget(0.0055, 0.9)


def test_header_names_may_have_dashes() -> None:
    assert HEADERS[b"latency-budget-ms"] == HEADERS[b"latency_budget_ms"] == "latency_budget_ms"


def test_triton_s_timeout_is_in_microseconds_and_zero_means_none() -> None:
    assert read_budget(DEFAULT, {"timeout": 30_000}).latency_s == 0.03
    assert read_budget(DEFAULT, {"timeout": 0}).latency_s == DEFAULT.latency_s
    assert read_budget(DEFAULT, {"timeout": 30_000, "latency_budget_ms": 7}).latency_s == 0.007


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latency_budget_ms", 0),
        ("latency_budget_ms", -1),
        ("latency_budget_ms", True),
        ("latency_budget_ms", "soon"),
        ("latency_budget_ms", float("nan")),
        ("latency_budget_ms", float("inf")),
        ("latency_budget_ms", 1e12),
        ("min_accuracy", 1.5),
        ("min_accuracy", -0.1),
        ("max_energy_mj", 0),
        ("prefer", "speed"),
        ("prefer", 1),
        ("variant", 3),
        ("priority", -1),
        ("timeout", -5),
    ],
)
def test_nonsense_is_refused_by_name(name: str, value: Parameter) -> None:
    with pytest.raises(InvalidRequest, match=name):
        read_budget(DEFAULT, {name: value})


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (b'{"inputs":[]}', 0.1),
        (b'{"parameters":{"latency_budget_ms":20}}', 0.02),
        (b'{"parameters":{"latency_budget_ms" : 2.5e1 }}', 0.025),
        (b'{"parameters":{"timeout":5}}', None),
        (b'{"parameters":{"latency_budget_ms":-3}}', None),
    ],
)
def test_a_glance_at_the_body_tells_the_latency(body: bytes, seconds: float | None) -> None:
    assert peek_latency_s(body, None, DEFAULT) == pytest.approx(seconds)


def test_a_glance_sees_headers_and_the_body_wins() -> None:
    assert peek_latency_s(b"{}", {"latency_budget_ms": "7"}, DEFAULT) == pytest.approx(0.007)
    assert peek_latency_s(b'{"latency_budget_ms":9}', {"latency_budget_ms": "7"}, DEFAULT) == pytest.approx(0.009)
    assert peek_latency_s(b"{}", {"latency_budget_ms": "x"}, DEFAULT) is None
