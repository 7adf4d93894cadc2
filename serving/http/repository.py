"""The repository extension: which models there are, load one, unload one."""

from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from serving.control import IndexEntry, ModelControl
from serving.core.errors import InvalidRequest
from serving.http.body import read_body
from serving.http.schemas import INDEX, answers

MAX_BODY_BYTES = 1024 * 1024
"""Far more than a request without files needs; files are not offered."""
Parameters = dict[str, str | int | bool]

BODY: dict[str, Any] = {
    "requestBody": {"required": False, "content": {"application/json": {"schema": {"type": "object"}}}}
}


def add_repository(app: FastAPI, control: ModelControl) -> None:
    """The three routes of the extension."""

    @app.post(
        "/v2/repository/index",
        tags=["models"],
        summary="The models of the repository and their state",
        responses=answers(INDEX),
        openapi_extra=BODY,
    )
    async def index(request: Request) -> JSONResponse:
        asked = await _document(request)
        ready = asked.get("ready", False)
        if not isinstance(ready, bool):
            raise InvalidRequest("'ready' must be true or false")
        return JSONResponse([_told(entry) for entry in control.index(ready_only=ready)])

    @app.post(
        "/v2/repository/models/{model}/load",
        tags=["models"],
        summary="Load a model, or what the repository has of it now",
        responses=answers(None),
        response_class=Response,
        openapi_extra=BODY,
    )
    async def load(model: str, request: Request) -> Response:
        await control.load(model, _parameters(await _document(request)))
        return Response()

    @app.post(
        "/v2/repository/models/{model}/unload",
        tags=["models"],
        summary="Offer a model no longer; what it has accepted is answered",
        responses=answers(None),
        response_class=Response,
        openapi_extra=BODY,
    )
    async def unload(model: str, request: Request) -> Response:
        _parameters(await _document(request))  # unload_dependents: no model depends on another here
        await control.unload(model)
        return Response()


def _told(entry: IndexEntry) -> dict[str, str]:
    """As Triton tells it: a model that was never looked into has no version and no state."""
    if not entry.version:
        return {"name": entry.name}
    return {"name": entry.name, "version": entry.version, "state": entry.state, "reason": entry.reason}


async def _document(request: Request) -> dict[str, Any]:
    """The body, which may be empty. Raises `InvalidRequest`."""
    content = await read_body(request, MAX_BODY_BYTES)
    if not content.strip():
        return {}
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidRequest("the body must be a JSON object")
    return document


def _parameters(document: dict[str, Any]) -> Parameters:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict) or not all(isinstance(v, str | int | bool) for v in parameters.values()):
        raise InvalidRequest("'parameters' must be an object of texts, whole numbers and booleans")
    return parameters
