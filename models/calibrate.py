"""How long each variant takes on this host, measured at start and remembered.

A profile holds for one processor, one ONNX Runtime and one artifact: these name its place in the cache.
"""

import contextlib
import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from models.manifest import Family, LatencyProfile, TensorSpec, Variant
from models.session import ModelRunError, Session, Tensor, onnxruntime

BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MIN_RUNS, MAX_RUNS = 5, 50
TIME_PER_POINT_S = 0.05
"""Spent on one batch size, after the warm-up: short enough for a start, long enough for a median."""
FREE_AXIS = 16
"""What a free axis other than the batch is measured at: profiles of such models are rough."""
FORMAT = 1

Progress = Callable[[str], None]


def profile_family(
    family: Family,
    session_of: Callable[[Variant], Session],
    *,
    cache_dir: Path,
    watts_per_core: float,
    refresh: bool = False,
    progress: Progress = lambda _: None,
) -> dict[str, LatencyProfile]:
    """The profile of every variant, by name: from the cache where it is known, else measured and stored.

    `session_of` is called only for what must be measured. `watts_per_core` turns processor time into the
    energy estimate. A cache that cannot be written costs a new measurement at the next start, nothing else.
    """
    profiles = {}
    for variant in family.variants:
        place = cache_dir / f"{fingerprint(variant)}.json"
        known = None if refresh else _read(place)
        if known is None:
            progress(f"measuring {family.name} {variant.name}")
            known = measure(session_of(variant), family, within_s=family.default_budget.latency_ms / 1e3)
            _store(place, known)
        profiles[variant.name] = _with_energy(known, watts_per_core)
    return profiles


def known_profiles(family: Family, *, cache_dir: Path, watts_per_core: float) -> dict[str, LatencyProfile] | None:
    """The profiles this host remembers; None unless it knows every variant."""
    profiles = {}
    for variant in family.variants:
        known = _read(cache_dir / f"{fingerprint(variant)}.json")
        if known is None:
            return None
        profiles[variant.name] = _with_energy(known, watts_per_core)
    return profiles


def measure(session: Session, family: Family, *, within_s: float) -> LatencyProfile:
    """Median service time by batch size with one batch at a time.

    Sizes grow until a batch takes longer than `within_s` (larger ones could not meet the usual budget), or
    until throughput has plainly stopped growing.
    """
    limit = family.max_batch_rows if family.batchable else 1
    sizes = [rows for rows in BATCH_ROWS if rows <= limit]
    rows_seen: list[int] = []
    seconds: list[float] = []
    for rows in sizes:
        took_s = median_seconds(session, random_inputs(family.inputs, rows))
        rows_seen.append(rows)
        seconds.append(took_s)
        if took_s > within_s or _past_the_knee(rows_seen, seconds):
            break
    return LatencyProfile(rows=tuple(rows_seen), seconds=tuple(seconds))


def median_seconds(session: Session, inputs: dict[str, Tensor]) -> float:
    """Median of repeated runs after a warm-up, seconds.

    An input the model cannot process (random text, an index out of range) still tells the time it took.
    """
    for _ in range(2):
        _timed(session, inputs)
    runs: list[float] = []
    spent_s = 0.0
    while len(runs) < MIN_RUNS or (spent_s < TIME_PER_POINT_S and len(runs) < MAX_RUNS):
        runs.append(_timed(session, inputs))
        spent_s += runs[-1]
    return statistics.median(runs)


def random_inputs(specs: Sequence[TensorSpec], rows: int, *, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of that many rows: shapes and datatypes of the family, values small and reproducible."""
    rng = np.random.default_rng(seed)
    return {spec.name: _random_tensor(spec, rows, rng) for spec in specs}


def fingerprint(variant: Variant) -> str:
    """Names what a profile depends on: processor, cores we may use, ONNX Runtime, artifact, method."""
    facts = [FORMAT, processor(), len(os.sched_getaffinity(0)), onnxruntime().__version__, variant.sha256]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def processor() -> str:
    """The processor's model name, for people and for the cache."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _timed(session: Session, inputs: dict[str, Tensor]) -> float:
    started_s = time.perf_counter()
    with contextlib.suppress(ModelRunError):
        session.run(inputs)
    return time.perf_counter() - started_s


def _past_the_knee(rows: list[int], seconds: list[float]) -> bool:
    """Two doublings in a row that gained less than 3 % of throughput."""
    if len(rows) < 4:
        return False
    rates = [n / s for n, s in zip(rows, seconds, strict=True)]
    return max(rates[-2:]) < 1.03 * max(rates[:-2])


def _random_tensor(spec: TensorSpec, rows: int, rng: np.random.Generator) -> Tensor:
    shape = tuple(
        rows if axis == 0 and dim == -1 else (FREE_AXIS if dim == -1 else dim) for axis, dim in enumerate(spec.shape)
    )
    match spec.datatype:
        case "BYTES":
            return np.full(shape, b"gearshift", dtype=object)
        case "BOOL":
            return rng.integers(0, 2, shape).astype(np.bool_)
        case "FP16" | "FP32" | "FP64":
            bits = spec.datatype.removeprefix("FP")
            return rng.random(shape).astype(f"float{bits}")
        case other:
            return rng.integers(0, 100, shape).astype(other.lower())


def _with_energy(profile: LatencyProfile, watts_per_core: float) -> LatencyProfile:
    """Energy a row costs at batch 1, estimated as processor time times the share of its power a core draws."""
    if watts_per_core <= 0:
        return profile
    joules = profile.seconds[0] / profile.rows[0] * watts_per_core
    return profile.model_copy(update={"energy_mj_per_row": joules * 1e3, "energy_source": "estimate"})


def _read(place: Path) -> LatencyProfile | None:
    try:
        return LatencyProfile.model_validate_json(place.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None  # absent, or torn by another version: measure again


def _store(place: Path, profile: LatencyProfile) -> None:
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        whole = place.with_suffix(f".{os.getpid()}.tmp")
        whole.write_text(profile.model_dump_json(), encoding="utf-8")
        whole.replace(place)
