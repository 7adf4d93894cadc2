"""Words and worked examples of the API's own documentation, at /docs."""

from typing import Any

from serving.http.schemas import ERROR, INFER_ANSWER, INFER_REQUEST

DESCRIPTION = """
The Open Inference Protocol v2, answered by the most accurate variant of a model that the request's budget allows;
when load rises, by a smaller variant instead of an error.
"""

INFER_DESCRIPTION = """
JSON, or JSON followed by binary tensors (`Inference-Header-Content-Length`). The budget is written in `parameters`,
or in headers of the same names:

| name | meaning |
|---|---|
| `latency_budget_ms` | time from receipt to answer |
| `min_accuracy` | only variants measured at least this accurate |
| `max_energy_mj` | energy the whole request may cost, millijoules |
| `prefer` | `accuracy` (default), `latency` or `energy` |
| `variant` | pin one variant by name |

The answer's `parameters` tell the `variant` and its `accuracy`, `batch_rows`, `queue_ms`, `compute_ms`,
`predicted_ms`, `deadline_met`, and the `reason` of the choice.
"""

_REQUEST = {
    "inputs": [{"name": "image", "shape": [1, 28, 28], "datatype": "UINT8", "data": [0] * 8 + ["..."]}],
    "parameters": {"latency_budget_ms": 10, "min_accuracy": 0.9},
}
_ANSWER = {
    "model_name": "fashion",
    "model_version": "1",
    "parameters": {
        "variant": "resnet-32-int8",
        "batch_rows": 1,
        "queue_ms": 0.12,
        "compute_ms": 0.35,
        "predicted_ms": 0.61,
        "deadline_met": True,
        "reason": "most_accurate",
        "accuracy": 0.93,
    },
    "outputs": [{"name": "probabilities", "shape": [1, 10], "datatype": "FP32", "data": [0.97, 0.01, "..."]}],
}


def _error(text: str, example: str) -> dict[str, Any]:
    return {
        "description": text,
        "content": {"application/json": {"schema": ERROR, "example": {"error": example}}},
    }


INFER: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "header", "required": False, "schema": {"type": kind}, "description": text}
        for name, kind, text in (
            ("latency-budget-ms", "number", "Latency budget, milliseconds."),
            ("min-accuracy", "number", "Least accuracy, 0 to 1."),
            ("max-energy-mj", "number", "Most energy, millijoules."),
            ("prefer", "string", "accuracy, latency or energy."),
            ("variant", "string", "Pin one variant."),
            ("Inference-Header-Content-Length", "integer", "Bytes of JSON before binary tensors."),
        )
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": INFER_REQUEST, "example": _REQUEST},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "responses": {
        "200": {
            "description": "JSON, or JSON and then binary tensors, which begin where the header says",
            "headers": {
                "Inference-Header-Content-Length": {
                    "description": "Bytes of JSON before binary tensors.", "schema": {"type": "integer"},
                },
            },
            "content": {
                "application/json": {"schema": INFER_ANSWER, "example": _ANSWER},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "400": _error("The request does not fit the model",
                      "unexpected shape for input 'image' for model 'fashion'. Expected [-1,28,28], got [1,28,27]."),
        "404": _error("No such model, version or variant", "Request for unknown model: 'x' is not found"),
        "415": _error("A Content-Encoding that is not offered", "Content-Encoding: expected gzip, deflate or identity"),
        "413": _error("A size limit was passed", "the body is larger than 67108864 bytes"),
        "422": _error("No variant can ever meet the budget, or the model cannot process the input",
                      "no variant of model 'fashion' reaches min_accuracy 0.99: the nearest feasible is 0.93"),
        "429": _error("Too much load for this budget: see Retry-After", "too much work is queued"),
        "503": _error("Not ready, stopping, or the worker was lost", "the worker was lost before it answered"),
        "504": _error("The deadline could no longer be met", "the deadline could no longer be met"),
        "default": _error("An error", "internal error (request 5f2c-1)"),
    },
}  # fmt: skip
