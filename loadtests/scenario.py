"""A load scenario: who asks for what, when, and of how many workers. One TOML file for simulated and live runs.

Strict: a key that is not known stops the reading, with the nearest right name.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from loadtests.arrivals import Phase
from models.manifest import Fraction, Name, PositiveMs, Prefer
from serving.config import AutoscalingSettings
from serving.core.budget import RequestBudget

SHARE_TOLERANCE = 1e-6
"""Shares written with a few digits add up to 1 only about."""
_PLAINER: Mapping[str, str] = {
    "missing": "is missing",
    "tuple_type": "expected a list: [[...]] before each table, or [...] around them",
    "model_type": "expected a table",
}
"""What the file's author is told instead of the validator's words."""


class ScenarioError(ValueError):
    """A scenario that cannot be run; the message names the file, the field and what was expected."""


@dataclass(frozen=True, slots=True)
class RowShare:
    """Requests of `rows` rows are this share of their class."""

    rows: int
    share: float


def _row_shares(value: object) -> tuple[RowShare, ...]:
    """`4`, or a table such as `{1 = 0.8, 4 = 0.2}`."""
    table = {str(value): 1.0} if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(table, dict) or not table:
        raise ValueError("expected a number of rows, or shares such as {1 = 0.8, 4 = 0.2}")
    shares = []
    for rows, share in table.items():
        if not re.fullmatch(r"[1-9][0-9]{0,8}", rows):
            raise ValueError(f"'{rows}' is not a number of rows of 1 or more")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ValueError(f"the share of {rows} rows must be a number above 0 and at most 1, not {share!r}")
        shares.append(RowShare(int(rows), float(share)))
    total = sum(item.share for item in shares)
    if abs(total - 1) > SHARE_TOLERANCE:
        raise ValueError(f"the shares must add up to 1; they add up to {total:g}")
    return tuple(sorted(shares, key=lambda item: item.rows))


def _beside_scenario(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError("expected the path of a file")
    return Path((info.context or {}).get("folder", "")) / value


def _trace_file(value: object, info: ValidationInfo) -> Path:
    given = (info.context or {}).get("trace")
    return given if isinstance(given, Path) else _beside_scenario(value, info)


Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1024)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: Any) -> Any:
        names = [field.alias or name for name, field in cls.model_fields.items()]
        for key in values if isinstance(values, dict) else ():
            if key not in names:
                close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
                hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(names)}"
                raise ValueError(f"there is no key '{key}'; {hint}")
        return values


class PhaseEntry(_Strict):
    """A stretch of time with its own rate: `factor` times the base rate, or a straight line `from` .. `to`."""

    duration_s: Seconds
    factor: Factor | None = None
    start: Annotated[Factor | None, Field(alias="from")] = None
    to: Factor | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.start is None) != (self.to is None) or (self.factor is None) == (self.to is None):
            raise ValueError("give either 'factor', or 'from' and 'to'")
        return self

    def phase(self) -> Phase:
        """As the arrival processes take it."""
        if self.factor is not None:
            return Phase(self.duration_s, self.factor, self.factor)
        return Phase(self.duration_s, self.start or 0.0, self.to or 0.0)


class _Steered(_Strict):
    rate: Positive | None = None
    """Requests a second."""
    load: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None
    """The same as a fraction of what all workers do with the smallest variant of each model, batched to its knee."""
    # Not strict about the container: TOML gives lists, and a frozen object keeps tuples.
    phases: Annotated[tuple[PhaseEntry, ...], Field(strict=False)] = ()
    """How the rate changes; after the last phase it stays as it is then. None: steady."""

    @model_validator(mode="after")
    def _check_rate(self) -> Self:
        if (self.rate is None) == (self.load is None):
            raise ValueError("give either 'rate' (requests/s) or 'load' (fraction of capacity)")
        if self.phases and not any(phase.factor or phase.start or phase.to for phase in self.phases):
            raise ValueError("phases: every factor is 0, so nothing would ever arrive")
        return self


class PoissonArrivals(_Steered):
    """Independent callers: exponential gaps."""

    kind: Literal["poisson"]


class GammaArrivals(_Steered):
    """Bursty callers: gamma-distributed gaps."""

    kind: Literal["gamma"]
    cv2: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
    """Variance of the gaps over their squared mean: 1 is Poisson, above it comes in bursts."""


class TraceArrivals(_Strict):
    """A recorded trace, played faster by `compression`, or as fast as `rate` or `load` asks on average."""

    kind: Literal["trace"]
    file: Annotated[Path, BeforeValidator(_trace_file)]
    """CSV file; a relative path starts at the scenario's folder."""
    column: str | None = None
    """Name of the column of timestamps. Default: the first column."""
    compression: Positive | None = None
    rate: Positive | None = None
    load: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(value is not None for value in (self.compression, self.rate, self.load)) != 1:
            raise ValueError("give exactly one of 'compression', 'rate' (requests/s) and 'load' (fraction of capacity)")
        return self


