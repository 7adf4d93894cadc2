"""What the manifests promise of a lost head: gateways serve on, and a new head finds them by its state in Redis."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.integration.harness.servers import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

ISOLATED = "ip link set lo up && exec {python} -m tests.integration.harness.lost_head"


def why_not() -> str | None:
    missing = [name for name in ("redis-server", "unshare", "ip") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if os.geteuid() != 0:
        return "only root may make a network namespace"
    ran = subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    return None if ran.returncode == 0 else "no network namespaces here"


def test_gateways_serve_on_without_a_head_and_the_next_one_finds_them() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    ran = subprocess.run(
        ["unshare", "--net", "sh", "-c", ISOLATED.format(python=sys.executable)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["failures"] == []
    assert told["answered"] > told["alone"] > 10
    assert told["after"] == told["before"] != []
