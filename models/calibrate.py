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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from pydantic import ValidationError

from models.manifest import Family, LatencyProfile, TensorSpec, Variant
from models.session import ModelRunError, Session, Tensor, onnxruntime

BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TURNS = 5
RUNS_A_TURN = 10
TIME_PER_TURN_S = 0.008
"""Spent on one batch size in one turn: short enough for a start."""
LONGEST_SHARE = 0.25
"""Share of the usual budget that a batch may take and still be worth measuring: a longer one leaves no time to wait
for it. Measuring them was most of a first start."""
BATCH_OVERHEAD_S = 0.001
"""Assumed cost of a batch besides the model when deciding whether larger batches are worth measuring."""
MEASURING_TIMEOUT_S = 120.0
FREE_AXIS = 16
"""What a free axis other than the batch is measured at: profiles of such models are rough. One that is filled up to
buckets is measured at the largest, so that what is predicted, and promised, is the most it may take; by how much
less shorter requests take, the slowdown learns while serving."""
FORMAT = 3

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
    known = None if refresh else known_profiles(family, cache_dir=cache_dir, watts_per_core=watts_per_core)
    if known is not None:
        return known
    profiles = {}
    with _alone(cache_dir):
        for variant in family.variants:
            place = cache_dir / f"{fingerprint(variant, family.inputs)}.json"
            profile = None if refresh else _read(place)
            if profile is None:
                progress(f"measuring {family.name} {variant.name}")
                usual_s = family.default_budget.latency_ms / 1e3
                profile = measure(session_of(variant), family, within_s=usual_s * LONGEST_SHARE)
                _store(place, profile)
            profiles[variant.name] = _with_energy(profile, watts_per_core)
    return profiles


@contextlib.contextmanager
def _alone(cache_dir: Path) -> Iterator[None]:
    """One process measures at a time: two at once would measure each other, and the second finds it all done."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache_dir / "measuring.lock", timeout=MEASURING_TIMEOUT_S)
        lock.acquire()
    except OSError:  # also a lock that stays taken (Timeout is one): better a rough profile than none
        yield
        return
    try:
        yield
    finally:
        lock.release()


def known_profiles(family: Family, *, cache_dir: Path, watts_per_core: float) -> dict[str, LatencyProfile] | None:
    """The profiles this host remembers; None unless it knows every variant."""
    profiles = {}
    for variant in family.variants:
        known = _read(cache_dir / f"{fingerprint(variant, family.inputs)}.json")
        if known is None:
            return None
        profiles[variant.name] = _with_energy(known, watts_per_core)
    return profiles


def measure(session: Session, family: Family, *, within_s: float) -> LatencyProfile:
    """Service time by batch size with one batch at a time.

    Sizes double until a batch takes longer than `within_s` (larger ones could not meet the usual budget) or
    throughput has stopped growing. They are measured in turns, so that a busy moment of the host touches all
    alike, and the least of each turn counts, so that it touches none: what load adds later is learnt while serving.
    """
    limit = family.max_batch_rows if family.batchable else 1
    sizes: list[int] = []
    first: list[float] = []
    for rows in (size for size in BATCH_ROWS if size <= limit):
        sizes.append(rows)
        first.append(least_seconds(session, random_inputs(family.inputs, rows)))
        if first[-1] > within_s or _past_the_knee(sizes, first):
            break
    turns = [
        first,
        *([least_seconds(session, random_inputs(family.inputs, rows)) for rows in sizes] for _ in range(TURNS - 1)),
    ]
    medians = tuple(statistics.median(turn[at] for turn in turns) for at in range(len(sizes)))
    return LatencyProfile(rows=tuple(sizes), seconds=medians)


def least_seconds(session: Session, inputs: dict[str, Tensor]) -> float:
    """Least time of a few runs after a warm-up, seconds.

    An input the model cannot process (random text, an index out of range) still tells the time it took.
    """
    _timed(session, inputs)
    least_s = spent_s = _timed(session, inputs)
    for _ in range(RUNS_A_TURN):
        took_s = _timed(session, inputs)
        least_s = min(least_s, took_s)
        spent_s += took_s
        if spent_s > TIME_PER_TURN_S:
            break
    return least_s


def random_inputs(specs: Sequence[TensorSpec], rows: int, *, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of that many rows: shapes and datatypes of the family, values small and reproducible."""
    rng = np.random.default_rng(seed)
    return {spec.name: _random_tensor(spec, rows, rng) for spec in specs}


def fingerprint(variant: Variant, inputs: Sequence[TensorSpec] = ()) -> str:
    """Names what a profile depends on: processor, cores we may use, ONNX Runtime, artifact, method, and the lengths
    to which `inputs` are filled up.
    """
    facts: list[object] = [FORMAT, processor(), len(os.sched_getaffinity(0)), onnxruntime().__version__, variant.sha256]
    facts += [[spec.name, spec.padding.axis, spec.padding.longest] for spec in inputs if spec.padding is not None]
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
    """Two doublings in a row that gained next to nothing, counting what a batch costs besides the model."""
    if len(rows) < 4:
        return False
    rates = [n / (s + BATCH_OVERHEAD_S) for n, s in zip(rows, seconds, strict=True)]
    return max(rates[-2:]) < 1.03 * max(rates[:-2])


def _random_tensor(spec: TensorSpec, rows: int, rng: np.random.Generator) -> Tensor:
    shape = [
        rows if axis == 0 and dim == -1 else (FREE_AXIS if dim == -1 else dim) for axis, dim in enumerate(spec.shape)
    ]
    if spec.padding is not None:
        shape[spec.padding.axis] = spec.padding.longest
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
