"""Triton's extensions around serving: trace and log settings, shared memory. Supported, or refused in clear words."""

import asyncio
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from serving.config import Settings, TracingSettings
from serving.core.errors import InvalidRequest, UnknownModel
from serving.gateway import Gateway
from serving.http.schemas import LOGGING, NO_REGIONS, TRACE, answers
from serving.logs import current_level, set_level

MAX_SETTINGS_BYTES = 16 * 1024
TRACING_FIXED = "trace settings are made when the server starts, in section [tracing] of its configuration"
NO_SHARED_MEMORY = "shared memory is not offered: send tensors in the request, in binary form where size matters"
_REGIONS = ("system", "cuda")


class LogChange(msgspec.Struct):
    """Log settings a caller wants changed; what is absent stays."""

    log_file: str = ""
    log_info: bool | None = None
    log_warning: bool | None = None
    log_error: bool | None = None
    log_verbose_level: int | None = None
    log_format: str = "default"


_LOG_CHANGE = msgspec.json.Decoder(LogChange)


def add_extensions(app: FastAPI, gateway: Gateway, settings: Settings) -> None:
    """The routes of these extensions."""
    _add_trace(app, gateway, settings.tracing)
    _add_logging(app, settings)
    for kind in _REGIONS:
        _add_shared_memory(app, kind)


def _add_trace(app: FastAPI, gateway: Gateway, tracing: TracingSettings) -> None:
    @app.get(
        "/v2/trace/setting", tags=["observability"], summary="Whether requests are traced", responses=answers(TRACE)
    )
    async def trace() -> dict[str, Any]:
        return trace_settings(tracing)

    @app.get(
        "/v2/models/{model}/trace/setting",
        tags=["observability"],
        summary="Whether requests to a model are traced",
        responses=answers(TRACE),
    )
    async def model_trace(model: str) -> dict[str, Any]:
        gateway.lane(model)
        return trace_settings(tracing)

    @app.post("/v2/trace/setting", tags=["observability"], summary="Refused", responses=answers(TRACE))
    async def set_trace() -> dict[str, Any]:
        raise InvalidRequest(TRACING_FIXED)

    @app.post("/v2/models/{model}/trace/setting", tags=["observability"], summary="Refused", responses=answers(TRACE))
    async def set_model_trace(model: str) -> dict[str, Any]:
        gateway.lane(model)
        raise InvalidRequest(TRACING_FIXED)


def _add_logging(app: FastAPI, settings: Settings) -> None:
    @app.get("/v2/logging", tags=["observability"], summary="What is logged", responses=answers(LOGGING))
    async def logging() -> dict[str, Any]:
        return log_settings(current_level())

    @app.post(
        "/v2/logging",
        tags=["observability"],
        summary="Change what is logged, in every gateway of the node",
        responses=answers(LOGGING),
    )
    async def set_logging(request: Request) -> dict[str, Any]:
        level = changed_level(current_level(), await _body(request))
        await asyncio.to_thread(set_level, settings.run_folder, level)
        return log_settings(level)


def _add_shared_memory(app: FastAPI, kind: str) -> None:
    """Status and unregistering are true without any region; registering one is refused."""
    base = f"/v2/{kind}sharedmemory"
    tags: list[Any] = ["shared memory"]

    @app.get(f"{base}/status", tags=tags, summary=f"Registered {kind} regions: none", responses=answers(NO_REGIONS))
    async def status() -> list[dict[str, Any]]:
        return []

    @app.get(f"{base}/region/{{name}}/status", tags=tags, summary="There is none", responses=answers(NO_REGIONS))
    async def region(name: str) -> Response:
        raise UnknownModel(f"Unable to find {kind} shared memory region: '{name[:80]}'")

    @app.post(f"{base}/region/{{name}}/register", tags=tags, summary="Refused", responses=answers(NO_REGIONS))
    async def register(name: str) -> Response:  # noqa: ARG001 - part of the path
        raise InvalidRequest(NO_SHARED_MEMORY)

    @app.post(f"{base}/unregister", tags=tags, summary="Nothing is registered", responses=answers(None))
    @app.post(f"{base}/region/{{name}}/unregister", tags=tags, summary="Nothing is registered", responses=answers(None))
    async def unregister(name: str = "") -> Response:  # noqa: ARG001 - part of the path
        return Response()


def trace_settings(tracing: TracingSettings) -> dict[str, Any]:
    """What is traced, in Triton's words."""
    on = tracing.endpoint is not None and tracing.sample_ratio > 0
    return {
        "trace_level": ["TIMESTAMPS" if on else "OFF"],
        "trace_rate": str(round(1 / tracing.sample_ratio) if tracing.sample_ratio else 0),
        "trace_count": "-1",
        "log_frequency": "0",
        "trace_file": "",
        "trace_mode": "opentelemetry",
    }


def log_settings(level: str) -> dict[str, Any]:
    """What is logged from that level on, in Triton's words."""
    return {
        "log_file": "",
        "log_info": level in ("debug", "info"),
        "log_warning": level != "error",
        "log_error": True,
        "log_verbose_level": int(level == "debug"),
        "log_format": "default",
    }


def changed_level(level: str, body: bytes) -> str:
    """The level after a change in Triton's words. Unknown settings are ignored, as Triton does.

    Raises `InvalidRequest` for what is not offered: a file, a format, or severities without those above them.
    """
    try:
        change = _LOG_CHANGE.decode(body or b"{}")
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"log settings: {error}") from None
    if change.log_file:
        raise InvalidRequest("log file location can not be updated through network protocol")
    if change.log_format != "default":
        raise InvalidRequest("log_format: expected default; the format is chosen when the server starts")
    told = log_settings(level)
    wanted = {name: getattr(change, name) for name in told}
    told |= {name: value for name, value in wanted.items() if value is not None}
    if change.log_info is not None and not change.log_info and change.log_verbose_level is None:
        told["log_verbose_level"] = 0  # verbose lines are less severe than those that were just switched off
    ladder = [told["log_verbose_level"] > 0, told["log_info"], told["log_warning"], told["log_error"]]
    if ladder != sorted(ladder):
        raise InvalidRequest(
            "log settings: expected every severity above the least one that is logged: "
            "log_error with log_warning, both with log_info, all with a log_verbose_level above 0"
        )
    if not ladder[-1]:
        raise InvalidRequest("log_error: errors are always logged")
    return ("debug", "info", "warning", "error")[ladder.index(True)]


async def _body(request: Request) -> bytes:
    """A small body. Raises `InvalidRequest` for a large one."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_SETTINGS_BYTES:
            raise InvalidRequest(f"expected at most {MAX_SETTINGS_BYTES} bytes of settings")
    return body
