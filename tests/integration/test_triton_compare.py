"""The same conversation with Triton and with Gearshift: what differs is listed in docs/protocol.md, with a reason.

Triton is the one that PyTriton brings, in an environment of its own (make triton-compare).
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from docs.triton_differences import DIFFERENCES
from tests.integration.harness.conversation import Step, differences, say, steps
from tests.integration.harness.servers import ROOT, Server, eventually, free_port

PYTHON = ROOT / ".venv-triton" / "bin" / "python"
SCRIPT = Path(__file__).parent / "clients" / "pytriton_server.py"
UP_WITHIN_S = 120.0
STEPS = list(steps())

pytestmark = [
    pytest.mark.skipif(not PYTHON.exists(), reason="PyTriton's environment is not made (make triton-compare)"),
    pytest.mark.timeout(UP_WITHIN_S + 120),
]


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of Triton."""
    log = tmp_path_factory.mktemp("triton") / "triton.log"
    port = free_port()
    # Its model processes load Python as a library; it has to be this one's.
    asked = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    libraries = subprocess.run([PYTHON, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [PYTHON, SCRIPT, *map(str, (port, free_port(), free_port()))],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"LD_LIBRARY_PATH": libraries},
        )
    try:
        eventually("Triton is up", lambda: "\nup\n" in log.read_text(errors="replace"), UP_WITHIN_S)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            yield client
    finally:
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def gearshift(inprocess: Server) -> Iterator[httpx.Client]:
    """A client of ours."""
    with httpx.Client(base_url=inprocess.url, timeout=30, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("step", STEPS, ids=[step.name for step in STEPS])
def test_the_answers_are_alike_or_the_difference_is_listed(
    triton: httpx.Client, gearshift: httpx.Client, step: Step
) -> None:
    found = differences(step, say(triton, step), say(gearshift, step))
    if step.name in DIFFERENCES:
        assert found, "the list says that it differs"
    else:
        assert not found, "\n".join(found)


def test_only_steps_of_the_conversation_are_listed() -> None:
    assert DIFFERENCES.keys() <= {step.name for step in STEPS}
