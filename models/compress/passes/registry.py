"""Every pass by name. A new pass is a file beside this one and a line here."""

import difflib
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType

from models.compress.errors import CompressError
from models.compress.step import Step

PLACES: Mapping[str, str] = MappingProxyType(
    {
        "distill": "Distill",
        "search": "Search",
        "classical": "Classical",
        "simplify": "Simplify",
        "channels": "Channels",
        "low-rank": "LowRank",
        "sparsify": "Sparsify",
        "int8-static": "Int8Static",
        "int8-dynamic": "Int8Dynamic",
        "weight-only": "WeightOnly",
        "half": "Half",
        "fuse": "Fuse",
    }
)
"""Classes by name of the pass, in the order of their stages; each lies in the file that is called like the pass.

They are imported when they are asked for: those that train need PyTorch, the others do without.
"""
NAMES = tuple(PLACES)
NEED_TORCH = frozenset({"distill", "search", "channels"})
"""Those that are nothing without PyTorch. What else trains does so if it is there."""


def passes_called(names: Sequence[str]) -> dict[str, type[Step]]:
    """The passes of those names, in the order of their stages.

    Raises `CompressError` for a name that no pass has, `ModuleNotFoundError` where a library that one needs is not
    installed.
    """
    unknown = [name for name in names if name not in PLACES]
    if unknown:
        near = difflib.get_close_matches(unknown[0], NAMES, n=1, cutoff=0.5)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise CompressError(f"no pass is called '{unknown[0]}'{hint}; there are: {', '.join(NAMES)}")
    found = {}
    for name in NAMES:
        if name in names:
            module = import_module(f"models.compress.passes.{name.replace('-', '_')}")
            each: type[Step] = getattr(module, PLACES[name])
            found[name] = each
    return found
