"""Every pass by name. A new pass is a file beside this one and a line here."""

from collections.abc import Mapping
from types import MappingProxyType

from models.compress.passes.channels import Channels
from models.compress.passes.classical import Classical
from models.compress.passes.distill import Distill
from models.compress.passes.fuse import Fuse
from models.compress.passes.half import Half
from models.compress.passes.int8_dynamic import Int8Dynamic
from models.compress.passes.int8_static import Int8Static
from models.compress.passes.low_rank import LowRank
from models.compress.passes.search import Search
from models.compress.passes.simplify import Simplify
from models.compress.passes.sparsify import Sparsify
from models.compress.passes.weight_only import WeightOnly
from models.compress.step import Step

PASSES: Mapping[str, type[Step]] = MappingProxyType(
    {
        each.name: each
        for each in (
            Distill,
            Search,
            Classical,
            Simplify,
            Channels,
            LowRank,
            Sparsify,
            Int8Static,
            Int8Dynamic,
            WeightOnly,
            Half,
            Fuse,
        )
    }
)
"""Passes by name, in the order of their stages."""
