"""Shell blocks of a page that are marked `run`: run against a real server, and their answers kept in the page.

`python -m docs.examples` rewrites the answers; the tests run the same blocks, and hold the answers against real ones.
"""

import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs.blocks import ROOT, plain_environment

PAGES = ("README.md", "docs/protocol.md")
DOCUMENTED_URL = "http://127.0.0.1:8000"
START_LIMIT_S = 60.0
RUN_LIMIT_S = 30.0

_EXAMPLE = re.compile(
    r"```sh run\n(?P<script>.*?)```\n"
    r"(?:\n<!-- answer -->\n```(?P<form>json|text)\n(?P<answer>.*?)```\n)?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Example:
    """One block, and the answer the page shows for it, if it shows one."""

    script: str
    form: str | None
    answer: str | None


def examples(page: str) -> list[Example]:
    """The runnable blocks of a page's text, in order."""
    return [Example(match["script"], match["form"], match["answer"]) for match in _EXAMPLE.finditer(page)]


def run(script: str, url: str, folder: Path) -> str:
    """What the block prints when it is run in `folder`, with `url` for the documented one. Raises when it fails."""
    gearshift = Path(sys.executable).parent / "gearshift"
    script = script.replace(".venv/bin/gearshift infer", f".venv/bin/gearshift infer --url {url}")
    script = script.replace(".venv/bin/gearshift", str(gearshift)).replace(DOCUMENTED_URL, url)
    done = subprocess.run(  # noqa: S603 - our own pages
        ["/bin/bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode} of\n{script}\n{done.stderr}")
    return done.stdout


@contextmanager
def running_server(runtime_dir: Path, cache_dir: Path) -> Iterator[str]:
    """A gateway of the demo family in a process of its own, on free ports; gives its URL and stops it in the end."""
    environment = plain_environment() | {
        "GEARSHIFT_ENGINE__RUNTIME_DIR": str(runtime_dir),
        "GEARSHIFT_MODELS__CACHE_DIR": str(cache_dir),
    }
    command = [sys.executable, "-m", "deployments.cli.main", "serve", "--engine", "inprocess"]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(  # noqa: S603 - our own words
            [*command, "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True,
        ) as process,
    ):  # fmt: skip
        impatience = threading.Timer(START_LIMIT_S, process.kill)
        impatience.start()
        try:
            url = _told_url(process)
            if url is None:
                errors.seek(0)
                raise RuntimeError(f"the server did not start:\n{errors.read()}")
            impatience.cancel()
            yield url
        finally:
            impatience.cancel()
            process.terminate()
            try:
                process.wait(timeout=RUN_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def folded(document: Any) -> str:
    """JSON for a page: indented, with short objects and arrays of numbers on one line each."""

    def fold(value: Any, indent: str) -> str:
        flat = json.dumps(value, ensure_ascii=False)
        if len(indent) + len(flat) <= 100 or not isinstance(value, dict | list) or not value:
            return flat
        if isinstance(value, list) and all(isinstance(item, int | float) for item in value):
            return flat
        deeper = indent + "  "
        if isinstance(value, dict):
            items = [f"{deeper}{json.dumps(key)}: {fold(item, deeper)}" for key, item in value.items()]
            return "{\n" + ",\n".join(items) + f"\n{indent}}}"
        return "[\n" + ",\n".join(deeper + fold(item, deeper) for item in value) + f"\n{indent}]"

    return fold(document, "")


def prepare(folder: Path) -> None:
    """What the blocks expect in their working folder: the demo's images, and an ONNX file of the reader's own."""
    family = ROOT / "models" / "zoo" / "families" / "fashion" / "1"
    (folder / "models").symlink_to(ROOT / "models")
    (folder / "model.onnx").write_bytes(min(family.glob("*.onnx")).read_bytes())


def main() -> int:
    """Run every block that shows an answer, and write the answers into the pages."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "work"
        folder.mkdir()
        prepare(folder)
        with running_server(Path(scratch) / "run", Path(scratch) / "cache") as url:
            for page in PAGES:
                path = ROOT / page
                text = path.read_text(encoding="utf-8")
                path.write_text(_EXAMPLE.sub(lambda match: _answered(match, url, folder), text), encoding="utf-8")
                sys.stdout.write(f"{page}: answers written\n")
    return 0


def _answered(match: re.Match[str], url: str, folder: Path) -> str:
    if match["form"] is None:
        return match[0]
    run(match["script"], url, folder)  # the second answer is shown: the first call of a kind takes longer
    told = run(match["script"], url, folder)
    text = folded(json.loads(told)) if match["form"] == "json" else "\n".join(map(str.rstrip, told.splitlines()))
    return f"```sh run\n{match['script']}```\n\n<!-- answer -->\n```{match['form']}\n{text}\n```\n"


def _told_url(process: subprocess.Popen[str]) -> str | None:
    """The URL the server prints once it answers; None if it ended before."""
    if process.stdout is None:
        return None
    for line in process.stdout:
        words = line.split()
        if words[:1] == ["API"]:
            return words[1]
    return None


if __name__ == "__main__":
    raise SystemExit(main())
