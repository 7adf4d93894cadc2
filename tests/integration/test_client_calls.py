"""Every call of every published client, unmodified and in a process of its own: the table in docs/protocol.md.

What each found must be what docs/clients.json says, of which `python -m docs.generate` makes the table. After a
change, WRITE_CLIENTS=1 writes the file anew instead.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from docs.client_table import CLIENTS, FOUND, Cells, Found
from tests.integration.harness.servers import ROOT, Server, running

SCRIPTS = Path(__file__).parent / "clients"
KSERVE_PYTHON = ROOT / ".venv-kserve" / "bin" / "python"
PERF = ROOT / ".venv-perf"
NOT_LOADED = "lookup"
"""Left for the clients to load."""
CALLS_WITHIN_S = 300.0
MEASURED_WITHIN_S = 60.0
PERF_OPTIONS = ("--measurement-mode", "count_windows", "--measurement-request-count", "40", "-s", "999", "-r", "5")
"""A short measurement that calls anything stable: how fast a busy machine is does not matter here."""
METRICS = "{metrics}"
PERF_CELLS: dict[str, tuple[str, ...]] = {
    "one request at a time": ("--sync",),
    "asynchronous, 4 at a time": ("--async", "--concurrency-range", "4"),
    "steps of concurrency": ("--concurrency-range", "1:3:2"),
    "constant rate": ("--request-rate-range", "100"),
    "batches of 8": ("-b", "8"),
    "percentiles, one version": ("--percentile", "95", "-x", "1"),
    "tensors in JSON": ("--input-tensor-format", "json", "--output-tensor-format", "json"),
    "compressed calls": ("--grpc-compression-algorithm", "gzip"),
    "stream": ("--streaming", "--async"),
    "server metrics": ("--collect-metrics", "--verbose-csv", "-f", os.devnull, "--metrics-url", METRICS),
    "shared memory": ("--shared-memory", "system"),
    "trace": ("--trace-level", "TIMESTAMPS", "--trace-rate", "5"),
}
PERF_BUDGET = {
    "http": ("-H", "latency-budget-ms:30000"),
    "grpc": ("--request-parameter", "latency_budget_ms:30000:int"),
}
"""The program ends at the first request that is not answered, as one might not be on a busy machine."""
PERF_ONLY = {"tensors in JSON": "http", "compressed calls": "grpc", "stream": "grpc"}

pytestmark = pytest.mark.timeout(CALLS_WITHIN_S + 120)


@pytest.fixture(scope="module")
def server(repository: Path, profile_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose models may be loaded and unloaded by its callers."""
    models = sorted(folder.name for folder in repository.iterdir() if folder.is_dir() and folder.name != NOT_LOADED)
    env = {"GEARSHIFT_MODELS__CONTROL": "explicit", "GEARSHIFT_MODELS__LOAD": ",".join(models)}
    log = tmp_path_factory.mktemp("clients") / "server.log"
    options = ("--models", str(repository), "--engine", "inprocess")
    with running(Server("clients", options, cache=profile_cache, log=log, env=env)) as server:
        yield server
        assert server.stop() == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_no_call_fails(server: Server, client: str) -> None:
    failing = {call: text for call, (state, text) in tried(server, client)["calls"].items() if state == "failing"}
    assert not failing, "\n".join(f"{call}: {text}" for call, text in failing.items())


@pytest.mark.parametrize("client", CLIENTS)
def test_the_table_says_what_was_found(server: Server, client: str) -> None:
    found = tried(server, client)
    if os.environ.get("WRITE_CLIENTS"):
        known = json.loads(FOUND.read_text(encoding="utf-8")) if FOUND.exists() else {}
        known[client] = found
        FOUND.write_text(json.dumps({name: known[name] for name in CLIENTS if name in known}, indent=1) + "\n", "utf-8")
    assert json.loads(FOUND.read_text(encoding="utf-8"))[client] == json.loads(json.dumps(found))


@cache
def tried(server: Server, client: str) -> Found:
    """What a client found, asked once."""
    name, _, flavour = client.partition(" ")
    target = grpc_target(server) if "grpc" in client.lower() else f"{server.host}:{server.port}"
    if name == "perf_analyzer":
        return measured(server, flavour.lower(), target)
    if name == "kserve":
        if not KSERVE_PYTHON.exists():
            pytest.skip("the environment of the KServe client is not made (make test)")
        where = target if flavour == "gRPC" else server.url
        return called(str(KSERVE_PYTHON), "kserve_calls.py", flavour.lower(), where)
    return called(sys.executable, "triton_calls.py", name.removeprefix("tritonclient."), target)


def called(python: str, script: str, *arguments: str) -> Found:
    command = [python, str(SCRIPTS / script), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=CALLS_WITHIN_S, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: Found = json.loads(done.stdout.splitlines()[-1])
    return report


def measured(server: Server, protocol: str, target: str) -> Found:
    """perf_analyzer's own cells: one short measurement for each way it can be asked for."""
    program = PERF / "bin" / "perf_analyzer"
    if not program.exists():
        pytest.skip("the environment of perf_analyzer is not made (make test)")
    metrics = f"{server.host}:{server.metrics_port}/metrics"
    cells: Cells = {}
    for cell, options in PERF_CELLS.items():
        if PERF_ONLY.get(cell, protocol) != protocol:
            continue
        done = subprocess.run(
            [
                str(program),
                "-m",
                "fashion",
                "-u",
                target,
                "-i",
                protocol,
                *PERF_OPTIONS,
                *PERF_BUDGET[protocol],
                *(option.format(metrics=metrics) for option in options),
            ],
            capture_output=True,
            text=True,
            timeout=MEASURED_WITHIN_S,
            env=environment() | {"LD_LIBRARY_PATH": str(PERF / "shared")},
            check=False,
        )
        cells[cell] = outcome_of(done)
    (package,) = PERF.glob("lib/python*/site-packages/tritonclient-*.dist-info")
    return {"version": package.name.removeprefix("tritonclient-").removesuffix(".dist-info"), "calls": cells}


def outcome_of(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """A measurement is one when it counted inferences and their time inside the server."""
    said = done.stdout + done.stderr
    if done.returncode == 0 and "throughput: " in done.stdout and "compute infer" in done.stdout:
        return "works", ""
    refusals = [line for line in said.splitlines() if "is not offered" in line or "when the server starts" in line]
    if done.returncode and refusals:
        return "refused", refusals[0].removeprefix("error: ").partition(": ")[2]
    return "failing", said[-2000:]


def grpc_target(server: Server) -> str:
    return f"{server.host}:{server.grpc_port}"


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
