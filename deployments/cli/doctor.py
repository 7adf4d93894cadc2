"""`gearshift doctor`: what of this machine would keep Gearshift from running well."""

import contextlib
import importlib.metadata
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import psutil
import typer
from rich.table import Table

from deployments.cli.common import ConfigOption, JsonOption, out, print_json, size_text
from models.repository import RepositoryError
from models.session import onnxruntime
from serving.catalog import open_catalog
from serving.config import Settings, cgroup_cores, cgroup_memory_bytes, load_settings, usable_cores

Status = Literal["ok", "warn", "fail"]
MIN_MEMORY_BYTES = 2_000_000_000
PACKAGES = ("onnxruntime", "ray", "uvicorn", "fastapi", "prometheus-client", "numpy", "msgspec")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    what: str
    status: Status
    found: str
    remedy: str = ""


def doctor(
    models: Annotated[
        Path | None, typer.Option("--models", help="Repository to look at too.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Check cores and limits, memory, ports, ONNX Runtime, Ray, folders and versions. Exit code 1 if one fails."""
    settings = load_settings(config, overrides={"models": {"repository": models}})
    findings = list(_examine(settings))
    failed = any(finding.status == "fail" for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        for finding in findings:
            mark = f"[{colours[finding.status]}]{finding.status}[/]"
            remedy = f"\n[dim]{finding.remedy}[/dim]" if finding.remedy else ""
            table.add_row(mark, finding.what, f"{finding.found}{remedy}")
        out.print(table)
    if failed:
        raise typer.Exit(1)


def _examine(settings: Settings) -> Iterator[Finding]:
    yield _python()
    yield _cores(settings)
    yield _memory()
    yield _runtime()
    yield _ray(settings)
    server = settings.server
    ports = [("API port", server.http_port), ("metrics port", server.metrics_port)]
    if server.grpc_port != "off":
        ports.insert(1, ("gRPC port", server.grpc_port))
    for what, port in ports:
        yield _port(what, settings.server.host, port)
    yield _exposure(settings)
    for what, folder in (("runtime folder", settings.engine.runtime_dir), ("profile cache", settings.models.cache_dir)):
        yield _folder(what, folder)
    yield _models(settings)
    yield _versions()


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding("Python", "ok" if good else "fail", found, "" if good else "use Python 3.11 or 3.12")


def _cores(settings: Settings) -> Finding:
    host, quota, usable = os.cpu_count() or 1, cgroup_cores(), usable_cores()
    found = f"{usable} usable of {host}" + (f", cgroup quota {quota:g}" if quota else ", no cgroup quota")
    workers = settings.thread_workers() * settings.engine.replicas
    if settings.engine.topology == "colocated" and workers > usable:
        remedy = "more workers than cores slow each other down: set engine.workers lower"
        return Finding("cores", "warn", f"{found}; {workers} workers", remedy)
    if quota and quota < 1:
        return Finding("cores", "warn", found, "less than one core: batches will be throttled in the middle")
    return Finding("cores", "ok", found)


def _memory() -> Finding:
    limit = cgroup_memory_bytes()
    total = limit or psutil.virtual_memory().total
    found = f"{size_text(total)}{' (cgroup limit)' if limit else ''}"
    if total < MIN_MEMORY_BYTES:
        return Finding("memory", "warn", found, "Ray alone takes about 0.5 GB: use --engine inprocess")
    return Finding("memory", "ok", found)


def _runtime() -> Finding:
    ort = onnxruntime()
    providers = ort.get_available_providers()
    found = f"ONNX Runtime {ort.__version__}, providers: {', '.join(providers)}"
    if "CPUExecutionProvider" not in providers:
        return Finding("ONNX Runtime", "fail", found, "install a build with the CPU provider")
    quiet = os.environ.get("ORT_DISABLE_TELEMETRY") == "1"
    status: Status = "ok" if quiet else "warn"
    return Finding("ONNX Runtime", status, f"{found}; telemetry {'off' if quiet else 'ON'}")


def _ray(settings: Settings) -> Finding:
    try:
        found = f"Ray {importlib.metadata.version('ray')}"
    except importlib.metadata.PackageNotFoundError:
        return Finding("Ray", "fail", "not installed", "install the locked requirements, or use --engine inprocess")
    if settings.engine.kind == "ray" and not os.access(Path.home(), os.W_OK):
        return Finding("Ray", "fail", f"{found}; {Path.home()} is not writable", "Ray writes below HOME: set another")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        return Finding("Ray", "warn", f"{found}; RAY_ADDRESS is set", "gearshift serve starts its own, and ignores it")
    return Finding("Ray", "ok", found)


def _port(what: str, host: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            remedy = (
                "another server (or this one) runs there: choose another with --http-port, --grpc-port, --metrics-port"
            )
            return Finding(what, "warn", f"{host}:{port}: {error.strerror}", remedy)
    return Finding(what, "ok", f"{host}:{port} is free")


def _exposure(settings: Settings) -> Finding:
    host = settings.server.host
    if host in ("127.0.0.1", "::1", "localhost"):
        return Finding("exposure", "ok", "loopback only")
    if settings.server.api_keys_file is None:
        remedy = "whoever connects is served: set server.api_keys_file, or put a proxy in front"
        return Finding("exposure", "warn", f"listens on {host}", remedy)
    if settings.server.tls_certfile is None:
        remedy = "keys travel in the clear: set server.tls_certfile, or put a proxy in front"
        return Finding("exposure", "warn", f"listens on {host}, asks for keys", remedy)
    return Finding("exposure", "ok", f"listens on {host}, asks for keys, speaks TLS")


def _folder(what: str, folder: Path) -> Finding:
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if os.access(nearest, os.W_OK | os.X_OK):
        free = psutil.disk_usage(str(nearest)).free
        status: Status = "ok" if free > 100_000_000 else "warn"
        return Finding(what, status, f"{folder}, {size_text(free)} free")
    return Finding(what, "fail", f"{folder} is not writable", "set engine.runtime_dir or models.cache_dir")


def _models(settings: Settings) -> Finding:
    try:
        artifacts = open_catalog(settings.models)
    except RepositoryError as error:
        return Finding("models", "fail", str(error))
    names = ", ".join(f"{artifact.key} ({len(artifact.family.variants)} variants)" for artifact in artifacts)
    return Finding("models", "ok", names)


def _versions() -> Finding:
    found = []
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return Finding("versions", "ok", ", ".join(found))
