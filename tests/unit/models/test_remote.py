import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from models.manifest import Family, ManifestError, Remote, TensorSpec, Variant
from models.remote import RemoteModel
from models.session import VariantLost
from tests.support.oip_server import Endpoint, running

SHAPE = (-1, 2)
LOCAL = Variant(name="local", file="local.onnx", sha256="0" * 64, size_bytes=1)


def family(*, text: bool = False) -> Family:
    datatype: Any = "BYTES" if text else "FP32"
    return Family(
        name="m",
        inputs=(TensorSpec(name="x", datatype=datatype, shape=SHAPE),),
        outputs=(TensorSpec(name="y", datatype=datatype, shape=SHAPE),),
        variants=(LOCAL,),
    )


def metadata(datatype: str = "FP32", shape: tuple[int, ...] = SHAPE) -> dict[str, Any]:
    tensor = {"datatype": datatype, "shape": list(shape)}
    return {"name": "big", "inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}]}


def doubled(_path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    """y = 2 x, in the form the inputs came in."""
    length = headers.get("inference-header-content-length")
    if length is None:
        entry = json.loads(body)["inputs"][0]
        output = {**entry, "name": "y", "data": [2 * value for value in entry["data"]]}
        return 200, {}, json.dumps({"outputs": [output]}).encode()
    entry = json.loads(body[: int(length)])["inputs"][0]
    data = (2 * np.frombuffer(body[int(length) :], "<f4")).tobytes()
    output = {"name": "y", "datatype": "FP32", "shape": entry["shape"], "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"outputs": [output]}).encode()
    return 200, {"Inference-Header-Content-Length": str(len(head))}, head + data


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with running(Endpoint(metadata=metadata(), answer=doubled)) as it:
        yield it


def model(endpoint: Endpoint, *, text: bool = False, **options: Any) -> RemoteModel:
    return RemoteModel(family(text=text), Remote(url=endpoint.url, model="big", **options))


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(2 * count, dtype=np.float32).reshape(count, 2)}


@pytest.mark.parametrize("extensions", [[], ["binary_tensor_data"]])
def test_the_answer_is_the_endpoints(endpoint: Endpoint, extensions: list[str]) -> None:
    endpoint.extensions = extensions
    remote = model(endpoint)
    for count in (1, 3):
        found = remote.run(rows(count))
        assert found["y"].dtype == np.float32
        np.testing.assert_array_equal(found["y"], 2 * rows(count)["x"])
    binary = "inference-header-content-length" in endpoint.asked[-1][2]
    assert binary == bool(extensions)
    assert endpoint.connections == 1, "the connection is kept"
    assert [method for method, *_ in endpoint.asked] == ["GET", "POST", "POST"], "what it can do is asked once"


def test_texts_travel_in_both_forms(endpoint: Endpoint) -> None:
    endpoint.metadata = metadata("BYTES")
    inputs = {"x": np.array([[b"a", "ä".encode()]], object)}

    def echo(_path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        length = headers.get("inference-header-content-length")
        if length is None:
            return 200, {}, json.dumps({"outputs": [{**json.loads(body)["inputs"][0], "name": "y"}]}).encode()
        data = body[int(length) :]
        assert data == struct.pack("<I", 1) + b"a" + struct.pack("<I", 2) + "ä".encode()
        size = {"binary_data_size": len(data)}
        head = json.dumps({"outputs": [{"name": "y", "datatype": "BYTES", "shape": [1, 2], "parameters": size}]})
        return 200, {"Inference-Header-Content-Length": str(len(head))}, head.encode() + data

    endpoint.answer = echo
    for extensions in ([], ["binary_tensor_data"]):
        endpoint.extensions = extensions
        assert model(endpoint, text=True).run(inputs)["y"].tolist() == inputs["x"].tolist()


def test_a_gearshift_is_told_what_is_left_and_what_to_run(endpoint: Endpoint) -> None:
    endpoint.extensions = ["gearshift_budget"]
    model(endpoint, variant="large", timeout_ms=300.0).run(rows(1), budget_s=0.2)
    told = json.loads(endpoint.asked[-1][3])["parameters"]
    assert told["variant"] == "large"
    assert 0 < told["latency_budget_ms"] <= 200
    model(endpoint, timeout_ms=300.0).run(rows(1))
    assert json.loads(endpoint.asked[-1][3])["parameters"]["latency_budget_ms"] <= 300


def test_paths_name_the_version(endpoint: Endpoint) -> None:
    model(endpoint, version="7").run(rows(1))
    model(endpoint, version="7").check()
    assert [path for _, path, _, _ in endpoint.asked] == [
        "/v2",
        "/v2/models/big/versions/7/infer",
        "/v2",
        "/v2/models/big/versions/7",
    ]


def test_after_a_failure_another_software_may_answer(endpoint: Endpoint) -> None:
    endpoint.extensions = ["binary_tensor_data"]
    remote = model(endpoint)
    remote.run(rows(1))
    endpoint.extensions = []
    endpoint.answer = lambda *_: (400, {}, b"{}")
    with pytest.raises(VariantLost):
        remote.run(rows(1))
    endpoint.answer = doubled
    remote.run(rows(1))
    assert "inference-header-content-length" not in endpoint.asked[-1][2]


def test_headers_come_from_the_environment(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ManifestError, match="REMOTE_TOKEN, which is not set"):
        model(endpoint, headers_env={"Authorization": "REMOTE_TOKEN"})
    monkeypatch.setenv("REMOTE_TOKEN", "Bearer secret")
    model(endpoint, headers_env={"Authorization": "REMOTE_TOKEN"}).run(rows(1))
    assert all(headers["authorization"] == "Bearer secret" for _, _, headers, _ in endpoint.asked)


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        (metadata("FP64"), "'x' is FP64"),
        (metadata(shape=(-1, 3)), r"\[-1, 3\] there, but FP32 \[-1, 2\]"),
        ({"inputs": []}, "has no input 'x'; it has: none"),
        ({**metadata(), "outputs": [{"name": "z"}]}, "has no output 'y'; it has: z"),
        ({**metadata(), "inputs": [*metadata()["inputs"], {"name": "more"}]}, "also wants inputs"),
    ],
)
def test_another_model_than_the_manifests_is_refused(endpoint: Endpoint, told: dict[str, Any], complaint: str) -> None:
    endpoint.metadata = told
    with pytest.raises(ManifestError, match=complaint):
        model(endpoint).check()


def output(**changes: Any) -> bytes:
    entry = {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0], **changes}
    return json.dumps({"outputs": [entry]}).encode()