def _kind(value: Any) -> str:
    return str(value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None))


Arrivals = Annotated[
    Annotated[PoissonArrivals, Tag("poisson")]
    | Annotated[GammaArrivals, Tag("gamma")]
    | Annotated[TraceArrivals, Tag("trace")],
    Discriminator(_kind, custom_error_type="kind", custom_error_message="'kind' must be 'poisson', 'gamma' or 'trace'"),
]


class Payload(_Strict):
    """What a live run sends. A simulation needs no bytes."""

    encoding: Literal["binary", "json"] = "binary"
    """How tensors are written into the body."""
    file: Annotated[Path | None, BeforeValidator(_beside_scenario)] = None
    """JSON file with the `inputs` of an inference request; its rows are repeated as needed.
    Default: seeded random values in the shape that the server's metadata tells."""


class RequestClass(_Strict):
    """Requests of one kind: a model, a size and a budget."""

    name: Name
    model: Name
    weight: Positive | None = None
    """Share of the scenario's arrivals, against the other classes' weights. Default: 1."""
    rows: Annotated[tuple[RowShare, ...], PlainValidator(_row_shares)] = (RowShare(1, 1.0),)
    """Rows of a request: a number, or shares such as `{1 = 0.8, 4 = 0.2}`."""
    latency_ms: PositiveMs
    """Time from the intended send to the answer, milliseconds."""
    min_accuracy: Fraction | None = None
    max_energy_mj: Positive | None = None
    """Most energy for the whole request, millijoules."""
    variant: Name | None = None
    """Pinned by name."""
    prefer: Prefer = "accuracy"
    priority: Annotated[int, Field(ge=0, le=2**31)] = 0
    """Orders requests of equal deadline; lower goes first."""
    arrivals: Arrivals | None = None
    """Arrivals of its own, independent of the scenario's. Default: its weight's share of the scenario's."""
    payload: Payload = Payload()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.arrivals is not None and self.weight is not None:
            raise ValueError("'weight' shares out the scenario's arrivals; a class with its own has none")
        return self

    @property
    def mean_rows(self) -> float:
        """Rows a request has on average."""
        return sum(item.rows * item.share for item in self.rows)

    def budget(self) -> RequestBudget:
        """What each request of this class allows."""
        return RequestBudget(
            latency_s=self.latency_ms / 1e3,
            min_accuracy=self.min_accuracy,
            max_energy_mj=self.max_energy_mj,
            prefer=self.prefer,
            variant=self.variant,
            priority=self.priority,
        )


class FleetEntry(_Strict):
    """What serves: as `engine.*` in the settings of a live gateway."""

    workers: Count = 2
    """Worker threads of each gateway when colocated; worker replicas in all when split."""
    gateways: Count = 1
    topology: Literal["colocated", "split"] = "colocated"
    routing: Literal["own", "two-choices"] = "own"
    """Where split gateways send batches: to workers of their own, as ours do, or to the less loaded of two drawn from
    all, as Ray Serve's own router does.
    """
    staleness_ms: Annotated[float, Field(ge=0, le=60_000, allow_inf_nan=False)] = 0.0
    """Age of what one gateway knows of the batches that others sent (two choices)."""
    weights: dict[str, Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]] = Field(default_factory=dict)
    """What models may count on of the workers while all want them, as the setting `scheduler.weights`; else 1."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.routing == "two-choices" and self.topology == "colocated":
            raise ValueError("routing needs topology = 'split': colocated gateways have their workers inside")
        if self.staleness_ms and (self.routing == "own" or self.gateways == 1):
            raise ValueError("staleness_ms needs routing = 'two-choices' and gateways > 1: others know their workers")
        return self

    @property
    def total_workers(self) -> int:
        """Batches that run at the same time, over all gateways."""
        return self.workers * self.gateways if self.topology == "colocated" else self.workers


class AutoscalingEntry(AutoscalingSettings, _Strict):
    """How gateways are added and taken away: as `autoscaling.*` in the settings of a live server, and a start."""

    min_replicas: Count = 1
    max_replicas: Count
    start_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 10.0
    """From the wish for a gateway to its first request."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One arrival process and the classes among which its requests are drawn."""

    number: int
    """Names its random numbers: 0 for the scenario's own arrivals, else 1 + the place of the class."""
    arrivals: PoissonArrivals | GammaArrivals | TraceArrivals
    classes: tuple[RequestClass, ...]

    @property
    def duration_s(self) -> float:
        """How long its phases last; 0 where it says nothing, infinity for a trace, which ends by itself."""
        if isinstance(self.arrivals, TraceArrivals):
            return inf
        return sum(phase.duration_s for phase in self.arrivals.phases)


