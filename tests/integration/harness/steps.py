"""A model whose versions tell themselves apart: version V answers y = V * x, so no answer can pass for another's."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from models.manifest import Budget
from models.repository import publish
from tests.integration.harness.crowd import Question
from tests.integration.harness.families import IR_VERSION, OPSET
from tests.integration.harness.servers import Server
from tests.integration.harness.wire import Reply, outputs_of, tensor
from tests.support import tiny_models

LATENCY_MS = 30_000.0
"""Generous: these tests share two cores with a calibration."""


def step_model(factor: float) -> bytes:
    """x FP32 [-1,4] -> y = factor * x."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "step",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
        [numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )
    return bytes(helper.make_model(graph, opset_imports=[OPSET], ir_version=IR_VERSION).SerializeToString())


def publish_step(root: Path, version: int, *, name: str = "step") -> Path:
    """Version V of the model, whole, in one rename."""
    content = step_model(float(version))
    family = tiny_models.family_of({"only": content}, name=name, version=str(version), max_batch_rows=64)
    family = family.model_copy(update={"default_budget": Budget(latency_ms=LATENCY_MS)})
    return publish(root, family, {"only.onnx": content})


def put_plain(root: Path, version: int, *, name: str = "plain") -> None:
    """The same as a repository made for Triton has it: no manifest."""
    staging = root / f".{name}-{version}"
    staging.mkdir(parents=True)
    (staging / "model.onnx").write_bytes(step_model(float(version)))
    for path in (staging / "model.onnx", staging):
        os.utime(path, (1.0, 1.0))  # not a moment ago: it is whole
    (root / name).mkdir(exist_ok=True)
    staging.rename(root / name / str(version))
    os.utime(root / name / str(version), (1.0, 1.0))


def step_questions(seed: int, *, name: str = "step") -> Iterator[Question]:
    """Endless questions; each answer must be that of the very version that it names."""
    rng = np.random.default_rng(seed)
    while True:
        rows = rng.integers(-1000, 1000, (int(rng.integers(1, 5)), 4)).astype(float)
        yield Question(name, {"inputs": [tensor("x", "FP32", rows)]}, _check(rows))


def index_of(server: Server, **filters: Any) -> dict[str, tuple[str, str]]:
    """(state, reason) by "name/version", as the repository index tells it."""
    answer = httpx.post(f"{server.url}/v2/repository/index", json=filters or None, timeout=60).raise_for_status()
    return {
        f"{entry['name']}/{entry.get('version', '')}": (entry.get("state", ""), entry.get("reason", ""))
        for entry in answer.json()
    }


def change(server: Server, verb: str, name: str, **document: Any) -> httpx.Response:
    """A call to load or unload a model."""
    return httpx.post(f"{server.url}/v2/repository/models/{name}/{verb}", json=document or None, timeout=150)


def _check(rows: np.ndarray) -> Any:
    def check(reply: Reply) -> str:
        if reply.status != 200:
            return ""
        answer = reply.json()
        y, version = outputs_of(answer)["y"], int(answer["model_version"])
        return "" if np.array_equal(y, rows * version) else f"version {version} answered {y.tolist()}"

    return check
