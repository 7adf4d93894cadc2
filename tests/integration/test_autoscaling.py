"""A step of the load on a real Ray: smaller variants bridge the time until replicas have come, and nobody fails."""

from collections import Counter
from pathlib import Path

import pytest

from tests.integration.harness.servers import Server, running
from tests.integration.harness.sleepy import ACCURACY, Metronome, Told, accuracy, publish_sleepy, sleepy_endpoint

pytestmark = pytest.mark.ray

CALM, STEP = 4.0, 30.0
"""Requests a second. At 60 ms each on the best variant the step is work for 1.8 workers: three replicas at 0.7."""
MOST = 3
RECOVERED = 0.94 * ACCURACY["large"]
"""Most rows get the best variant, and the others the next."""
CHUNK_S = 2.0
CHUNKS = 45
"""Far more than a start of replicas takes on a busy machine."""
SETTINGS = {
    "GEARSHIFT_AUTOSCALING__MAX_REPLICAS": str(MOST),
    "GEARSHIFT_AUTOSCALING__WINDOW_S": "4",
    "GEARSHIFT_AUTOSCALING__UP_DELAY_S": "1",
    "GEARSHIFT_AUTOSCALING__DOWN_DELAY_S": "6",
    "GEARSHIFT_AUTOSCALING__DOWN_COOLDOWN_S": "2",
}


async def play_until(server: Server, callers: Metronome, rate: float, *, workers: int, least: float) -> list[Told]:
    """Send until there are so many workers, and a stretch is answered with at least this accuracy."""
    told: list[Told] = []
    seen = []
    for _ in range(CHUNKS):
        chunk = await callers.play(rate, CHUNK_S)
        told += chunk
        there = server.metric("gearshift_workers")
        seen.append((there, round(accuracy(chunk), 3)))
        if there == workers and accuracy(chunk) >= least:
            return told
    raise AssertionError(f"not {workers} workers at an accuracy of {least}: (workers, accuracy) were {seen}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "topology", [("--workers", "1"), ("--topology", "split", "--workers", "1")], ids=["colocated", "split"]
)
async def test_a_step_is_bridged_by_smaller_variants_until_replicas_are_there(
    topology: tuple[str, ...], profile_cache: Path, tmp_path: Path
) -> None:
    with sleepy_endpoint() as endpoint:
        publish_sleepy(tmp_path / "models", endpoint.url)
        options = ("--models", str(tmp_path / "models"), "--engine", "ray", *topology)
        server = Server("scaled", options, cache=profile_cache, log=tmp_path / "log", env=SETTINGS)
        with running(server):
            async with Metronome((server.host, server.port)) as callers:
                await _step(server, callers)
            assert server.stop() == 0


async def _step(server: Server, callers: Metronome) -> None:
    calm = await callers.play(CALM, 2 * CHUNK_S)
    assert server.metric("gearshift_workers") == 1
    assert accuracy(calm) > ACCURACY["medium"]
    step = await play_until(server, callers, STEP, workers=MOST, least=RECOVERED)
    chunk = int(STEP * CHUNK_S)
    hardest = min(accuracy(step[at : at + chunk]) for at in range(0, len(step), chunk))
    assert 0 < hardest < 0.98 * ACCURACY["large"], "the step hurts first"
    assert server.metric("gearshift_accuracy_forgone_total") > 0
    after = await play_until(server, callers, CALM, workers=1, least=RECOVERED)
    ends = Counter(one.end for one in after)
    assert set(ends) <= set(ACCURACY), f"nobody fails when replicas go: {ends}"
    broken = [one.end for one in step if one.end not in ACCURACY and not one.end.startswith("status")]
    assert not broken, "nobody fails when replicas come"
    refused = sum(1 for one in step if one.end.startswith("status"))
    assert refused <= 0.1 * len(step), "smaller variants bridge the time"