class Scenario(_Strict):
    """A load and the fleet that meets it."""

    name: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    duration_s: Seconds | None = None
    """Arrivals from here on are left out. Default: as long as phases or trace last."""
    requests: Annotated[int, Field(ge=1)] | None = None
    """The same as a number of requests."""
    arrivals: Arrivals | None = None
    classes: Annotated[tuple[RequestClass, ...], Field(strict=False, min_length=1)]
    fleet: FleetEntry = FleetEntry()
    autoscaling: AutoscalingEntry | None = None
    """Then `fleet.gateways` is what there is at the start, and each gateway is a machine of its own."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [entry.name for entry in self.classes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"class names must be unique: {', '.join(twice)}")
        sharing = [entry.name for entry in self.classes if entry.arrivals is None]
        if sharing and self.arrivals is None:
            raise ValueError(f"[arrivals] is missing, and the classes without their own need it: {', '.join(sharing)}")
        if self.arrivals is not None and not sharing:
            raise ValueError("[arrivals] serves no class: each has its own")
        if self.duration_s is not None and self.requests is not None:
            raise ValueError("give 'duration_s' or 'requests', not both")
        if self.requests is None and not self.end_s:
            raise ValueError("the end is missing: give 'duration_s' or 'requests', or arrivals with phases")
        if self.autoscaling is not None and self.fleet.topology == "split":
            raise ValueError("autoscaling is simulated for topology = 'colocated' only")
        traces = [isinstance(stream.arrivals, TraceArrivals) for stream in self.streams()]
        if self.requests is None and self.end_s == inf and not all(traces):
            raise ValueError("other arrivals go on after the trace: give 'duration_s' or 'requests'")
        return self

    @property
    def end_s(self) -> float:
        """When arrivals stop, seconds; infinity where the number of requests or a trace ends them."""
        if self.duration_s is not None:
            return self.duration_s
        return inf if self.requests is not None else max(stream.duration_s for stream in self.streams())

    def streams(self) -> tuple[Stream, ...]:
        """The independent arrival processes, each with its classes."""
        sharing = tuple(entry for entry in self.classes if entry.arrivals is None)
        shared = () if self.arrivals is None else (Stream(0, self.arrivals, sharing),)
        own = (
            Stream(number, entry.arrivals, (entry,))
            for number, entry in enumerate(self.classes, start=1)
            if entry.arrivals is not None
        )
        return (*shared, *own)

    def models(self) -> tuple[str, ...]:
        """Names of the models it asks for, in order of appearance."""
        return tuple(dict.fromkeys(entry.model for entry in self.classes))


def read_scenario(path: Path, trace: Path | None = None) -> Scenario:
    """Read and check a scenario. `trace` replaces the file of its trace arrivals.

    Raises `ScenarioError`. The trace itself is read when the scenario is run.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(f"scenario {path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"scenario {path}: not valid TOML: {error}") from error
    try:
        scenario = Scenario.model_validate(values, context={"folder": path.parent, "trace": trace})
    except ValidationError as error:
        raise ScenarioError(f"scenario {path}: {_describe(error, values)}") from error
    if trace is not None and not any(isinstance(stream.arrivals, TraceArrivals) for stream in scenario.streams()):
        raise ScenarioError(f"scenario {path}: no arrivals of kind 'trace', so the trace {trace} would be ignored")
    return scenario


def _describe(error: ValidationError, values: dict[str, Any]) -> str:
    """Each wrong field and what was expected, in the words of the file."""
    parts = []
    for item in error.errors(include_url=False, include_context=False):
        where = _where(item["loc"], values)
        message = _PLAINER.get(item["type"]) or re.sub(r"^Value error, ", "", item["msg"])
        given = item["input"]
        if item["type"] not in ("value_error", "kind") and isinstance(given, str | int | float):
            message += f", not {given!r}"
        parts.append(f"{where}: {message}" if where else message)
    return "; ".join(parts)


def _where(steps: Sequence[int | str], values: Any) -> str:
    """`classes[gold].arrivals.rate`: a class by its name, and without the kind, which is no level of the file."""
    path = ""
    for step in steps:
        if isinstance(step, int):
            values = values[step] if isinstance(values, list) and step < len(values) else None
            name = values.get("name") if isinstance(values, dict) else None
            path += f"[{name if isinstance(name, str) else step}]"
        elif not (isinstance(values, dict) and step not in values and values.get("kind") == step):
            path += f".{step}" if path else step
            values = values.get(step) if isinstance(values, dict) else None
    return path
