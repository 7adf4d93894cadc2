"""What the API answers, as JSON Schema: its documentation, and what the answers are tested against."""

from collections.abc import Mapping
from typing import Any, Final

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]

ERROR_TEXT: Final = "What was wrong, and what was expected."
DATATYPES: Final = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BF16", "BYTES",
)  # fmt: skip


def object_of(properties: Schema, *optional: str, more: bool = False) -> Schema:
    """An object that has all of these keys, but for the optional ones, and no others unless there may be `more`."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": more,
    }


def list_of(items: Schema) -> Schema:
    """An array of such items."""
    return {"type": "array", "items": items}


TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
ANYTHING: Final[Schema] = {"type": "object", "additionalProperties": True}
SHAPE: Final[Schema] = list_of({"type": "integer", "minimum": -1})
TENSOR: Final = object_of({"name": TEXT, "datatype": {"enum": [*DATATYPES]}, "shape": SHAPE})

ERROR: Final = object_of({"error": {"type": "string", "minLength": 1, "description": ERROR_TEXT}})
LIVE: Final = object_of({"live": FLAG})
READY: Final = object_of({"ready": FLAG})
MODEL_READY: Final = object_of({"name": TEXT, "ready": FLAG})
SERVER: Final = object_of({"name": TEXT, "version": TEXT, "extensions": list_of(TEXT)})
MODELS: Final = object_of({"models": list_of(object_of({"name": TEXT, "versions": list_of(TEXT)}))})
METADATA: Final = object_of(
    {
        "name": TEXT,
        "versions": list_of(TEXT),
        "platform": TEXT,
        "inputs": list_of(TENSOR),
        "outputs": list_of(TENSOR),
        "gearshift": {**ANYTHING, "description": "Variants, profiles, default budget, labels, padding."},
    }
)
CONFIG: Final = object_of(
    {
        "name": TEXT,
        "platform": TEXT,
        "backend": TEXT,
        "version_policy": ANYTHING,
        "max_batch_size": COUNT,
        "input": list_of(ANYTHING),
        "output": list_of(ANYTHING),
        "dynamic_batching": ANYTHING,
        "parameters": ANYTHING,
    },
    more=True,
)
TIMED: Final = object_of({"count": COUNT, "ns": COUNT})
_STAGES: Final = ("compute_input", "compute_infer", "compute_output")
STATISTICS: Final = object_of(
    {
        "model_stats": list_of(
            object_of(
                {
                    "name": TEXT,
                    "version": TEXT,
                    "last_inference": {**COUNT, "description": "Milliseconds since 1970; 0 before the first."},
                    "inference_count": {**COUNT, "description": "Rows answered."},
                    "execution_count": {**COUNT, "description": "Batches run."},
                    "inference_stats": object_of(
                        dict.fromkeys(("success", "fail", "queue", *_STAGES, "cache_hit", "cache_miss"), TIMED)
                    ),
                    "response_stats": {**ANYTHING, "description": "Empty: there are no decoupled models."},
                    "batch_stats": list_of(object_of({"batch_size": COUNT, **dict.fromkeys(_STAGES, TIMED)})),
                    "memory_usage": list_of(ANYTHING),
                }
            )
        )
    }
)
TRACE: Final = object_of(
    {
        "trace_level": list_of({"enum": ["OFF", "TIMESTAMPS"]}),
        "trace_rate": {**TEXT, "description": "One of so many requests is traced."},
        "trace_count": TEXT,
        "log_frequency": TEXT,
        "trace_file": TEXT,
        "trace_mode": TEXT,
    }
)
LOGGING: Final = object_of(
    {
        "log_file": TEXT,
        "log_info": FLAG,
        "log_warning": FLAG,
        "log_error": FLAG,
        "log_verbose_level": COUNT,
        "log_format": TEXT,
    }
)
INDEX: Final = list_of(
    object_of({"name": TEXT, "version": TEXT, "state": TEXT, "reason": TEXT}, "version", "state", "reason")
)
NO_REGIONS: Final[Schema] = {"type": "array", "maxItems": 0, "items": ANYTHING}
PARAMETERS: Final[Schema] = {
    "type": "object",
    "additionalProperties": {"anyOf": [FLAG, {"type": "number"}, TEXT]},
}
INFER_REQUEST: Final = object_of(
    {
        "id": TEXT,
        "parameters": PARAMETERS,
        "inputs": list_of(
            object_of(
                {
                    "name": TEXT,
                    "shape": list_of(COUNT),
                    "datatype": {"enum": [*DATATYPES]},
                    "parameters": PARAMETERS,
                    "data": {"type": "array", "description": "Flat or nested, row-major.", "items": {}},
                },
                "parameters",
                "data",
                more=True,
            )
        ),
        "outputs": list_of(object_of({"name": TEXT, "parameters": PARAMETERS}, "parameters", more=True)),
    },
    "id",
    "parameters",
    "outputs",
    more=True,
)
INFER_ANSWER: Final = object_of(
    {
        "model_name": TEXT,
        "model_version": TEXT,
        "id": TEXT,
        "parameters": PARAMETERS,
        "outputs": list_of(
            object_of(
                {
                    "name": TEXT,
                    "shape": list_of(COUNT),
                    "datatype": {"enum": [*DATATYPES]},
                    "parameters": PARAMETERS,
                    "data": {"type": "array", "items": {}},
                },
                "parameters",
                "data",
            )
        ),
    },
    "id",
    "parameters",
)


def answers(schema: Schema | None, also: Mapping[int, Schema] | None = None) -> Responses:
    """The `responses` of one operation: 200 with this schema (None: an empty body), every other status an error.

    `also`: statuses with a body of their own.
    """
    told: Responses = {200: {"description": "The answer"}, "default": _in_json("An error", ERROR)}
    if schema is not None:
        told[200] = _in_json("The answer", schema)
    for status, other in (also or {}).items():
        told[status] = _in_json("Not now", other)
    return told


def _in_json(text: str, schema: Schema) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}
