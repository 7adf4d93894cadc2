"""A gateway around a fake backend and a clock that stands still."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.manifest import Family, LatencyProfile, Remote, TensorSpec, Variant
from serving.config import CacheSettings, SchedulerSettings
from serving.core.budget import RequestBudget
from serving.dispatcher import Dispatcher
from serving.gateway import Call, Gateway, Result
from serving.lane import Lane
from serving.metrics import Metrics, stat
from serving.ports import Tensors
from serving.testing import FakeBackend, ManualClock
from serving.tracing import Trace
from tests.support.spans import Spans
from tests.support.tiny_models import profile

START_S = 1000.0


def tagged_family(name: str = "m", version: str = "1", *, batch_axis: int = -1) -> Family:
    """tag INT64 [-1] in and out; `small` with accuracy 0.6 and `large` with 0.9."""
    tensor = TensorSpec(name="tag", datatype="INT64", shape=(batch_axis,))
    variants = tuple(
        Variant(name=variant, file=f"{variant}.onnx", sha256="0" * 64, size_bytes=1, accuracy=accuracy)
        for variant, accuracy in (("small", 0.6), ("large", 0.9))
    )
    return Family(name=name, version=version, inputs=(tensor,), outputs=(tensor,), variants=variants)


def edge_and_cloud() -> Family:
    """The tagged family with a better model elsewhere: `cloud` with accuracy 0.95."""
    plain = tagged_family()
    cloud = Variant(name="cloud", remote=Remote(url="http://cloud.invalid", model="m"), accuracy=0.95)
    return plain.model_copy(update={"variants": (*plain.variants, cloud)})


PROFILES = {
    "small": profile((1, 1.1, 1.2, 1.3), energy_mj=2.0),
    "large": profile((10, 11, 12, 13), energy_mj=20.0),
    "cloud": profile((20, 21, 22, 23), energy_mj=40.0),
    "both": profile((2, 2.2, 2.4, 2.6), energy_mj=12.0),
}
"""Milliseconds for 1, 2, 4 and 8 rows: batching pays, so that batches form."""


def lane_of(
    metrics: Metrics,
    family: Family | None = None,
    *,
    profiles: dict[str, LatencyProfile] | None = None,
    max_queue_bytes: int = 1 << 20,
    cache: CacheSettings | None = None,
) -> Lane:
    """A lane of the tagged family."""
    family, profiles = family or tagged_family(), profiles or PROFILES
    return Lane(family, profiles, SchedulerSettings(), max_queue_bytes, metrics, cache=cache)


class House:
    """One gateway and everything it is made of. Make it inside a running event loop."""

    def __init__(
        self,
        folder: Path,
        backend: FakeBackend | None = None,
        families: Sequence[Family] | None = None,
        cache: CacheSettings | None = None,
        *,
        traced: bool = False,
    ) -> None:
        self.clock = ManualClock(START_S)
        self.backend = backend or FakeBackend(hold=True)
        self.metrics = Metrics(folder)
        self.lanes = [lane_of(self.metrics, family, cache=cache) for family in families or (tagged_family(),)]
        self.lane = self.lanes[0]
        self.spans = Spans(self.clock)
        self.dispatcher = Dispatcher(self.backend, self.lanes, self.clock, tracer=self.spans.tracer if traced else None)
        self.gateway = Gateway(self.lanes, self.dispatcher, self.clock)

    def call(self, *tags: int, lane: Lane | None = None, **rest: object) -> asyncio.Task[Result]:
        """Send a request whose rows carry these tags; `rest` as for `call_of`."""
        return asyncio.get_running_loop().create_task(
            self.gateway.infer(lane or self.lane, call_of(self.clock(), *tags, **rest))  # type: ignore[arg-type]
        )

    async def close(self) -> None:
        """End everything, and let go of the files."""
        await self.dispatcher.close()
        self.metrics.close()

    async def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(20):
            await asyncio.sleep(0)

    def count(self, outcome: str) -> float:
        """Requests counted with this outcome."""
        self.metrics.flush()
        return stat(self.metrics.collect(), "gearshift_outcome_total", outcome=outcome)

    def counts(self) -> dict[str, float]:
        """Every outcome that was counted at least once."""
        names = ("met", "late", "rejected", "expired", "cancelled", "failed")
        return {name: found for name in names if (found := self.count(name))}


def rows_of(*tags: int) -> Tensors:
    """Inputs whose rows are their tags."""
    return {"tag": np.array(tags, np.int64)}


def call_of(
    now_s: float,
    *tags: int,
    latency_s: float = 1.0,
    variant: str | None = None,
    min_accuracy: float | None = None,
    max_energy_mj: float | None = None,
    group: str | None = None,
    size: int = 0,
    trace: Trace | None = None,
) -> Call:
    """A call received now."""
    budget = RequestBudget(latency_s, min_accuracy, max_energy_mj, variant=variant)
    return Call(rows_of(*tags), len(tags), budget, now_s, size_bytes=size, group=group, trace=trace)
