"""`gearshift serve`: start, tell where to call, drain on Ctrl-C."""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from math import prod
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
import uvloop
from rich.status import Status

from deployments.cli.common import ConfigOption, err, out, variant_table
from models.manifest import TensorSpec
from serving.catalog import open_catalog
from serving.config import Settings, load_settings
from serving.http.fdshare import ListenError
from serving.keys import first_key, read_keys
from serving.logs import configure_logs
from serving.run_folder import LOGS, claimed
from serving.threads import outlast

INLINE_ELEMENTS = 32
THREADS_END_S = 1.0
"""For threads that load or measure a model when the server is stopped."""


def serve(
    model: Annotated[
        Path | None,
        typer.Argument(help="One .onnx file to serve as it is. Default: --models.", show_default=False),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            "--models", help="Folder of families, or its URL. Default: the demo families.", show_default=False
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the single file is called.", show_default=False)] = None,
    engine: Annotated[
        str | None, typer.Option(help="ray: replicas under Ray Serve. inprocess: no Ray.", show_default="ray")
    ] = None,
    topology: Annotated[
        str | None,
        typer.Option(help="colocated: models run in the gateway. split: in workers.", show_default="colocated"),
    ] = None,
    replicas: Annotated[int | None, typer.Option(help="Gateway replicas.", show_default="1")] = None,
    min_replicas: Annotated[
        int | None, typer.Option(help="Fewest replicas of an autoscaled server.", show_default="those started")
    ] = None,
    max_replicas: Annotated[
        int | None, typer.Option(help="Scale with the load, up to so many replicas.", show_default="no autoscaling")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Batches at the same time.", show_default="one a core")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of the API.", show_default="8000")] = None,
    grpc_port: Annotated[
        str | None, typer.Option(help="Port of the API over gRPC, or off.", show_default="8001")
    ] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics.", show_default="8002")] = None,
    config: ConfigOption = None,
) -> None:
    """Serve models until Ctrl-C; then finish what was accepted, and leave nothing behind.

    Every option is also a setting (see docs/configuration.md): a TOML file named by --config, or an environment
    variable such as GEARSHIFT_SERVER__HTTP_PORT=8080.
    """
    if model is not None and models is not None:
        raise typer.BadParameter("give one .onnx file or --models, not both")
    settings = load_settings(
        config,
        overrides={
            "server": {"host": host, "http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port},
            "engine": {"kind": engine, "topology": topology, "replicas": replicas, "workers": workers},
            "autoscaling": {"min_replicas": min_replicas, "max_replicas": max_replicas},
            "models": {"repository": model or models, "name": name},
        },
    )
    configure_logs(settings.log)
    if settings.server.api_keys_file is not None:
        read_keys(settings.server.api_keys_file)
    settings = _with_ports(settings)
    open_catalog(settings.models)  # what cannot be served should fail here, at once, and not in a replica
    with out.status("starting") as status:
        try:
            code = _run(settings, status)
        except (ListenError, RuntimeError) as error:
            status.stop()
            message = error.strerror if isinstance(error, ListenError) and error.strerror else str(error)
            err.print(f"gearshift: {message}", style="red", markup=False)
            code = 1
    if not outlast(THREADS_END_S):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)


def _with_ports(settings: Settings) -> Settings:
    """Ports of 0 become free ones now: all replicas must agree on them."""
    chosen = {}
    for key in ("http_port", "grpc_port", "metrics_port"):
        if getattr(settings.server, key) == 0:
            with socket.create_server((settings.server.host, 0)) as probe:
                chosen[key] = probe.getsockname()[1]
    return settings.model_copy(update={"server": settings.server.model_copy(update=chosen)})


def _run(settings: Settings, status: Status) -> int:
    with claimed(settings.run_folder):
        return _run_engine(settings, status)


def _run_engine(settings: Settings, status: Status) -> int:
    if settings.engine.kind == "inprocess":
        code: int = uvloop.run(_inprocess(settings, status))
        return code
    from deployments.server import run_on_ray  # Ray takes a second to import

    return run_on_ray(settings, status.update, lambda: _announce(settings, status))


async def _inprocess(settings: Settings, status: Status) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    from serving.replica import Replica  # the web framework takes half a second to import

    def progress(text: str) -> None:
        if stop.is_set():  # loading and measuring run in a thread, which only it can end
            raise InterruptedError("asked to stop while starting")
        status.update(text)

    starting = asyncio.ensure_future(Replica.start(settings, progress=progress))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return 0
    replica = await starting
    await asyncio.to_thread(_announce, settings, status)
    await stopping
    out.print("draining")
    summary = await replica.stop()
    out.print(f"stopped: {summary.finished} requests finished, {summary.aborted} cut")
    return 0


def _announce(settings: Settings, status: Status) -> None:
    """Print where to call and what is served, as the running server itself tells it."""
    server = settings.server
    host = _reachable(server.host)
    scheme = "http" if server.tls_certfile is None else "https"
    url = f"{scheme}://{host}:{server.http_port}"
    keys = settings.server.api_keys_file
    headers = {} if keys is None else {"authorization": f"Bearer {first_key(keys)}"}
    with httpx.Client(base_url=url, timeout=10, verify=False, headers=headers) as client:  # noqa: S501 - our own server
        described = {
            model["name"]: client.get(f"/v2/models/{model['name']}").raise_for_status().json()
            for model in client.get("/v2/models").raise_for_status().json()["models"]
        }
    status.stop()
    for name, model in described.items():
        out.print(variant_table(f"{name} {model['gearshift']['version']}", model["gearshift"]["variants"]))
        out.print()
    out.print(f"API      {url}    (documentation: {url}/docs)", highlight=False)
    if server.grpc_port != "off":
        out.print(f"gRPC     {host}:{server.grpc_port}", highlight=False)
    out.print(f"metrics  http://{host}:{server.metrics_port}/metrics", highlight=False)
    if settings.engine.kind == "ray":
        out.print(f"logs     {settings.run_folder / LOGS}", highlight=False)
    out.print()
    for name, model in described.items():
        out.print(example_call(url, name, model), soft_wrap=True, highlight=False, markup=False)
    out.print("\nCtrl-C stops it.", style="dim")


def example_call(url: str, name: str, model: dict[str, Any]) -> str:
    """A shell line that calls the model with zeros and works as it stands.

    Small inputs are written out; for large ones Python, which is at hand, writes the request.
    """
    specs = [TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in model["inputs"]]
    shapes = [[1 if dim == -1 else dim for dim in spec.shape] for spec in specs]
    target = f"{url}/v2/models/{name}/infer"
    if sum(prod(shape) for shape in shapes) <= INLINE_ELEMENTS:
        inputs = [
            {"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": [_zero(spec)] * prod(shape)}
            for spec, shape in zip(specs, shapes, strict=True)
        ]
        return f"curl -s {target} -d '{json.dumps({'inputs': inputs})}'"
    inputs_code = ", ".join(
        f'{{"name": "{spec.name}", "shape": {shape}, "datatype": "{spec.datatype}", '
        f'"data": [{_zero(spec)!r}] * {prod(shape)}}}'.replace("'", '"')
        for spec, shape in zip(specs, shapes, strict=True)
    )
    code = f'import json; print(json.dumps({{"inputs": [{inputs_code}]}}))'
    return f"python3 -c '{code}' | curl -s {target} -d @-"


def _zero(spec: TensorSpec) -> bool | int | str:
    match spec.datatype:
        case "BOOL":
            return False
        case "BYTES":
            return "text"
        case _:
            return 0


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - compared, not bound
