"""Debian's Prometheus: its rule checker, and a server of a test's own."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

READY_WITHIN_S = 60.0
POLL_S = 0.1


def needed(name: str) -> str:
    """The path of `promtool` or `prometheus`. Skips the test where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus")
    return found


def promtool(*arguments: str, text: bytes | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool; what it said is in stdout and stderr."""
    done = subprocess.run([needed("promtool"), *arguments], input=text, capture_output=True, timeout=60, check=False)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


class Prometheus:
    """A running server."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Instant vector of an expression. An error of the server fails the test with its text."""
        return self._result("/api/v1/query", query=expression)

    def get(self, path: str, **parameters: str | float) -> Any:
        """The data of an answer of the API."""
        answer = self._client.get(path, params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def _result(self, path: str, **parameters: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.get(path, **parameters)["result"]
        return result


@contextlib.contextmanager
def serving(config: Path, port: int, *options: str) -> Iterator[Prometheus]:
    """A ready Prometheus on loopback. Its data and its log lie beside its configuration; it ends with the block."""
    log = config.with_suffix(".log")
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                needed("prometheus"), f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}",
                f"--storage.tsdb.path={config.parent / 'tsdb'}", *options,
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        deadline_s = time.monotonic() + READY_WITHIN_S
        while True:
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise AssertionError(f"Prometheus does not serve:\n{log.read_text()[-3000:]}")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/-/ready", timeout=5).status_code == 200:
                    break
            time.sleep(POLL_S)
        with httpx.Client(base_url=url, timeout=30) as client:
            yield Prometheus(client)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
