import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_the_shared_suite_holds_for_workers_under_ray() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.contract.ray_backend"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    assert " passed" in ran.stdout
