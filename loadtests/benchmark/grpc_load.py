"""Load over gRPC: by `h2load` where it is installed, else by grpcio in processes of its own.

The calls are spread over a few connections, as several callers would make them: one connection would reach one
replica only. `h2load` looks at HTTP's status alone, so answers without content, as errors of gRPC are, are told by
what was transferred.
"""

import asyncio
import multiprocessing
import re
import shutil
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from tritonclient.grpc import service_pb2

from loadtests.benchmark.load import LoadResult, merge_errors, percentile
from loadtests.benchmark.wire import GRPC_PREFIX_BYTES, INFER_METHOD, Payload
from loadtests.benchmark.wrk import WrkError

CONNECTIONS = 4
"""Connections at most."""
_TIMEOUT_S = 30.0
_MISSING_SHARE = 0.05
_REQUESTS = re.compile(r"^requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", re.MULTILINE)
_DATA = re.compile(r"\((\d+)\) data$", re.MULTILINE)


def find_h2load() -> str | None:
    """Return the path of an installed `h2load`, or None."""
    return shutil.which("h2load")


class H2loadLoad:
    """Closed-loop load by one thread of `h2load`."""

    name = "h2load"

    def __init__(self, binary: str, folder: Path) -> None:
        self._binary = binary
        self._folder = folder

    def run(self, url: str, payload: Payload, connections: int, duration_s: int) -> LoadResult:
        """Keep `connections` calls open for `duration_s` whole seconds; raises `WrkError`."""
        target = _target(url)
        answer_bytes = len(_call_once(target, payload)) + GRPC_PREFIX_BYTES
        body, log = self._folder / "grpc.bin", self._folder / "h2load.log"
        body.write_bytes(payload.body)
        log.unlink(missing_ok=True)
        clients = min(CONNECTIONS, connections)
        headers = [word for name, value in payload.headers.items() for word in ("--header", f"{name}: {value}")]
        command = [
            self._binary, "--clients", str(clients), "--max-concurrent-streams", str(connections // clients),
            "--threads", "1", "--duration", str(duration_s), "--warm-up-time", "0", "--data", str(body),
            "--log-file", str(log), *headers, f"http://{target}{INFER_METHOD}",
        ]  # fmt: skip
        try:
            done = subprocess.run(  # noqa: S603 - our own words, no shell
                command, capture_output=True, text=True, check=False, timeout=duration_s + _TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise WrkError(f"h2load did not end {_TIMEOUT_S:g} s after its window") from error
        return parse_h2load(done.stdout + done.stderr, log.read_text(encoding="ascii"), duration_s, answer_bytes)


def parse_h2load(text: str, log: str, duration_s: float, answer_bytes: int) -> LoadResult:
    """Read what `h2load` printed and logged; raises `WrkError`. `answer_bytes`: of one right answer."""
    requests, data = _REQUESTS.search(text), _DATA.search(text)
    if requests is None or data is None:
        raise WrkError(f"h2load printed no totals: {text.strip()[-500:] or '(nothing)'}")
    latencies_s = sorted(int(line.split("\t")[2]) / 1e6 for line in log.splitlines())
    count = len(latencies_s)
    empty = max(0, round(count - int(data[1]) / answer_bytes))
    return LoadResult(
        requests=count,
        seconds=duration_s,
        p50_s=percentile(latencies_s, 0.50),
        p99_s=percentile(latencies_s, 0.99),
        errors=merge_errors({"status": int(requests[4]) + (empty if empty > _MISSING_SHARE * count else 0)}),
    )


class GrpcioLoad:
    """The bundled generator: grpcio's asyncio client in two processes. Several times slower than `h2load`."""

    name = "grpcio"

    def run(self, url: str, payload: Payload, connections: int, duration_s: int) -> LoadResult:
        """Keep `connections` calls open for `duration_s`."""
        shares = [connections] if connections == 1 else [connections - connections // 2, connections // 2]
        context = multiprocessing.get_context("spawn")
        with context.Pool(len(shares)) as pool:
            parts = pool.starmap(_closed_loop, [(_target(url), payload.body, share, duration_s) for share in shares])
        latencies_s = sorted(latency_s for found, _ in parts for latency_s in found)
        errors = sum(failed for _, failed in parts)
        return LoadResult(
            requests=len(latencies_s),
            seconds=duration_s,
            p50_s=percentile(latencies_s, 0.50),
            p99_s=percentile(latencies_s, 0.99),
            errors=merge_errors({"status": errors}),
        )


def _closed_loop(target: str, body: bytes, calls: int, duration_s: float) -> tuple[list[float], int]:
    return asyncio.run(_call_for(target, body[GRPC_PREFIX_BYTES:], calls, duration_s))


async def _call_for(target: str, message: bytes, calls: int, duration_s: float) -> tuple[list[float], int]:
    latencies_s: list[float] = []
    failed = 0
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary(INFER_METHOD)
        await channel.channel_ready()
        end_s = time.monotonic() + duration_s

        async def forever() -> None:
            nonlocal failed
            while (started_s := time.monotonic()) < end_s:
                try:
                    await call(message, timeout=_TIMEOUT_S)
                except grpc.aio.AioRpcError:
                    failed += 1
                latencies_s.append(time.monotonic() - started_s)

        await asyncio.gather(*(forever() for _ in range(calls)))
    return latencies_s, failed


def _call_once(target: str, payload: Payload) -> bytes:
    """One call; raises `WrkError` where it fails. The answer, for its length."""
    with grpc.insecure_channel(target) as channel:
        try:
            answer = channel.unary_unary(INFER_METHOD)(payload.body[GRPC_PREFIX_BYTES:], timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise WrkError(f"gRPC: {error}") from error
    service_pb2.ModelInferResponse.FromString(answer)
    return bytes(answer)


def _target(url: str) -> str:
    return urlsplit(url).netloc
