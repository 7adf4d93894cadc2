"""What runs a variant: a file in this process, an endpoint elsewhere, or two of the former as one."""

from collections.abc import Mapping
from math import inf
from typing import Protocol

from models.cascade import CascadeRunner
from models.manifest import Variant
from models.remote import RemoteModel
from models.repository import Artifact
from models.session import Tensor


class Runner(Protocol):
    """One variant, ready to answer. `run` may be called from several threads at once."""

    @property
    def waits(self) -> bool:
        """Whether its time passes elsewhere, so that the processor time spent here says nothing about it."""
        ...

    def run(self, inputs: Mapping[str, Tensor], budget_s: float = inf) -> dict[str, Tensor]:
        """All outputs by name. `budget_s` is the time a caller waits, for those who can do with less.

        Raises `ModelRunError` when the model fails on these inputs, `VariantLost` when it cannot run now.
        """
        ...


def open_variant(artifact: Artifact, variant: Variant) -> Runner:
    """What runs one variant. An endpoint is not asked yet: see `RemoteModel.check`.

    Raises `ManifestError`: the file or the settings of the endpoint are not as they must be.
    """
    if variant.remote is not None:
        return RemoteModel(artifact.family, variant.remote)
    if variant.cascade is not None:
        first, then = (artifact.family.variant(name) for name in (variant.cascade.first, variant.cascade.then))
        return CascadeRunner(artifact.load(first), artifact.load(then), variant.cascade)
    return artifact.load(variant)


def open_variants(artifact: Artifact) -> dict[str, Runner]:
    """What runs each variant of a family, by name. A cascade shares the sessions of its two variants.

    Raises `ManifestError` as `open_variant`.
    """
    variants = artifact.family.variants
    runners: dict[str, Runner] = {v.name: open_variant(artifact, v) for v in variants if v.cascade is None}
    for variant in variants:
        if variant.cascade is not None:
            first, then = runners[variant.cascade.first], runners[variant.cascade.then]
            runners[variant.name] = CascadeRunner(first, then, variant.cascade)
    return {variant.name: runners[variant.name] for variant in variants}
