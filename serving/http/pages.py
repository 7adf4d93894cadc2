"""Everything but inference: health, metadata, configuration, statistics, documentation. FastAPI carries it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from serving.config import Settings
from serving.control import ModelControl
from serving.core.errors import GearshiftError
from serving.gateway import Gateway
from serving.http import openapi, schemas
from serving.http.describe import EXTENSIONS, config_of, metadata_of, statistics_of
from serving.http.errors import error_headers, status_of
from serving.http.extensions import add_extensions
from serving.http.infer import InferRoute
from serving.http.repository import add_repository
from serving.http.schemas import Responses, answers
from serving.lane import Lane
from serving.metrics import Metrics

Handler = Callable[..., Awaitable[Any]]


def build_pages(
    gateway: Gateway, infer: InferRoute, metrics: Metrics, control: ModelControl, settings: Settings
) -> FastAPI:
    """The FastAPI application of one gateway. The inference route is in it for its documentation, and works."""
    app = FastAPI(title="Gearshift", version=version("gearshift"), description=openapi.DESCRIPTION)
    _add_errors(app)
    _add_health(app, gateway)
    _add_models(app, gateway, metrics)
    add_repository(app, control)
    _add_inference(app, infer)
    add_extensions(app, gateway, settings)
    return app


def _add_health(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/v2/health/live", tags=["health"], summary="Whether the server runs", responses=answers(schemas.LIVE))
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get(
        "/v2/health/ready",
        tags=["health"],
        summary="Whether all models can be called",
        responses=answers(schemas.READY, {503: schemas.READY}),
    )
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": gateway.ready}, status_code=200 if gateway.ready else 503)

    @app.get("/v2", tags=["server"], summary="Name, version and protocol extensions", responses=answers(schemas.SERVER))
    async def server() -> dict[str, Any]:
        return {"name": "gearshift", "version": version("gearshift"), "extensions": [*EXTENSIONS]}


def _versioned(app: FastAPI, path: str, summary: str, responses: Responses) -> Callable[[Handler], Handler]:
    """Register a page below a model, and the same below each of its versions."""

    def register(handler: Handler) -> Handler:
        for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            app.get(base + path, tags=["models"], summary=summary, responses=responses)(handler)
        return handler

    return register


async def _statistics(lanes: Sequence[Lane], metrics: Metrics) -> dict[str, Any]:
    """Of these lanes, over all replicas of the node. Files are read, so it happens beside the event loop."""
    metrics.flush()
    families = await asyncio.to_thread(metrics.collect)
    return {"model_stats": [statistics_of(lane, families) for lane in lanes]}


def _add_models(app: FastAPI, gateway: Gateway, metrics: Metrics) -> None:
    @app.get("/v2/models", tags=["models"], summary="The served models", responses=answers(schemas.MODELS))
    async def models() -> dict[str, Any]:
        return {"models": [{"name": name, "versions": list(found)} for name, found in gateway.lanes.items()]}

    @app.get(
        "/v2/models/stats",
        tags=["models"],
        summary="Statistics of all models",
        responses=answers(schemas.STATISTICS),
    )
    async def all_statistics() -> dict[str, Any]:
        return await _statistics([lane for versions in gateway.lanes.values() for lane in versions.values()], metrics)

    @_versioned(app, "", "Inputs, outputs, variants and their profiles", answers(schemas.METADATA))
    async def metadata(model: str, version: str | None = None) -> dict[str, Any]:
        lane = gateway.lane(model, version)
        return metadata_of(lane, list(gateway.lanes[model]))

    @_versioned(
        app, "/ready", "Whether the model can be called", answers(schemas.MODEL_READY, {503: schemas.MODEL_READY})
    )
    async def model_ready(model: str, version: str | None = None) -> JSONResponse:
        gateway.lane(model, version)
        return JSONResponse({"name": model, "ready": gateway.ready}, status_code=200 if gateway.ready else 503)

    @_versioned(app, "/config", "The model's configuration, as Triton tells it", answers(schemas.CONFIG))
    async def config(model: str, version: str | None = None) -> dict[str, Any]:
        return config_of(gateway.lane(model, version))

    @_versioned(app, "/stats", "The model's statistics, as Triton tells them", answers(schemas.STATISTICS))
    async def statistics(model: str, version: str | None = None) -> dict[str, Any]:
        lanes = list(gateway.lanes[gateway.lane(model).family.name].values())
        wanted = lanes if version is None else [gateway.lane(model, version)]
        return await _statistics(wanted, metrics)


def _add_inference(app: FastAPI, infer: InferRoute) -> None:
    async def call(request: Request) -> Response:
        return _Delegate(infer, request)

    app.add_api_route(
        "/v2/models/{model}/infer",
        call,
        methods=["POST"],
        tags=["inference"],
        summary="Answer with the best variant the budget allows",
        description=openapi.INFER_DESCRIPTION,
        openapi_extra=openapi.INFER,
    )
    app.add_api_route(
        "/v2/models/{model}/versions/{version}/infer",
        call,
        methods=["POST"],
        tags=["inference"],
        summary="The same, with one version of the model",
        openapi_extra=openapi.INFER,
    )


class _Delegate(Response):
    """A response that an ASGI application writes itself."""

    def __init__(self, app: Callable[..., Awaitable[None]], request: Request) -> None:
        super().__init__()
        self._app = app
        self._request = request

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - the body is read through the request
        await self._app(scope, self._request.receive, send)


def _add_errors(app: FastAPI) -> None:
    """Every path answers errors as {"error": ...}, also those the framework finds."""

    @app.exception_handler(GearshiftError)
    async def ours(request: Request, error: GearshiftError) -> JSONResponse:  # noqa: ARG001
        headers = {name.decode(): value.decode() for name, value in error_headers(error)}
        return JSONResponse({"error": str(error)}, status_code=status_of(error), headers=headers)

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> JSONResponse:
        text = {404: f"no such path: {request.scope['path'][:200]}", 405: "method not allowed on this path"}
        message = text.get(error.status_code, str(error.detail))
        return JSONResponse({"error": message}, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:  # noqa: ARG001
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return JSONResponse({"error": problems}, status_code=422)
