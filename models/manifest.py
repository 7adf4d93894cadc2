"""The family contract: what a family of variants promises, as written in its `family.json`.

A family is one model that callers name, and the compressed variants that can answer for it. The
manifest is the only thing the maker of variants and the server of variants share, so it is strict:
unknown keys, wrong types and contradictions are refused when it is read, never met while serving.

Host-dependent facts (how long a batch takes *here*) are not in the manifest: they are a
`LatencyProfile`, measured on the host that serves and cached there.
"""

import hashlib
import json
import re
import sys
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

MANIFEST_NAME = "family.json"

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "BF16", "FP32", "FP64", "BYTES",
]  # fmt: skip
"""Tensor datatypes of the Open Inference Protocol v2."""

_GREATEST_FLOAT: Mapping[str, float] = MappingProxyType(
    {"FP16": 65504.0, "FP32": 3.4028234e38, "FP64": sys.float_info.max}
)

Prefer = Literal["accuracy", "latency", "energy"]
"""What a request wants most of the variants its budget allows."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
Version = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PositiveMs = Annotated[float, Field(gt=0, le=3_600_000, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

ESCALATED = "gearshift.escalated"
"""An output that a cascade adds to those of the family: for each row, what became of it (`models.cascade`)."""


class ManifestError(ValueError):
    """A manifest that cannot be trusted: the message says which fact is wrong and where."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Padding(_Strict):
    """How requests of different lengths share a batch: each is filled up behind, to the smallest bucket that holds it.

    The models must not let the filling change an answer. Lengths above the largest bucket are refused.
    """

    axis: Annotated[int, Field(ge=1)]
    """The free axis whose lengths differ; axis 0 is the batch."""
    buckets: Annotated[tuple[int, ...], Field(min_length=1, max_length=64)]
    """Lengths that batches have, rising. The service times of a family are measured at the largest."""
    value: int | Annotated[float, Field(allow_inf_nan=False)] = 0
    """What the filling consists of."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(a >= b for a, b in zip((0, *self.buckets), self.buckets, strict=False)):
            raise ValueError(f"buckets must be positive and rise: {list(self.buckets)}")
        return self

    @property
    def longest(self) -> int:
        """The greatest length that can be served."""
        return self.buckets[-1]

    def bucket_of(self, length: int) -> int:
        """The smallest bucket that holds `length`; `ValueError` when none does."""
        place = bisect_left(self.buckets, length)
        if place == len(self.buckets):
            raise ValueError(f"a length of {length} is above the largest bucket, {self.longest}")
        return self.buckets[place]


class TensorSpec(_Strict):
    """Name, datatype and shape of one input or output. A dimension of -1 is free.

    The first axis is the batch axis when it is -1: rows of different requests may share a batch.
    """

    name: Annotated[str, Field(min_length=1, max_length=256)]
    datatype: Datatype
    shape: tuple[int, ...]
    labels: tuple[str, ...] | None = None
    """Names of the classes along the last axis, for outputs that hold one score a class."""
    padding: Padding | None = None
    """For inputs with one more free axis: without it, only requests of the very same length share a batch."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(dim != -1 and dim < 1 for dim in self.shape):
            raise ValueError(f"tensor '{self.name}': each dimension of {list(self.shape)} must be -1 or >= 1")
        if self.labels is not None and (not self.shape or self.shape[-1] != len(self.labels)):
            raise ValueError(
                f"tensor '{self.name}': {len(self.labels)} labels for a last dimension of "
                f"{self.shape[-1] if self.shape else 'none'}"
            )
        if self.padding is not None:
            self._check_padding(self.padding)
        return self

    def _check_padding(self, padding: Padding) -> None:
        if padding.axis >= len(self.shape) or self.shape[padding.axis] != -1:
            raise ValueError(
                f"tensor '{self.name}': padding along axis {padding.axis} needs a free dimension (-1) there, "
                f"not {list(self.shape)}"
            )
        if not _fits(padding.value, self.datatype):
            raise ValueError(f"tensor '{self.name}': {padding.value!r} cannot fill up {self.datatype}")


