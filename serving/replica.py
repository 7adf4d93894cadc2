"""One gateway process: families, workers, queue, listeners. The same composition with Ray and without."""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from models.calibrate import Progress
from models.manifest import LatencyProfile
from models.repository import Artifact
from serving.catalog import Catalog
from serving.codec.limits import CodecLimits
from serving.config import LimitSettings, ServerSettings, Settings
from serving.control import ModelControl
from serving.dispatcher import Dispatcher
from serving.door import Door
from serving.engine import Engine, EngineFactory, local_engine
from serving.gateway import Gateway
from serving.holdings import Holdings
from serving.http.doorkeeper import DrainSummary
from serving.http.fdshare import acquire_listener
from serving.http.front import Front, MetricsPage
from serving.http.infer import InferRoute
from serving.http.limits import HttpLimits
from serving.http.pages import build_pages
from serving.http.server import HttpServer
from serving.http2.limits import Http2Limits
from serving.keys import ApiKeys
from serving.lane import Lane
from serving.ledger import Ledger
from serving.load import LoadMeter
from serving.logs import LevelWatch
from serving.metrics import Metrics
from serving.observer import Observer
from serving.ports import VariantBackend
from serving.process_metrics import ProcessMetrics
from serving.run_folder import LEAVING, LISTEN, METRICS, STOCK
from serving.stock import Stock
from serving.tracing import Tracer

if TYPE_CHECKING:
    from serving.grpc.server import GrpcServer

FLUSH_INTERVAL_S = 0.2
"""How old this process's numbers may be on the metrics page of another replica."""
LOOK_INTERVAL_S = 1.0
"""How often the process looks at itself, and for a changed log level."""
STUCK_AFTER_S = 60.0
"""A batch that runs this long has hung its worker: the replica calls itself unhealthy."""

log = logging.getLogger("gearshift.replica")


class UnhealthyError(RuntimeError):
    """The replica should be replaced; the message says why."""


