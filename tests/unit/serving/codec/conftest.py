import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from models.manifest import Datatype, Family, TensorSpec, Variant
from serving.codec.limits import CodecLimits
from serving.codec.request import InferRequest, decode_request


def spec(name: str, datatype: Datatype, shape: Sequence[int], labels: tuple[str, ...] | None = None) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=tuple(shape), labels=labels)


def family(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec] | None = None, max_batch_rows: int = 256
) -> Family:
    return Family(
        name="fashion",
        version="3",
        inputs=tuple(inputs),
        outputs=tuple(outputs or (spec("scores", "FP32", (-1, 10)),)),
        max_batch_rows=max_batch_rows,
        variants=(Variant(name="only", file="only.onnx", sha256="0" * 64, size_bytes=1),),
    )


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def tensor(name: str, datatype: str, shape: Sequence[int], data: Any = None, **parameters: Any) -> dict[str, Any]:
    entry = {"name": name, "datatype": datatype, "shape": list(shape)}
    if data is not None:
        entry["data"] = data
    if parameters:
        entry["parameters"] = parameters
    return entry


def decode(
    sent: bytes, of: Family, header_length: int | None = None, limits: CodecLimits | None = None
) -> InferRequest:
    return decode_request(sent, header_length=header_length, family=of, limits=limits or CodecLimits())


class Wire:
    """The helpers above, as one fixture: tests have no packages to import them from."""

    spec = staticmethod(spec)
    family = staticmethod(family)
    body = staticmethod(body)
    tensor = staticmethod(tensor)
    decode: Callable[..., InferRequest] = staticmethod(decode)


@pytest.fixture(scope="session")
def wire() -> Wire:
    return Wire()