class Budget(_Strict):
    """What one request allows. Also the default of a family, for requests that do not say."""

    latency_ms: PositiveMs = 1000.0
    """Time from the receipt of the request to its answer, milliseconds."""
    min_accuracy: Fraction | None = None
    max_energy_mj: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Most energy that answering the whole request may cost, millijoules."""
    prefer: Prefer = "accuracy"


class Evidence(_Strict):
    """How the accuracy of a variant was measured, so that anyone can measure it again."""

    metric: str
    dataset: str
    samples: Annotated[int, Field(ge=1)]
    command: str


def _base_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError as error:
        raise ValueError(f"'{url}' is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"'{url}': expected http://HOST or https://HOST, with a port and a path where needed")
    if parts.username or parts.password:
        raise ValueError("a URL in a manifest holds no user or password: name a variable in headers_env")
    if parts.query or parts.fragment or not url.isprintable() or " " in url:
        raise ValueError(f"'{url}': no query, fragment or blanks are possible here")
    return url.rstrip("/")


class Remote(_Strict):
    """A model behind an endpoint of the Open Inference Protocol, that answers as a variant of this family."""

    url: Annotated[str, Field(max_length=2048), AfterValidator(_base_url)]
    """Where the endpoint is: what comes before /v2."""
    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
    """What the model is called there."""
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")] | None = None
    variant: Name | None = None
    """For an endpoint that is a Gearshift: its variant to pin."""
    timeout_ms: PositiveMs = 1000.0
    """Most time to wait for one answer."""
    headers_env: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")],
        Annotated[str, Field(pattern=r"^REMOTE_[A-Z0-9_]{1,64}$")],
    ] = Field(default_factory=dict)
    """Headers to send, and the environment variable that holds each one's value, such as a token. The names begin with
    REMOTE_: whoever writes a manifest may not have any other variable of the server sent away."""


class Cascade(_Strict):
    """Answer with a quick variant, and ask an accurate one about the rows the quick one is unsure of."""

    first: Name
    then: Name
    output: str
    """The output, one score a class along its last axis, that the confidence is read from."""
    scores: Literal["probabilities", "logits"] = "probabilities"
    """What that output holds; logits go through a softmax first."""
    confidence: Literal["margin", "max"] = "margin"
    """`max`: the probability of the likeliest class. `margin`: how far the second is behind it."""
    threshold: Fraction
    """Rows with a lower confidence go on to `then`."""
    escalation: Fraction
    """Share of rows that go on, as measured: what the cascade costs follows from it."""


class Variant(_Strict):
    """One of those that can answer for its family: an ONNX file, a remote model or a cascade; exactly one of these."""

    name: Name
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] = ""
    """Name of the file beside the manifest: never a path. This and the next two are empty where there is no file."""
    sha256: Sha256 = ""
    size_bytes: Annotated[int, Field(ge=1)] = 0
    remote: Remote | None = None
    cascade: Cascade | None = None
    accuracy: Fraction | None = None
    """None when nobody measured it: such a variant cannot promise a `min_accuracy`."""
    evidence: Evidence | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    """How the variant was made: for people and for reproduction, never read while serving."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        told = [kind for kind in ("file", "remote", "cascade") if getattr(self, kind)]
        if len(told) != 1:
            raise ValueError(
                f"variant '{self.name}' must have exactly one of file, remote and cascade, "
                f"not {' and '.join(told) or 'none'}"
            )
        if bool(self.file) != bool(self.sha256) or bool(self.file) != bool(self.size_bytes):
            raise ValueError(f"variant '{self.name}': file, sha256 and size_bytes go together")
        return self

    @model_serializer(mode="wrap")
    def _without_empty_file(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        told: dict[str, Any] = handler(self)
        return told if self.file else {key: told[key] for key in told if key not in ("file", "sha256", "size_bytes")}


class Family(_Strict):
    """One model and the variants that answer for it."""

    schema_version: Literal[1] = 1
    name: Name
    version: Version = "1"
    description: str = ""
    license: str = ""
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    default_budget: Budget = Budget()
    max_batch_rows: Annotated[int, Field(ge=1, le=65536)] = 256
    """Most rows one batch, and so one request, may hold."""
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require_unique("input", [spec.name for spec in self.inputs])
        _require_unique("output", [spec.name for spec in self.outputs])
        _require_unique("variant", [variant.name for variant in self.variants])
        known = [variant.accuracy is not None for variant in self.variants]
        if any(known) and not all(known):
            unknown = [variant.name for variant in self.variants if variant.accuracy is None]
            raise ValueError(f"accuracy is known for some variants but not for {unknown}: measure all or none")
        self._check_padding()
        self._check_variants()
        return self

    def _check_variants(self) -> None:
        """What stands behind a remote variant or a cascade must be there, and be of use."""
        plain = {variant.name for variant in self.variants if variant.file}
        if not plain:
            raise ValueError("at least one variant must be a file: the others answer while an endpoint is away")
        scores = {spec.name: spec for spec in self.outputs}
        if ESCALATED in scores:
            raise ValueError(f"an output cannot be called '{ESCALATED}'")
        for variant in self.variants:
            cascade = variant.cascade
            if cascade is None:
                continue
            where = f"cascade '{variant.name}'"
            if cascade.first == cascade.then or not {cascade.first, cascade.then} <= plain:
                raise ValueError(f"{where}: first and then must be two variants with files, of {sorted(plain)}")
            spec = scores.get(cascade.output)
            if spec is None or spec.datatype not in ("FP16", "FP32", "FP64") or len(spec.shape) != 2:
                raise ValueError(f"{where}: '{cascade.output}' must be an output of floats, [rows, classes]")
            if not self.batchable:
                raise ValueError(f"{where}: rows can go on alone only where every tensor has a free first dimension")

    def _check_padding(self) -> None:
        """Padding is for batches; and an output as long as the filled-up input would have to be cut, by a guess."""
        if any(spec.padding is not None for spec in self.outputs):
            raise ValueError("padding is for inputs only, not for outputs")
        padded = [spec.name for spec in self.inputs if spec.padding is not None]
        if padded and not self.batchable:
            raise ValueError(f"padding of {padded} needs a free first dimension in every input and output")
        loose = [spec.name for spec in self.outputs if -1 in spec.shape[1:]]
        if padded and loose:
            raise ValueError(f"outputs {loose} have free dimensions behind the first: not possible with padding")

    @property
    def batchable(self) -> bool:
        """Whether rows of different requests may share a batch: every tensor has a free first axis."""
        return all(spec.shape and spec.shape[0] == -1 for spec in (*self.inputs, *self.outputs))

    def variant(self, name: str) -> Variant:
        """The variant of that name; `KeyError` when there is none."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise KeyError(name)

    def to_json(self) -> str:
        """The manifest's text, as `family.json` holds it."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), indent=2, ensure_ascii=False) + "\n"


class LatencyProfile(_Strict):
    """Measured service time of one variant on one host, one batch at a time a worker.

    `rows[i]` rows take `seconds[i]` (median). Energy is an estimate unless its source says otherwise.
    """

    rows: Annotated[tuple[int, ...], Field(min_length=1)]
    seconds: Annotated[tuple[float, ...], Field(min_length=1)]
    energy_mj_per_row: Annotated[float, Field(ge=0)] = 0.0
    """Millijoules one row costs at batch 1."""
    energy_source: Literal["none", "estimate", "rapl"] = "none"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.rows) != len(self.seconds):
            raise ValueError(f"{len(self.rows)} batch sizes but {len(self.seconds)} durations")
        if any(a >= b for a, b in zip((0, *self.rows), self.rows, strict=False)):
            raise ValueError(f"batch sizes must be positive and rise: {list(self.rows)}")
        if any(not 0 < s < float("inf") for s in self.seconds):
            raise ValueError(f"durations must be positive and finite: {list(self.seconds)}")
        return self


