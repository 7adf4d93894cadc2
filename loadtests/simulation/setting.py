"""What is simulated besides the load: gateways, workers, and what is assumed of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtests.durations import Overhead


@dataclass(frozen=True, slots=True)
class Fleet:
    """Gateways and workers, as the settings of a live server count them."""

    workers: int = 2
    """Of each gateway when colocated; in all when split."""
    gateways: int = 1
    split: bool = False
    two_choices: bool = False
    """Whether batches go to the less loaded of two workers, whoever they belong to, instead of where they were booked.
    """
    staleness_s: float = 0.0
    """Age of what a gateway knows of the batches that others sent to shared workers."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of the models, as the setting `scheduler.weights`."""

    @property
    def total_workers(self) -> int:
        """Batches that run at the same time, over all gateways."""
        return self.workers if self.split else self.workers * self.gateways


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Settings of the simulated gateways, with the defaults of the live ones."""

    plan_quantile: float = 0.9
    max_queue_bytes: int = 256 * 1024 * 1024
    batch_overhead_s: float = 0.0002
    """What the schedulers think a batch costs besides the model; the backends assume 0.0002 s, split 0.001 s."""
    overhead: Overhead = field(default_factory=Overhead)
    noise: bool = True
    """Whether service times vary; without, every batch takes its median."""