class Replica:
    """A running gateway. Make it with `start`, end it with `stop`."""

    def __init__(
        self,
        settings: Settings,
        gateway: Gateway,
        dispatcher: Dispatcher,
        engine: Engine,
        stock: Stock,
        metrics: Metrics,
        servers: tuple[HttpServer, HttpServer],
        front: Front,
        grpc: "GrpcServer | None" = None,
    ) -> None:
        self.gateway = gateway
        self.front = front
        self.control: ModelControl = stock
        self._stock = stock
        self._settings = settings
        self._dispatcher = dispatcher
        self._engine = engine
        self._metrics = metrics
        self._api, self._metrics_server = servers
        self._grpc = grpc
        self._beat: asyncio.Task[None] | None = None
        self.load = LoadMeter(gateway, dispatcher, settings.autoscaling.window_s, time.monotonic)
        self._tracer: Tracer | None = None

    @classmethod
    async def start(
        cls,
        settings: Settings,
        engine_factory: EngineFactory = local_engine,
        progress: Progress = lambda _: None,
    ) -> "Replica":
        """Load, calibrate, listen. Raises `RepositoryError`, `ManifestError`, or `OSError` for a busy port.

        Must be called in the event loop that is to serve. When it raises, nothing is left behind.
        """
        async with contextlib.AsyncExitStack() as undo:
            engine = await engine_factory(settings, progress)
            undo.push_async_callback(engine.backend.close)
            metrics = Metrics(settings.run_folder / METRICS)
            undo.callback(metrics.close)
            tracer = _tracer(settings, metrics)
            if tracer is not None:
                undo.callback(tracer.close)
            dispatcher = Dispatcher(engine.backend, (), time.monotonic, tracer)
            undo.push_async_callback(dispatcher.close)
            gateway = Gateway((), dispatcher, time.monotonic)
            stock = await asyncio.to_thread(_stock, settings, engine, gateway, metrics)
            undo.push_async_callback(stock.close)
            await stock.open(progress)
            door = Door(gateway, time.monotonic, _observer(settings, tracer))
            infer = InferRoute(gateway, door, _codec_limits(settings.limits), metrics, time.monotonic)
            keys = None
            if settings.server.api_keys_file is not None:
                keys = ApiKeys(settings.server.api_keys_file, time.monotonic)
            front = Front(infer, build_pages(gateway, infer, metrics, stock, settings), keys)
            servers = await cls._listen(settings, front, metrics, undo)
            grpc = await _listen_grpc(settings, gateway, door, metrics, stock, keys, undo)
            replica = cls(settings, gateway, dispatcher, engine, stock, metrics, servers, front, grpc)
            replica._tracer = tracer
            replica.load.read()
            replica._beat = asyncio.create_task(replica._publish())
            stock.start()
            gateway.ready = True
            undo.pop_all()
        log.info("ready", extra={"address": ":".join(map(str, replica.address)), "models": list(gateway.lanes)})
        return replica

    @staticmethod
    async def _listen(
        settings: Settings, front: Front, metrics: Metrics, undo: contextlib.AsyncExitStack
    ) -> tuple[HttpServer, HttpServer]:
        limits = _http_limits(settings.limits)
        servers = []
        for app, port, tls in (
            (front, settings.server.http_port, _tls(settings.server)),
            (MetricsPage(metrics), settings.server.metrics_port, None),
        ):
            listening = await asyncio.to_thread(
                acquire_listener,
                settings.server.host,
                port,
                backlog=settings.server.backlog,
                rendezvous=settings.run_folder / LISTEN,
            )
            server = HttpServer(app, listening, limits, tls=tls)
            undo.push_async_callback(server.close)
            await server.start()
            servers.append(server)
        return servers[0], servers[1]

    @property
    def backend(self) -> VariantBackend:
        """Where its models run."""
        return self._engine.backend

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the API."""
        return self._api.address

    @property
    def metrics_address(self) -> tuple[str, int]:
        """Host and port of the metrics page."""
        return self._metrics_server.address

    @property
    def grpc_address(self) -> tuple[str, int] | None:
        """Host and port of the API over gRPC; None where there is none."""
        return None if self._grpc is None else self._grpc.address

    def check(self) -> None:
        """Raise `UnhealthyError` when this replica should be replaced."""
        age_s = self._dispatcher.oldest_batch_s()
        if age_s > STUCK_AFTER_S:
            raise UnhealthyError(f"a batch has been running for {age_s:.0f} s: a worker hangs")
        if self._beat is None or self._beat.done():
            raise UnhealthyError("the replica has stopped")

    def leave(self) -> None:
        """Not ready from now on, so that load balancers look elsewhere. What comes all the same is served."""
        self.gateway.ready = False
        self._api.begin_leaving()
        if self._grpc is not None:
            self._grpc.begin_leaving()

    async def stop(self) -> DrainSummary:
        """Drain: not ready any more, finish what was accepted, then let go of everything. Bounded in time."""
        self.leave()
        await asyncio.sleep(self._settings.server.lame_duck_s)
        await self._stock.close()
        drain_s = self._settings.server.drain_s
        drains = (
            [self._api.drain(drain_s)] if self._grpc is None else [self._api.drain(drain_s), self._grpc.drain(drain_s)]
        )
        ends = await asyncio.gather(*drains)
        summary = DrainSummary(sum(end.finished for end in ends), sum(end.aborted for end in ends))
        await self._dispatcher.close()
        await self._engine.backend.close()
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.gather(self._beat, return_exceptions=True)
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        self._metrics.close()
        await self._metrics_server.close()
        log.info("stopped", extra={"finished": summary.finished, "aborted": summary.aborted})
        return summary

    async def _publish(self) -> None:
        """Keep the gauges and the files of the metrics fresh."""
        busy_seconds = self._metrics.counter("gearshift_worker_busy_seconds_total")
        workers = self._metrics.counter("gearshift_workers")
        busy = self._metrics.counter("gearshift_workers_busy")
        connections = self._metrics.counter("gearshift_connections")
        process = ProcessMetrics(self._metrics)
        level = LevelWatch(self._settings.run_folder)
        due_s = 0.0
        leaving = self._settings.run_folder / LEAVING
        while True:
            if self.gateway.ready and leaving.exists():
                log.info("the node is asked to leave", extra={"file": str(leaving)})
                self.leave()
            for versions in self.gateway.lanes.values():
                for lane in versions.values():
                    lane.publish_state()
            self._dispatcher.follow()
            workers.value = len(self._dispatcher.workers)
            busy.value = self._dispatcher.workers.busy
            busy_seconds.value = self._dispatcher.busy_s
            connections.value = len(self._api.connections) + (0 if self._grpc is None else len(self._grpc.connections))
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + LOOK_INTERVAL_S
                process.update()
                level.follow()
                self.load.read()
            try:
                self._metrics.flush()
            except OSError as error:  # a full disk must not end serving; the numbers stay in memory
                log.warning("metrics cannot be written: %s", error.strerror)
            await asyncio.sleep(FLUSH_INTERVAL_S)


async def _listen_grpc(
    settings: Settings,
    gateway: Gateway,
    door: Door,
    metrics: Metrics,
    control: ModelControl,
    keys: ApiKeys | None,
    undo: contextlib.AsyncExitStack,
) -> "GrpcServer | None":
    if settings.server.grpc_port == "off":
        return None
    from serving.grpc.assembly import open_office  # the generated code takes half a second to import
    from serving.grpc.server import GrpcServer

    listening = await asyncio.to_thread(
        acquire_listener,
        settings.server.host,
        settings.server.grpc_port,
        backlog=settings.server.backlog,
        rendezvous=settings.run_folder / LISTEN,
    )
    tls = _tls(settings.server)
    if tls is not None:
        tls.set_alpn_protocols(["h2"])
    office = open_office(
        gateway, door, _codec_limits(settings.limits), metrics, time.monotonic, control, settings, keys
    )
    server = GrpcServer(office, listening, _http2_limits(settings.limits), tls=tls)
    undo.push_async_callback(server.close)
    await server.start()
    return server


def _stock(settings: Settings, engine: Engine, gateway: Gateway, metrics: Metrics) -> Stock:
    def lane(artifact: Artifact, profiles: Mapping[str, LatencyProfile]) -> Lane:
        queue_bytes, overhead_s = settings.limits.max_queue_bytes, engine.backend.batch_overhead_s
        demand = settings.autoscaling.demand(artifact.family.name)
        return Lane(
            artifact.family,
            dict(profiles),
            settings.scheduler,
            queue_bytes,
            metrics,
            overhead_s,
            demand,
            settings.cache,
        )

    ledger = Ledger(settings.run_folder / STOCK, settings.models)
    return Stock(settings.models, Catalog(settings.models), ledger, Holdings(engine, gateway, lane, metrics))


def _tracer(settings: Settings, metrics: Metrics) -> Tracer | None:
    if settings.tracing.endpoint is None:
        return None
    from serving.otlp import open_tracer  # the exporter costs memory and a fifth of a second: only those who trace pay

    return open_tracer(settings.tracing, metrics, time.monotonic)


def _observer(settings: Settings, tracer: Tracer | None) -> Observer | None:
    if tracer is None and not settings.log.request_share:
        return None
    return Observer(time.monotonic, tracer, settings.log.request_share)


def _codec_limits(limits: LimitSettings) -> CodecLimits:
    return CodecLimits(
        max_json_bytes=limits.max_json_bytes,
        max_binary_bytes=limits.max_binary_bytes,
        allow_nan=limits.allow_nan,
    )


def _http_limits(limits: LimitSettings) -> HttpLimits:
    return HttpLimits(
        max_connections=limits.max_connections,
        max_header_bytes=limits.max_header_bytes,
        max_headers=limits.max_headers,
        header_timeout_s=limits.header_timeout_s,
        body_timeout_s=limits.body_timeout_s,
        keep_alive_s=limits.idle_timeout_s,
        write_timeout_s=limits.write_timeout_s,
    )


def _http2_limits(limits: LimitSettings) -> Http2Limits:
    return Http2Limits(
        max_connections=limits.max_connections,
        max_streams=limits.max_streams,
        max_header_bytes=limits.max_header_bytes,
        max_headers=limits.max_headers,
        header_timeout_s=limits.header_timeout_s,
        body_timeout_s=limits.body_timeout_s,
        idle_s=limits.idle_timeout_s,
        write_timeout_s=limits.write_timeout_s,
        max_age_s=limits.connection_age_s,
    )


def _tls(settings: ServerSettings) -> ssl.SSLContext | None:
    if settings.tls_certfile is None or settings.tls_keyfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.tls_certfile, settings.tls_keyfile)
    return context
