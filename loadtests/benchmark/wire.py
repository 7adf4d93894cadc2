"""Open Inference Protocol v2 bodies as the benchmark sends and reads them: one FP32 tensor each way."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import orjson
from tritonclient.grpc import service_pb2

from loadtests.fixtures import INPUT_NAME, OUTPUT_NAME, FloatArray

BodyFormat = Literal["json", "binary", "grpc"]
FORMATS: tuple[BodyFormat, ...] = get_args(BodyFormat)

INFER_METHOD = "/inference.GRPCInferenceService/ModelInfer"
GRPC_PREFIX_BYTES = 5
MODEL_NAME = "mlp"
HEADER_LENGTH = "Inference-Header-Content-Length"


class AnswerError(ValueError):
    """An answer that is not the FP32 output the protocol promises; the message says what was there."""


@dataclass(frozen=True, slots=True)
class Payload:
    """One request: its body and the headers that go with it."""

    body: bytes
    headers: Mapping[str, str]


def encode_request(rows: FloatArray, body_format: BodyFormat) -> Payload:
    """Return the request that asks for the outputs of `rows`, float32 [n, width]; of gRPC with its prefix."""
    if body_format == "grpc":
        message = grpc_request(rows).SerializeToString()
        prefix = b"\0" + len(message).to_bytes(GRPC_PREFIX_BYTES - 1)
        return Payload(prefix + message, {"Content-Type": "application/grpc", "TE": "trailers"})
    tensor: dict[str, Any] = {"name": INPUT_NAME, "shape": rows.shape, "datatype": "FP32"}
    if body_format == "json":
        tensor["data"] = rows.ravel()
        body = orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Payload(body, {"Content-Type": "application/json"})
    raw = rows.astype("<f4").tobytes()
    tensor["parameters"] = {"binary_data_size": len(raw)}
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return Payload(head + raw, headers)


def grpc_request(rows: FloatArray) -> service_pb2.ModelInferRequest:
    """Return the same request as a message of gRPC."""
    request = service_pb2.ModelInferRequest(model_name=MODEL_NAME)
    request.inputs.add(name=INPUT_NAME, datatype="FP32", shape=rows.shape)
    request.raw_input_contents.append(rows.astype("<f4").tobytes())
    return request


def grpc_output(answer: service_pb2.ModelInferResponse) -> FloatArray:
    """Return the output tensor of an answer; raises `AnswerError` where there is none."""
    for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        if tensor.name == OUTPUT_NAME:
            return np.frombuffer(raw, dtype="<f4").astype(np.float32).reshape(tensor.shape)
    raise AnswerError(f"no output named {OUTPUT_NAME!r}")


def decode_answer(body: bytes, headers: Mapping[str, str]) -> FloatArray:
    """Return the output tensor of an answer, float32; raises `AnswerError` where there is none.

    `headers` must find names whatever their case (an `httpx.Headers` does).
    """
    try:
        header_length = headers.get(HEADER_LENGTH)
        split = len(body) if header_length is None else int(header_length)
        tensor = _output_of(orjson.loads(body[:split]))
        shape = tensor["shape"]
        if "data" in tensor:
            return np.array(tensor["data"], dtype=np.float32).reshape(shape)
        return np.frombuffer(body, dtype="<f4", offset=split).astype(np.float32).reshape(shape)
    except (ValueError, TypeError, KeyError) as error:
        raise AnswerError(f"cannot read the answer: {type(error).__name__}: {error}") from error


def _output_of(answer: Any) -> dict[str, Any]:
    for tensor in answer["outputs"]:
        if tensor["name"] == OUTPUT_NAME:
            return dict(tensor)
    raise ValueError(f"no output named {OUTPUT_NAME!r}")
