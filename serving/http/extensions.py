"""Triton's extensions around serving: trace and log settings, shared memory. Supported, or refused in clear words."""

from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from serving.config import Settings, TracingSettings
from serving.core.errors import InvalidRequest, UnknownModel
from serving.gateway import Gateway
from serving.http.body import read_body
from serving.http.schemas import LOGGING, NO_REGIONS, TRACE, answers
from serving.logs import current_level
from serving.triton_settings import (
    NO_SHARED_MEMORY,
    TRACING_FIXED,
    LogChange,
    change_logging,
    log_settings,
    trace_settings,
)

MAX_SETTINGS_BYTES = 16 * 1024
_REGIONS = ("system", "cuda")
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
        return await change_logging(settings.run_folder, read_change(await read_body(request, MAX_SETTINGS_BYTES)))


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

    @app.post(
        f"{base}/unregister",
        tags=tags,
        summary="Nothing is registered",
        responses=answers(None),
        response_class=Response,
    )
    @app.post(
        f"{base}/region/{{name}}/unregister",
        tags=tags,
        summary="Nothing is registered",
        responses=answers(None),
        response_class=Response,
    )
    async def unregister(name: str = "") -> Response:  # noqa: ARG001 - part of the path
        return Response()


def read_change(body: bytes) -> LogChange:
    """The change that a body asks for; an empty one asks for none. Raises `InvalidRequest`."""
    try:
        return _LOG_CHANGE.decode(body or b"{}")
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"log settings: {error}") from None
