"""What the scheduler may know of variants and workers at the moment it decides."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from models.manifest import Family, LatencyProfile
from serving.core.latency import LatencyModel, LatencyTable


@dataclass(frozen=True, slots=True)
class VariantView:
    """One variant as the scheduler sees it. Variants of a family are indexed in manifest order."""

    index: int
    name: str
    known_accuracy: float | None
    table: LatencyTable
    """As it is believed now: a scheduler's latency model corrects it."""
    knee_rows: int
    """Largest batch worth forming: beyond it a batch only grows slower."""
    energy_mj_per_row: float = 0.0
    elsewhere: bool = False
    """Whether it runs behind an endpoint: its answer may fail to come, and nothing is promised on it alone."""
    cascade: tuple[int, int] | None = None
    """The two variants it consists of, by index: the first, and the one that unsure rows go on to."""

    @property
    def accuracy(self) -> float:
        """The measured accuracy; 1 where nobody measured it, so that answering still has worth."""
        return 1.0 if self.known_accuracy is None else self.known_accuracy


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """The workers at one instant, and what is believed of the load to come."""

    idle: int
    """Batches that may be dispatched right now."""
    free_at_s: tuple[float, ...]
    """When each worker is predicted to be free, rising; an idle one is free now or earlier."""
    arrival_rate: float = 0.0
    """Rows expected a second."""
    horizon_s: float = 0.1
    """How far ahead capacity is weighed: about one latency budget."""
    batch_overhead_s: float = 0.0
    """Worker time a batch takes besides the model: as it was learnt, else as assumed of the backend."""
    overhead_s: float = 0.0
    """Time an answer spends in the gateway besides the queue and the model."""
    share: float = 1.0
    """Part of these workers' time that this model may count on; the rest is other models'."""


def view_variants(
    family: Family, profiles: Mapping[str, LatencyProfile], batch_overhead_s: float = 0.0
) -> tuple[VariantView, ...]:
    """The scheduler's view of a family on this host. `profiles` has one entry a variant.

    `batch_overhead_s` is the processor time a batch costs besides the model: it moves the knees.
    """
    views = []
    places = {variant.name: index for index, variant in enumerate(family.variants)}
    for index, variant in enumerate(family.variants):
        profile, cascade = profiles[variant.name], variant.cascade
        table = LatencyTable(profile.rows, profile.seconds)
        views.append(
            VariantView(
                index=index,
                name=variant.name,
                known_accuracy=variant.accuracy,
                table=table,
                knee_rows=table.knee_rows(batch_overhead_s, family.max_batch_rows if family.batchable else 1),
                energy_mj_per_row=profile.energy_mj_per_row,
                elsewhere=variant.remote is not None,
                cascade=None if cascade is None else (places[cascade.first], places[cascade.then]),
            )
        )
    return tuple(views)


def latency_model(variants: tuple[VariantView, ...]) -> LatencyModel:
    """A fresh latency model over the tables of these variants, which it will correct."""
    elsewhere = [variant.index for variant in variants if variant.elsewhere]
    cascades = {variant.index: variant.cascade for variant in variants if variant.cascade is not None}
    return LatencyModel([variant.table for variant in variants], elsewhere=elsewhere, cascades=cascades)


def own_tables(variants: tuple[VariantView, ...]) -> tuple[VariantView, ...]:
    """The same variants with tables of their own, which a latency model may correct."""
    return tuple(replace(variant, table=variant.table.copy()) for variant in variants)
