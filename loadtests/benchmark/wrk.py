"""Load by `wrk`: its Lua script, its call, and the reading of what it prints."""

import math
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from loadtests.benchmark.load import LoadResult, merge_errors
from loadtests.benchmark.wire import Payload

_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TIME = r"([\d.]+)(us|ms|s|m|h)"
_TOTAL = re.compile(rf"^\s*(\d+) requests in {_TIME},", re.MULTILINE)
_SOCKET_ERRORS = re.compile(r"^\s*Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", re.MULTILINE)
_STATUS_ERRORS = re.compile(r"^\s*Non-2xx or 3xx responses: (\d+)", re.MULTILINE)


class WrkError(RuntimeError):
    """`wrk` failed, or printed what this module cannot read; the message holds its own words."""


def find_wrk() -> str | None:
    """Return the path of an installed `wrk`, or None."""
    return shutil.which("wrk")


def lua_script(body_file: Path, headers: Mapping[str, str]) -> str:
    """Return the script that makes `wrk` POST the bytes of `body_file` with `headers`."""
    lines = [
        'wrk.method = "POST"',
        f'local file = assert(io.open({_quote(str(body_file))}, "rb"))',
        'wrk.body = file:read("*a")',
        "file:close()",
    ]
    lines += [f"wrk.headers[{_quote(name)}] = {_quote(value)}" for name, value in headers.items()]
    return "\n".join(lines) + "\n"


def parse_wrk(text: str) -> LoadResult:
    """Read what `wrk --latency` printed; raises `WrkError` when the totals are not there."""
    total = _TOTAL.search(text)
    if total is None:
        raise WrkError(f"wrk printed no totals: {text.strip()[-500:] or '(nothing)'}")
    requests = int(total[1])
    errors: dict[str, int] = {}
    if sockets := _SOCKET_ERRORS.search(text):
        errors = dict(zip(("connect", "read", "write", "timeout"), map(int, sockets.groups()), strict=True))
    if statuses := _STATUS_ERRORS.search(text):
        errors["status"] = int(statuses[1])
    return LoadResult(
        requests=requests,
        seconds=float(total[2]) * _UNITS_S[total[3]],
        p50_s=_percentile(text, 50) if requests else math.nan,
        p99_s=_percentile(text, 99) if requests else math.nan,
        errors=merge_errors(errors),
    )


class WrkLoad:
    """Closed-loop load by one `wrk` thread: a second one would only take a core from the server."""

    name = "wrk"

    def __init__(self, binary: str, folder: Path, timeout_s: float) -> None:
        self._binary = binary
        self._folder = folder
        self._timeout_s = timeout_s

    def version(self) -> str:
        """Return the name and version that `wrk` gives itself."""
        done = subprocess.run([self._binary, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
        return " ".join(done.stdout.split()[:2]) or self.name

    def run(self, url: str, payload: Payload, connections: int, duration_s: int) -> LoadResult:
        """Load `url` for `duration_s` whole seconds over `connections`; raises `WrkError`."""
        body_file = self._folder / "body.bin"
        script = self._folder / "post.lua"
        body_file.write_bytes(payload.body)
        script.write_text(lua_script(body_file, payload.headers))
        command = [
            self._binary, "--threads", "1", "--connections", str(connections), "--duration", f"{duration_s}s",
            "--timeout", f"{math.ceil(self._timeout_s)}s", "--latency", "--script", str(script), url,
        ]  # fmt: skip
        try:
            done = subprocess.run(  # noqa: S603 - our own words, no shell
                command, capture_output=True, text=True, check=False, timeout=duration_s + self._timeout_s + 10
            )
        except subprocess.TimeoutExpired as error:
            raise WrkError(f"wrk did not end {self._timeout_s + 10:g} s after its window") from error
        if done.returncode != 0:
            raise WrkError(f"wrk ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-500:]}")
        return parse_wrk(done.stdout)


def _percentile(text: str, percent: int) -> float:
    found = re.search(rf"^\s*{percent}%\s+{_TIME}", text, re.MULTILINE)
    if found is None:
        raise WrkError(f"wrk printed no {percent}% latency: was --latency given?")
    return float(found[1]) * _UNITS_S[found[2]]


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
