import json

import numpy as np
import pytest

from loadtests.payloads import bodies, parameters
from loadtests.scenario import RequestClass, ScenarioError

FASHION = {"name": "fashion", "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28]}]}
PAIR = {
    "name": "pair",
    "inputs": [
        {"name": "a", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "t", "datatype": "BYTES", "shape": [-1, 1]},
    ],
}
IDS = {
    "name": "text",
    "inputs": [{"name": "ids", "datatype": "INT64", "shape": [-1, -1]}],
    "gearshift": {"padding": {"ids": {"axis": 1, "buckets": [4, 8], "value": 0}}},
}


def entry(model="fashion", **more):
    return RequestClass.model_validate({"name": "k", "model": model, "latency_ms": 20.0, **more})


def parsed(body, headers):
    split = int(headers.get("Inference-Header-Content-Length", len(body)))
    return json.loads(body[:split]), body[split:]


def test_a_budget_in_the_words_of_the_protocol():
    given = entry(min_accuracy=0.9, max_energy_mj=2.0, variant="v", prefer="energy", priority=3)
    assert parameters(given) == {
        "latency_budget_ms": 20.0,
        "min_accuracy": 0.9,
        "max_energy_mj": 2.0,
        "prefer": "energy",
        "variant": "v",
        "priority": 3,
    }
    assert parameters(entry()) == {"latency_budget_ms": 20.0}


def test_the_demo_family_gets_pictures():
    body, headers = bodies(entry(), 2, FASHION, 1)[0]
    head, raw = parsed(body, headers)
    assert head["parameters"] == {"latency_budget_ms": 20.0, "binary_data_output": True}
    (tensor,) = head["inputs"]
    assert tensor["shape"] == [2, 28, 28]
    assert tensor["parameters"]["binary_data_size"] == len(raw) == 2 * 784
    # Pictures have dark corners and bright middles, random values have not.
    pictures = np.frombuffer(raw, np.uint8).reshape(2, 28, 28)
    assert pictures[:, :2, :2].max() < 30
    assert pictures.max() > 150


def test_bodies_differ_and_repeat_with_the_seed():
    first = bodies(entry(), 1, FASHION, 1)
    assert len({body for body, _ in first}) > 3
    assert bodies(entry(), 1, FASHION, 1) == first
    assert bodies(entry(), 1, FASHION, 2) != first


def test_several_inputs_in_binary():
    head, raw = parsed(*bodies(entry("pair"), 2, PAIR, 1)[0])
    assert [tensor["parameters"]["binary_data_size"] for tensor in head["inputs"]] == [24, 2 * (4 + len("gearshift"))]
    assert len(raw) == 24 + 26
    assert raw[24:28] == (9).to_bytes(4, "little")


def test_json_bodies():
    body, headers = bodies(entry("pair", payload={"encoding": "json"}), 2, PAIR, 1)[0]
    head, raw = parsed(body, headers)
    assert raw == b""
    assert headers == {"Content-Type": "application/json"}
    assert [len(tensor["data"]) for tensor in head["inputs"]] == [6, 2]
    assert head["inputs"][1]["data"] == ["gearshift"] * 2


def test_a_free_axis_is_as_long_as_the_largest_bucket():
    head, _ = parsed(*bodies(entry("text"), 3, IDS, 1)[0])
    assert head["inputs"][0]["shape"] == [3, 8]


def test_a_file_of_ones_own_is_repeated_to_the_rows(tmp_path):
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"inputs": [
        {"name": "a", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]},
        {"name": "t", "shape": [1, 1], "datatype": "BYTES", "data": ["x"]},
    ]}))  # fmt: skip
    given = RequestClass.model_validate(
        {"name": "k", "model": "pair", "latency_ms": 20.0, "payload": {"encoding": "json", "file": "own.json"}},
        context={"folder": tmp_path},
    )
    ((body, headers),) = bodies(given, 3, PAIR, 1)
    head, _ = parsed(body, headers)
    assert head["inputs"][0]["data"] == [1, 2, 3, 4, 5, 6, 1, 2, 3]
    assert head["inputs"][1]["data"] == ["x"] * 3
    file.write_text('{"inputs": []}')
    with pytest.raises(ScenarioError, match=r"class 'k': payload file .*inputs a, t"):
        bodies(given, 3, PAIR, 1)
    file.unlink()
    with pytest.raises(ScenarioError, match="cannot be read"):
        bodies(given, 3, PAIR, 1)
