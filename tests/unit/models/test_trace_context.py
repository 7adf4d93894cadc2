"""The trace of a batch on its way to an endpoint elsewhere: from the loop into a worker's thread and out by HTTP."""

import json

import numpy as np
import pytest

from models.manifest import Family, Remote, TensorSpec, Variant
from models.remote import RemoteModel
from models.trace_context import TRACEPARENT
from serving.local_pool import LocalPool
from tests.support.oip_server import Endpoint, running

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TENSOR = {"name": "x", "datatype": "FP32", "shape": [-1, 1]}


@pytest.mark.parametrize("parent", [PARENT, None])
async def test_a_call_elsewhere_carries_the_trace_of_its_batch(parent: str | None) -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 1))
    local = Variant(name="local", file="local.onnx", sha256="0" * 64, size_bytes=1)
    family = Family(name="m", inputs=(spec,), outputs=(spec,), variants=(local,))
    answer = {"outputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}
    endpoint = Endpoint(
        metadata={"name": "big", "inputs": [TENSOR], "outputs": [TENSOR]},
        answer=lambda _path, _headers, _body: (200, {}, json.dumps(answer).encode()),
    )
    with running(endpoint):
        pool = LocalPool({("m/1", "far"): RemoteModel(family, Remote(url=endpoint.url, model="big"))}, workers=1)
        TRACEPARENT.set(parent)  # the test's task has a context of its own, as a batch has
        await pool.run("m/1", "far", {"x": np.ones((1, 1), np.float32)}, 30.0)
        await pool.close()
    headers = [headers for method, _, headers, _ in endpoint.asked if method == "POST"]
    assert [sent.get("traceparent") for sent in headers] == [parent]