@pytest.mark.parametrize(
    ("status", "headers", "body", "complaint"),
    [
        (429, {}, b'{"error": "too\\nmuch"}', "it answered 429: too much"),
        (302, {"Location": "http://127.0.0.1:1/elsewhere"}, b"", "it answered 302"),
        (200, {}, b"<html>", "not one of the Open Inference Protocol"),
        (200, {}, b'{"outputs": 3}', "not one of the Open Inference Protocol"),
        (200, {}, b'{"outputs": []}', "no output 'y'"),
        (200, {}, output(datatype="FP64"), "the answer has FP64"),
        (200, {}, output(shape=[2, 1]), "expected FP32"),
        (200, {}, output(shape=[2, 2], data=[1.0] * 4), "of 1 row"),
        (200, {}, output(data=[1.0]), "do not fit"),
        (200, {}, output(data=[1.0, "x"]), "do not fit"),
        (200, {}, output(data=[True, False]), "do not fit"),
        (200, {}, output(parameters={"binary_data_size": 8}), "not one of the Open Inference Protocol"),
        (200, {"Inference-Header-Content-Length": "5"}, output(), "not one of the Open Inference Protocol"),
    ],
)
def test_an_answer_that_is_not_as_it_must_be(
    endpoint: Endpoint, status: int, headers: dict[str, str], body: bytes, complaint: str
) -> None:
    endpoint.answer = lambda *_: (status, headers, body)
    with pytest.raises(VariantLost, match=complaint):
        model(endpoint).run(rows(1))


def test_null_stands_for_what_is_not_finite(endpoint: Endpoint) -> None:
    endpoint.answer = lambda *_: (200, {}, output(data=[None, 2]))
    np.testing.assert_array_equal(model(endpoint).run(rows(1))["y"], [[np.nan, 2.0]])


def test_nobody_there() -> None:
    with running(Endpoint(metadata=metadata())) as gone:
        remote = model(gone)
    with pytest.raises(VariantLost, match="cannot connect"):
        remote.run(rows(1))
    with pytest.raises(VariantLost, match="cannot connect"):
        remote.check()


def test_no_time_left_asks_nobody(endpoint: Endpoint) -> None:
    remote = model(endpoint)
    remote.check()
    with pytest.raises(VariantLost, match="no time left"):
        remote.run(rows(1), budget_s=0.0)
    assert all(method == "GET" for method, *_ in endpoint.asked)
