"""One conversation over REST that can be held with any server of the protocol, and how two servers' sides differ."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

JSON_LENGTH = "inference-header-content-length"
A = {"name": "a", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, -1, 0.5, 7]}
B = {"name": "b", "shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, 4]}
PAIR = {"inputs": [A, B]}
TEXT = {"inputs": [{"name": "text", "shape": [1, 2], "datatype": "BYTES", "data": ["zwei", "€"]}]}
FIXED = {"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [0, 1, 2, 3, 4, 5]}]}


@dataclass(frozen=True, slots=True)
class Step:
    """One request. Of the answer, what is at the keys `free` may be anything, as long as it is there."""

    name: str
    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    free: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()
    """Keys of the answer that are compared; empty for all."""


def steps() -> Iterator[Step]:
    """The conversation."""
    yield from _about_the_server()
    yield from _about_models()
    yield from _inferences()
    yield from _mistakes()
    yield from _settings()


def _get(name: str, path: str, *, free: str = "", only: str = "") -> Step:
    return Step(name, "GET", path, free=frozenset(free.split()), only=frozenset(only.split()))


def _infer(name: str, document: Any, model: str = "pair", *, binary: bytes | None = None) -> Step:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    headers = () if binary is None else ((JSON_LENGTH, str(len(body))),)
    return Step(name, "POST", f"/v2/models/{model}/infer", body + (binary or b""), headers)


def _about_the_server() -> Iterator[Step]:
    yield _get("server live", "/v2/health/live")
    yield _get("server ready", "/v2/health/ready")
    yield _get("server metadata", "/v2", free="name version extensions")
    yield _get("unknown path", "/v2/nothing")
    yield Step("wrong method", "DELETE", "/v2")


def _about_models() -> Iterator[Step]:
    for model in ("pair", "text", "fixed"):
        yield _get(f"metadata of {model}", f"/v2/models/{model}", free="platform")
        yield _get(f"ready {model}", f"/v2/models/{model}/versions/1/ready")
        yield _get(
            f"configuration of {model}",
            f"/v2/models/{model}/config",
            only="name max_batch_size data_type dims input output",
        )
    yield _get("metadata of an unknown model", "/v2/models/nobody")
    yield _get("metadata of an unknown version", "/v2/models/pair/versions/9")
    yield _get("configuration of an unknown model", "/v2/models/nobody/config")
    yield _get("readiness of an unknown model", "/v2/models/nobody/ready")
    yield _get("statistics of an unknown model", "/v2/models/nobody/stats")
    yield _get("a version that is no number", "/v2/models/pair/versions/first")


def _inferences() -> Iterator[Step]:
    yield _infer("infer in JSON", PAIR)
    yield _infer("infer with an id", PAIR | {"id": "mine"})
    yield _infer("infer with an empty id", PAIR | {"id": ""})
    yield _infer("one output", PAIR | {"outputs": [{"name": "next"}]})
    yield _infer("texts in JSON", TEXT, "text")
    yield _infer("no batch axis", FIXED, "fixed")
    a, b = np.array(A["data"], np.float32).tobytes(), np.array(B["data"], np.int64).tobytes()
    inputs = [_in_binary(A, a), _in_binary(B, b)]
    yield _infer("binary in, JSON out", {"inputs": inputs}, binary=a + b)
    everything = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    yield _infer("binary in and out", everything, binary=a + b)
    mixed = {"inputs": [A, inputs[1]], "outputs": [{"name": "next", "parameters": {"binary_data": True}}]}
    yield _infer("one input and one output in binary", mixed, binary=b)
    texts = b"\x04\0\0\0zwei\x03\0\0\0\xe2\x82\xac"
    told = {"inputs": [_in_binary(TEXT["inputs"][0], texts)], "parameters": {"binary_data_output": True}}
    yield _infer("texts in binary", told, "text", binary=texts)
    best = [{"name": "doubled", "parameters": {"classification": 2}}]
    yield _infer("classification", PAIR | {"outputs": best})
    yield _infer(
        "more classes than there are", PAIR | {"outputs": [{"name": "next", "parameters": {"classification": 9}}]}
    )
    yield Step("version in the path", "POST", "/v2/models/pair/versions/1/infer", json.dumps(PAIR).encode())
    yield _get(
        "statistics", "/v2/models/pair/stats", free="ns count last_inference inference_count execution_count batch_size"
    )


def _mistakes() -> Iterator[Step]:
    yield _infer("infer with an unknown model", PAIR, "nobody")
    yield Step("infer with an unknown version", "POST", "/v2/models/pair/versions/9/infer", json.dumps(PAIR).encode())
    yield _infer("unknown input", {"inputs": [A | {"name": "z"}, B]})
    yield _infer("missing input", {"inputs": [A]})
    yield _infer("no inputs", {"inputs": []})
    yield _infer("input given twice", {"inputs": [A, A, B]})
    yield _infer("wrong shape", {"inputs": [A | {"shape": [2, 2], "data": [0] * 4}, B]})
    yield _infer("wrong rank", {"inputs": [A | {"shape": [2, 3, 1]}, B]})
    yield _infer("different numbers of rows", {"inputs": [A | {"shape": [1, 3], "data": [0] * 3}, B]})
    yield _infer("wrong datatype", {"inputs": [A | {"datatype": "FP64"}, B]})
    yield _infer("no such datatype", {"inputs": [A | {"datatype": "REAL"}, B]})
    yield _infer("too few elements", {"inputs": [A | {"data": [1, 2]}, B]})
    yield _infer("an element of another kind", {"inputs": [A | {"data": ["1"] * 6}, B]})
    yield _infer("no data", {"inputs": [{"name": "a", "shape": [2, 3], "datatype": "FP32"}, B]})
    yield _infer("no rows", {"inputs": [A | {"shape": [0, 3], "data": []}, B | {"shape": [0, 2], "data": []}]})
    many = [A | {"shape": [257, 3], "data": [0] * 771}, B | {"shape": [257, 2], "data": [0] * 514}]
    yield _infer("more rows than a batch", {"inputs": many})
    yield _infer("unknown output", PAIR | {"outputs": [{"name": "q"}]})
    yield _infer("shared memory", {"inputs": [_shared(A), B]})
    yield _infer("damaged JSON", b"{")
    yield _infer("JSON without inputs", {})
    yield _infer("bytes that are not there", {"inputs": [_in_binary(A, bytes(24)), B]}, binary=b"")


def _settings() -> Iterator[Step]:
    yield _get(
        "trace settings", "/v2/trace/setting", free="trace_level trace_rate trace_count log_frequency trace_mode"
    )
    yield Step("changing trace settings", "POST", "/v2/trace/setting", b'{"trace_rate": "1000"}')
    yield _get("log settings", "/v2/logging")
    yield Step("changing log settings", "POST", "/v2/logging", b'{"log_verbose_level": 1}')
    yield Step("changing them back", "POST", "/v2/logging", b'{"log_verbose_level": 0}')
    yield Step("logging to a file", "POST", "/v2/logging", b'{"log_file": "elsewhere"}')
    for kind in ("system", "cuda"):
        yield _get(f"{kind} regions", f"/v2/{kind}sharedmemory/status")
        yield _get(f"an unknown {kind} region", f"/v2/{kind}sharedmemory/region/r/status")
        yield Step(f"unregistering {kind} regions", "POST", f"/v2/{kind}sharedmemory/unregister")


def _in_binary(tensor: dict[str, Any], content: bytes) -> dict[str, Any]:
    kept = {name: value for name, value in tensor.items() if name != "data"}
    return kept | {"parameters": {"binary_data_size": len(content)}}


def _shared(tensor: dict[str, Any]) -> dict[str, Any]:
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 24}
    return {name: value for name, value in tensor.items() if name != "data"} | {"parameters": region}


def say(client: httpx.Client, step: Step) -> httpx.Response:
    """One step with the server of this client."""
    return client.request(step.method, step.path, content=step.body, headers=dict(step.headers))


def differences(step: Step, theirs: httpx.Response, ours: httpx.Response) -> list[str]:
    """What our answer lacks or says otherwise than theirs; it may say more."""
    if theirs.status_code != ours.status_code:
        return [
            f"status {theirs.status_code}, ours {ours.status_code}: {theirs.text[:200]!r}, ours {ours.text[:200]!r}"
        ]
    if not theirs.content:
        return []
    found = list(_compare(step, "", _document(theirs), _document(ours)))
    if _binary(theirs) != _binary(ours):
        found.append(f"binary {_binary(theirs)!r}, ours {_binary(ours)!r}")
    return found


def _compare(step: Step, where: str, theirs: Any, ours: Any) -> Iterator[str]:
    match theirs, ours:
        case dict(), dict():
            for key, value in theirs.items():
                if step.only and key not in step.only:
                    continue
                if key not in ours:
                    yield f"{where}.{key} is missing"
                elif key == "error":
                    yield from _compare_errors(value, ours[key])
                elif key not in step.free:
                    yield from _compare(step, f"{where}.{key}", value, ours[key])
        case list(), list() if len(theirs) == len(ours):
            for place, (one, other) in enumerate(zip(theirs, ours, strict=True)):
                yield from _compare(step, f"{where}[{place}]", one, other)
        case _:
            if theirs != ours:
                yield f"{where} is {theirs!r}, ours {ours!r}"


def _compare_errors(theirs: str, ours: str) -> Iterator[str]:
    """Triton's words must be in ours; less its mark of an unknown request and its note on configurations."""
    words = theirs.removeprefix("[request id: <id_unknown>] ").partition(" NOTE: ")[0]
    if words not in ours:
        yield f"error {words!r}, ours {ours!r}"


def _document(answer: httpx.Response) -> Any:
    return json.loads(answer.content[: int(answer.headers.get(JSON_LENGTH, len(answer.content)))])


def _binary(answer: httpx.Response) -> bytes:
    return answer.content[int(answer.headers.get(JSON_LENGTH, len(answer.content))) :]
