"""Everything but inference: health, metadata, configuration, statistics, documentation. FastAPI carries it."""

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from serving.core.errors import GearshiftError
from serving.gateway import Gateway
from serving.http import openapi
from serving.http.describe import config_of, metadata_of, statistics_of
from serving.http.errors import error_headers, status_of
from serving.http.infer import InferRoute
from serving.metrics import Metrics

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "statistics", "gearshift_budget"]


def build_pages(gateway: Gateway, infer: InferRoute, metrics: Metrics) -> FastAPI:
    """The FastAPI application of one gateway. The inference route is in it for its documentation, and works."""
    app = FastAPI(title="Gearshift", version=version("gearshift"), description=openapi.DESCRIPTION)
    _add_errors(app)
    _add_health(app, gateway)
    _add_models(app, gateway, metrics)
    _add_inference(app, infer)
    return app


def _add_health(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/v2/health/live", tags=["health"], summary="Whether the server runs")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", tags=["health"], summary="Whether all models can be called")
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": gateway.ready}, status_code=200 if gateway.ready else 503)

    @app.get("/v2", tags=["server"], summary="Name, version and protocol extensions")
    async def server() -> dict[str, Any]:
        return {"name": "gearshift", "version": version("gearshift"), "extensions": EXTENSIONS}


def _add_models(app: FastAPI, gateway: Gateway, metrics: Metrics) -> None:
    @app.get("/v2/models", tags=["models"], summary="The served models")
    async def models() -> dict[str, Any]:
        return {"models": [{"name": name, "versions": list(found)} for name, found in gateway.lanes.items()]}

    @app.get("/v2/models/stats", tags=["models"], summary="Statistics of all models")
    async def all_statistics() -> dict[str, Any]:
        metrics.flush()
        families = metrics.collect()
        lanes = [lane for versions in gateway.lanes.values() for lane in versions.values()]
        return {"model_stats": [statistics_of(lane, families) for lane in lanes]}

    @app.get("/v2/models/{model}", tags=["models"], summary="Inputs, outputs, variants and their profiles")
    @app.get("/v2/models/{model}/versions/{version}", tags=["models"], include_in_schema=False)
    async def metadata(model: str, version: str | None = None) -> dict[str, Any]:
        lane = gateway.lane(model, version)
        return metadata_of(lane, list(gateway.lanes[model]))

    @app.get("/v2/models/{model}/ready", tags=["models"], summary="Whether the model can be called")
    @app.get("/v2/models/{model}/versions/{version}/ready", tags=["models"], include_in_schema=False)
    async def model_ready(model: str, version: str | None = None) -> JSONResponse:
        gateway.lane(model, version)
        return JSONResponse({"name": model, "ready": gateway.ready}, status_code=200 if gateway.ready else 503)

    @app.get("/v2/models/{model}/config", tags=["models"], summary="The model's configuration, as Triton tells it")
    @app.get("/v2/models/{model}/versions/{version}/config", tags=["models"], include_in_schema=False)
    async def config(model: str, version: str | None = None) -> dict[str, Any]:
        return config_of(gateway.lane(model, version))

    @app.get("/v2/models/{model}/stats", tags=["models"], summary="The model's statistics, as Triton tells them")
    @app.get("/v2/models/{model}/versions/{version}/stats", tags=["models"], include_in_schema=False)
    async def statistics(model: str, version: str | None = None) -> dict[str, Any]:
        lanes = list(gateway.lanes[gateway.lane(model).family.name].values())
        wanted = lanes if version is None else [gateway.lane(model, version)]
        metrics.flush()
        families = metrics.collect()
        return {"model_stats": [statistics_of(lane, families) for lane in wanted]}

    @app.post("/v2/repository/index", tags=["models"], summary="The models of the repository and their state")
    async def index() -> list[dict[str, str]]:
        state = "READY" if gateway.ready else "UNAVAILABLE"
        return [
            {"name": name, "version": number, "state": state, "reason": ""}
            for name, versions in gateway.lanes.items()
            for number in versions
        ]


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
