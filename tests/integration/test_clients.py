"""Published clients, unmodified, in interpreters of their own: each check of a script is one test here.

What is checked stands in `clients/`; the names of the checks are read from there, so none can be forgotten.
"""

import ast
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.integration.harness.servers import ROOT, Server

CLIENTS = Path(__file__).parent / "clients"
KSERVE_PYTHON = ROOT / ".venv-kserve" / "bin" / "python"


def checks_of(script: str) -> list[str]:
    tree = ast.parse((CLIENTS / script).read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [node.name for node in functions if node.name.startswith("check_")]


@cache
def report_of(python: str, script: str, url: str) -> dict[str, str | None]:
    """Run a script once for each server: its checks share the price of starting an interpreter."""
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [python, str(CLIENTS / script), url], capture_output=True, text=True, timeout=110, env=env, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("check", checks_of("triton.py"))
def test_tritonclient(server: Server, check: str) -> None:
    error = report_of(sys.executable, "triton.py", server.url)[check]
    assert error is None, error


@pytest.mark.skipif(not KSERVE_PYTHON.exists(), reason="the environment of the KServe client is not made (make test)")
@pytest.mark.parametrize("check", checks_of("kserve_rest.py"))
def test_kserve_client(inprocess: Server, check: str) -> None:
    error = report_of(str(KSERVE_PYTHON), "kserve_rest.py", inprocess.url)[check]
    assert error is None, error