def read_manifest(path: Path) -> Family:
    """Read and check a manifest.

    Raises `ManifestError` naming the file and each wrong field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error
    try:
        # Through JSON mode, so that lists become tuples while types stay strict.
        return Family.model_validate_json(text)
    except ValidationError as error:
        raise ManifestError(f"{path}: {describe(error)}") from error


def describe(error: ValidationError) -> str:
    """One line a person can act on: each wrong field and what was expected of it."""
    parts = []
    for item in error.errors(include_url=False, include_context=False):
        where = ".".join(str(step) for step in item["loc"]) or "manifest"
        parts.append(f"{where}: {re.sub(r'^Value error, ', '', item['msg'])}")
    return "; ".join(parts)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fits(value: float, datatype: Datatype) -> bool:
    """Whether a tensor of that datatype can hold the value. BF16 and what is not a number cannot be filled up."""
    if datatype in _GREATEST_FLOAT:
        return abs(value) <= _GREATEST_FLOAT[datatype]
    integer = re.fullmatch(r"(U?)INT(8|16|32|64)", datatype)
    if integer is None or not isinstance(value, int):
        return False
    bits = int(integer[2])
    least, most = (0, (1 << bits) - 1) if integer[1] else (-(1 << bits - 1), (1 << bits - 1) - 1)
    return least <= value <= most


def digest_of(content: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def _require_unique(kind: str, names: list[str]) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"{kind} names must be unique: {sorted(twice)}")
