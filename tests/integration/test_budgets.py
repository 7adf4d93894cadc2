"""A request's budget decides the variant: in parameters, in headers, with what the answer tells of it."""

import re
import time
from typing import Any

import httpx
import numpy as np
import pytest

from tests.integration.harness.families import SCALE_ACCURACY, SCALE_TAGS
from tests.integration.harness.servers import Server
from tests.integration.harness.wire import outputs_of, scale_request, tensor

ROWS = np.array([[1.0, 2.0, 3.0, 4.0]])
TRIES = 60
PAUSE_S = 0.05
"""A tight budget may be refused on a busy machine; of so many tries, this far apart, one is answered."""


@pytest.fixture
def client(server: Server) -> httpx.Client:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def ask(client: httpx.Client, parameters: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> Any:
    """The answer's parameters, after its numbers and its tag were checked."""
    response = client.post("/v2/models/scale/infer", json=scale_request(ROWS, **(parameters or {})), headers=headers)
    assert response.status_code == 200, response.text
    answer = response.json()
    outputs = outputs_of(answer)
    assert np.array_equal(outputs["y"], ROWS * 3)
    assert outputs["tag"] == [[SCALE_TAGS[answer["parameters"]["variant"]]]], "told one variant, ran another"
    return answer["parameters"]


def test_an_answer_tells_all_about_itself(client: httpx.Client) -> None:
    told = ask(client)
    assert told.keys() == {
        "variant", "accuracy", "batch_rows", "queue_ms", "compute_ms", "predicted_ms", "deadline_met", "reason",
    }  # fmt: skip
    assert (told["variant"], told["accuracy"], told["reason"]) == ("exact", SCALE_ACCURACY["exact"], "most_accurate")
    assert told["deadline_met"] is True
    assert told["batch_rows"] >= 1
    assert told["compute_ms"] > 0
    assert told["queue_ms"] >= 0
    assert told["predicted_ms"] > 0


@pytest.mark.parametrize(
    ("budget", "variant", "reason"),
    [
        ({"prefer": "latency"}, "quick", "prefer_latency"),
        ({"prefer": "energy"}, "quick", "prefer_energy"),
        ({"prefer": "latency", "min_accuracy": 0.7}, "medium", "prefer_latency"),
        ({"prefer": "energy", "min_accuracy": 0.85}, "exact", "prefer_energy"),
        ({"prefer": "accuracy"}, "exact", "most_accurate"),
        ({"variant": "medium"}, "medium", "pinned"),
        ({"variant": "quick", "min_accuracy": 0.5}, "quick", "pinned"),
    ],
)
def test_the_budget_chooses_the_variant(
    client: httpx.Client, budget: dict[str, Any], variant: str, reason: str
) -> None:
    spellings = (
        ask(client, budget),
        ask(client, headers={name: str(value) for name, value in budget.items()}),
        ask(client, headers={name.replace("_", "-"): str(value) for name, value in budget.items()}),
        ask(client, headers={name.replace("_", "-").title(): str(value) for name, value in budget.items()}),
    )
    for told in spellings:
        assert (told["variant"], told["reason"]) == (variant, reason)


def test_parameters_win_over_headers(client: httpx.Client) -> None:
    assert ask(client, {"variant": "medium"}, {"variant": "quick"})["variant"] == "medium"


@pytest.mark.parametrize("spelling", ["parameter", "latency-budget-ms", "latency_budget_ms", "timeout"])
def test_a_latency_budget_too_short_for_the_best_variant_takes_a_smaller_one(
    client: httpx.Client, spelling: str
) -> None:
    variants = {v["name"]: v for v in client.get("/v2/models/scale").json()["gearshift"]["variants"]}
    budget_ms = round(variants["exact"]["ms_at_1"] * 0.95, 3)
    for _ in range(TRIES):
        parameters: dict[str, Any] = {}
        headers = {}
        match spelling:
            case "parameter":
                parameters = {"latency_budget_ms": budget_ms}
            case "timeout":
                parameters = {"timeout": int(budget_ms * 1000)}
            case _:
                headers = {spelling: str(budget_ms)}
        response = client.post("/v2/models/scale/infer", json=scale_request(ROWS, **parameters), headers=headers)
        if response.status_code == 200:
            told = response.json()["parameters"]
            assert told["variant"] in ("medium", "quick")
            assert told["reason"] in ("budget", "load")
            return
        assert response.status_code in (422, 429, 504), response.text
        time.sleep(PAUSE_S)
    pytest.fail(f"none of {TRIES} requests with {budget_ms} ms was answered: {response.text}")


@pytest.mark.parametrize(
    ("parameter", "value", "pattern"),
    [
        ("min_accuracy", 0.99, r"min_accuracy 0\.99: the nearest feasible is ([0-9.]+)"),
        ("max_energy_mj", 1e-9, r"nearest feasible max_energy_mj is ([0-9.e-]+)"),
    ],
)
def test_an_infeasible_budget_names_the_nearest_feasible_one(
    client: httpx.Client, parameter: str, value: float, pattern: str
) -> None:
    refused = client.post("/v2/models/scale/infer", json=scale_request(ROWS, **{parameter: value}))
    assert refused.status_code == 422
    found = re.search(pattern, refused.json()["error"])
    assert found, refused.text
    ask(client, {parameter: float(found[1])})


def test_an_infeasible_latency_budget_is_never_blamed_on_load(client: httpx.Client) -> None:
    """To an idle gateway that has just refused another: it tells the nearest feasible budget, and not "later"."""
    variants = {v["name"]: v for v in client.get("/v2/models/scale").json()["gearshift"]["variants"]}
    barely_ms = variants["quick"]["ms_at_1"] * 1.1  # enough for the variant, not for the gateway around it
    for _ in range(10):
        tight = client.post("/v2/models/scale/infer", json=scale_request(ROWS, latency_budget_ms=barely_ms))
        assert tight.status_code in (422, 504), tight.text
        refused = client.post("/v2/models/scale/infer", json=scale_request(ROWS, latency_budget_ms=1e-6))
        assert refused.status_code == 422, refused.text
        assert "nearest feasible latency_budget_ms is" in refused.text


def test_following_the_told_latency_leads_to_an_answer(client: httpx.Client) -> None:
    """The first refusal tells the variant's own time; what the gateway adds is told by those that follow."""
    budget_ms = 1e-6
    for _ in range(TRIES):
        response = client.post("/v2/models/scale/infer", json=scale_request(ROWS, latency_budget_ms=budget_ms))
        if response.status_code == 200:
            assert np.array_equal(outputs_of(response.json())["y"], ROWS * 3)
            return
        assert response.status_code in (422, 429, 504), response.text
        told = re.search(r"latency_budget_ms is ([0-9.e-]+)|takes about ([0-9.e+-]+) ms", response.text)
        budget_ms = max(budget_ms * 1.25, float(told[1] or told[2]) if told else 0.0)
    pytest.fail(f"{budget_ms} ms is still refused: {response.text}")


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"latency_budget_ms": 0}, "latency_budget_ms"),
        ({"latency_budget_ms": "soon"}, "latency_budget_ms"),
        ({"min_accuracy": 2}, "min_accuracy"),
        ({"max_energy_mj": -1}, "max_energy_mj"),
        ({"prefer": "beauty"}, "prefer"),
        ({"variant": 3}, "variant"),
        ({"priority": -1}, "priority"),
        ({"timeout": True}, "timeout"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_by_name(
    client: httpx.Client, parameters: dict[str, Any], text: str
) -> None:
    response = client.post("/v2/models/scale/infer", json=scale_request(ROWS, **parameters))
    assert response.status_code == 400
    assert f"'{text}'" in response.json()["error"]


def test_unknown_names_are_404(client: httpx.Client) -> None:
    body = scale_request(ROWS)
    for path, text in (
        ("/v2/models/nobody/infer", "Request for unknown model: 'nobody' is not found"),
        ("/v2/models/scale/versions/7/infer", "Request for unknown model: 'scale' version 7 is not found"),
    ):
        response = client.post(path, json=body)
        assert (response.status_code, response.json()) == (404, {"error": text})
    for path in ("/v2/models/nobody", "/v2/models/scale/versions/7", "/v2/models/scale/versions/7/ready"):
        response = client.get(path)
        assert response.status_code == 404
        assert response.json()["error"].startswith("Request for unknown model: ")
    pinned = client.post("/v2/models/scale/infer", json=scale_request(ROWS, variant="huge"))
    assert pinned.status_code == 404
    assert pinned.json() == {"error": "model 'scale' has no variant 'huge'; it has: exact, medium, quick"}


def test_versions_answer_for_themselves_and_the_highest_is_the_default(client: httpx.Client) -> None:
    body = {"inputs": [tensor("x", "FP32", np.ones((2, 3)))]}
    for path, version, factor in (
        ("/v2/models/free/infer", "2", 5),
        ("/v2/models/free/versions/1/infer", "1", 2),
        ("/v2/models/free/versions/2/infer", "2", 5),
    ):
        answer = client.post(path, json=body).json()
        assert answer["model_version"] == version
        assert np.array_equal(outputs_of(answer)["y"], np.full((2, 3), factor))


def test_shapes_of_every_kind_are_answered(client: httpx.Client) -> None:
    """A free trailing axis, a fixed shape without a batch axis, several inputs and outputs."""
    for columns in (1, 3, 50):
        rows = np.arange(2 * columns, dtype=float).reshape(2, columns)
        answer = client.post("/v2/models/free/infer", json={"inputs": [tensor("x", "FP32", rows)]}).json()
        assert np.array_equal(outputs_of(answer)["y"], rows * 5)

    fixed = np.arange(6, dtype=float).reshape(2, 3)
    answer = client.post("/v2/models/fixed/infer", json={"inputs": [tensor("x", "FP32", fixed)]}).json()
    assert np.array_equal(outputs_of(answer)["y"], fixed + 1)

    first, second = np.arange(6, dtype=float).reshape(2, 3), np.arange(4).reshape(2, 2)
    body = {"inputs": [tensor("b", "INT64", second), tensor("a", "FP32", first)]}
    outputs = outputs_of(client.post("/v2/models/pair/infer", json=body).json())
    assert np.array_equal(outputs["doubled"], first * 2)
    assert np.array_equal(outputs["next"], second + 1)
