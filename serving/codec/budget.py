"""A request's budget as written on the wire: protocol parameters, and the same names as headers."""

import re
from collections.abc import Mapping
from math import isfinite

from models.manifest import Prefer
from serving.codec.envelope import Parameter
from serving.core.budget import RequestBudget
from serving.core.errors import InvalidRequest

LATENCY, ACCURACY, ENERGY, PREFER, VARIANT = (
    "latency_budget_ms",
    "min_accuracy",
    "max_energy_mj",
    "prefer",
    "variant",
)
HEADERS = {
    spelling.encode(): name
    for name in (LATENCY, ACCURACY, ENERGY, PREFER, VARIANT)
    for spelling in (name, name.replace("_", "-"))
}
"""Header name -> parameter. Some proxies drop headers with underscores, so dashes will do too."""

MAX_LATENCY_MS = 3_600_000.0
MAX_PRIORITY = 2**31
_LATENCY_IN_JSON = re.compile(rb'"latency_budget_ms"\s*:\s*([0-9.eE+-]{1,32})')


def read_budget(
    default: RequestBudget, parameters: Mapping[str, Parameter], headers: Mapping[str, str] | None = None
) -> RequestBudget:
    """The budget of one request: its parameters over its headers over the family's default.

    `headers` by parameter name. Triton's `timeout` (microseconds, 0: none) is a latency budget where no
    `latency_budget_ms` is given; its `priority` orders requests of equal deadline. Raises `InvalidRequest`.
    """
    if not parameters and not headers:
        return default
    said: dict[str, Parameter] = {**headers} if headers else {}
    said.update(parameters)
    latency_ms = _number(said, LATENCY, most=MAX_LATENCY_MS)
    if latency_ms is None and (timeout_us := _number(said, "timeout", most=MAX_LATENCY_MS * 1e3, zero=True)):
        latency_ms = timeout_us / 1e3
    floor = _number(said, ACCURACY, most=1.0, zero=True)
    energy = _number(said, ENERGY, most=1e12)
    variant = said.get(VARIANT)
    if variant is not None and not isinstance(variant, str):
        raise InvalidRequest(f"parameter '{VARIANT}': expected the name of a variant")
    return RequestBudget(
        latency_s=default.latency_s if latency_ms is None else latency_ms / 1e3,
        min_accuracy=default.min_accuracy if floor is None else floor,
        max_energy_mj=default.max_energy_mj if energy is None else energy,
        prefer=_prefer(said, default),
        variant=default.variant if variant is None else variant,
        priority=int(_number(said, "priority", most=MAX_PRIORITY, zero=True) or 0),
    )


def peek_latency_s(body: bytes, headers: Mapping[str, str] | None, default: RequestBudget) -> float | None:
    """The latency budget of a request that is not parsed yet; None where only parsing can tell."""
    found = _LATENCY_IN_JSON.search(body) if b'"latency_budget_ms"' in body else None
    said: dict[str, Parameter] = {**headers} if headers else {}
    if found is not None:
        said[LATENCY] = found[1].decode()
    elif b'"timeout"' in body:
        return None
    try:
        latency_ms = _number(said, LATENCY, most=MAX_LATENCY_MS)
    except InvalidRequest:
        return None
    return default.latency_s if latency_ms is None else latency_ms / 1e3


def _prefer(said: Mapping[str, Parameter], default: RequestBudget) -> Prefer:
    value = said.get(PREFER)
    match value:
        case None:
            return default.prefer
        case "accuracy" | "latency" | "energy":
            return value
        case _:
            raise InvalidRequest(f"parameter '{PREFER}': expected accuracy, latency or energy")


def _number(said: Mapping[str, Parameter], name: str, *, most: float, zero: bool = False) -> float | None:
    """A finite number in (0, most], or [0, most]; None where nothing is said. Headers hold it as text."""
    value = said.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = -1.0
    if isinstance(value, bool) or not isfinite(value) or not (value >= 0 if zero else value > 0) or value > most:
        raise InvalidRequest(f"parameter '{name}': expected a number {'>=' if zero else '>'} 0 and <= {most:g}")
    return value
