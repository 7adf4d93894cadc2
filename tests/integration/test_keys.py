"""A gateway that asks for keys: every door of it, and the callers of the project."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.integration.harness.servers import ROOT, Server, running

KEY = "a-key-for-tests-of-some-length"
SAMPLE = ROOT / "models" / "zoo" / "fashion" / "samples" / "9-ankle-boot.png"


@pytest.fixture(scope="module")
def locked(repository: Path, profile_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that knows one key, and has announced itself in spite of it."""
    folder = tmp_path_factory.mktemp("keys")
    file = folder / "keys"
    file.write_text(f"{KEY}\n")
    options = ("--engine", "inprocess", "--models", str(repository))
    environ = {"GEARSHIFT_SERVER__API_KEYS_FILE": str(file)}
    with running(Server("locked", options, cache=profile_cache, log=folder / "server.log", env=environ)) as server:
        yield server
        assert server.stop() == 0


@pytest.mark.server
def test_nothing_but_health_is_answered_without_a_key(locked: Server) -> None:
    with httpx.Client(base_url=locked.url) as stranger, httpx.Client(base_url=locked.url) as friend:
        friend.headers["x-api-key"] = KEY
        paths = friend.get("/openapi.json").raise_for_status().json()["paths"]
        assert len(paths) > 10
        for path, methods in paths.items():
            for method in methods:
                answer = stranger.request(method, path.format(model="fashion", version="1", variant="linear", name="x"))
                if path in ("/v2/health/live", "/v2/health/ready"):
                    assert answer.status_code == 200
                else:
                    assert (path, answer.status_code) == (path, 401)
                    assert "a key is needed" in answer.json()["error"]
                    assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/docs", "/", "/nowhere", "/v2/health/ready/", "//v2/health/live"):
            assert stranger.get(path).status_code == 401
        stranger.headers["authorization"] = f"Bearer {KEY}x"
        wrong = stranger.post("/v2/models/fashion/infer", content=b"{}", headers={"x-request-id": "mine"})
        assert (wrong.status_code, wrong.headers["x-request-id"]) == (401, "mine")
        assert friend.post("/v2/models/fashion/infer", content=b"{}").status_code == 400


@pytest.mark.server
def test_grpc_asks_for_the_same_key(locked: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{locked.grpc_port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=30).ready
        request = service_pb2.ModelMetadataRequest(name="fashion")
        for metadata in ((), (("authorization", "Bearer wrong"),), (("x-api-key", ""),)):
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelMetadata(request, metadata=metadata, timeout=30)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as refused:
            next(iter(stub.ModelStreamInfer(iter([service_pb2.ModelInferRequest()]), timeout=30)))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        for metadata in ((("authorization", f"Bearer {KEY}"),), (("x-api-key", KEY),)):
            assert stub.ModelMetadata(request, metadata=metadata, timeout=30).name == "fashion"


@pytest.mark.server
def test_the_command_takes_its_key_from_the_environment(locked: Server) -> None:
    command = [sys.executable, "-m", "deployments.cli.main", "infer", "fashion", str(SAMPLE), "--url", locked.url]
    without = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (without.returncode, "401" in without.stderr) == (1, True)
    environ = {"PATH": "", "GEARSHIFT_API_KEY": KEY}
    given = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, env=environ)
    assert given.returncode == 0, given.stderr
    assert "ankle-boot" in given.stdout


def test_a_file_that_cannot_be_used_stops_the_start_with_one_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("short\n")
    command = [sys.executable, "-m", "deployments.cli.main", "serve", "--engine", "inprocess"]
    environ = {"PATH": "", "HOME": str(tmp_path), "GEARSHIFT_SERVER__API_KEYS_FILE": str(file)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, env=environ)
    assert done.returncode == 2
    assert "line 1: expected 16 or more characters" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
