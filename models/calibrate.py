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

from models.cascade import composed
from models.manifest import Family, LatencyProfile, TensorSpec, Variant
from models.remote import RemoteModel
from models.runner import Runner
from models.session import ModelRunError, Tensor, VariantLost, onnxruntime

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
QUIET_DUTY = 0.2
"""Share of its thread's time that measuring beside live traffic takes: five times as long, a fifth of a core."""
FREE_AXIS = 16
"""What a free axis other than the batch is measured at: profiles of such models are rough. One that is filled up to
buckets is measured at the largest, so that what is predicted, and promised, is the most it may take; by how much
less shorter requests take, the slowdown learns while serving."""
FORMAT = 3
REMOTE_AGE_S = 86_400.0
"""How long the profile of a remote variant is believed: what is behind an endpoint may change without a word."""
ASSUMED_REMOTE = LatencyProfile(rows=(1, 16), seconds=(0.01, 0.02))
"""Of an endpoint that did not answer at the start. The first answers correct it; see `serving.core.latency`."""

Progress = Callable[[str], None]


def profile_family(
    family: Family,
    runner_of: Callable[[Variant], Runner],
    *,
    cache_dir: Path,
    watts_per_core: float,
    refresh: bool = False,
    duty: float = 1.0,
    progress: Progress = lambda _: None,
) -> dict[str, LatencyProfile]:
    """The profile of every variant, by name: from the cache where it is known, else measured and stored.

    `runner_of` is called only for what must be measured. `watts_per_core` turns processor time into the
    energy estimate; a remote variant is counted as if a core here was busy for as long. `duty`: share of its time to
    spend on measuring, less than 1 where others need the host. The profile of a cascade is composed of those of its
    two variants. A cache that cannot be written costs a new measurement at the next start, nothing else.

    Raises `ManifestError` for a remote variant that is not what the manifest says; one that cannot be reached gets
    `ASSUMED_REMOTE`.
    """
    known = None if refresh else known_profiles(family, cache_dir=cache_dir, watts_per_core=watts_per_core)
    if known is not None:
        return known
    profiles = {}
    measuring: dict[str, Measuring] = {}
    with _alone(cache_dir):
        own = [variant for variant in family.variants if variant.cascade is None]
        places = {variant.name: cache_dir / f"{fingerprint(variant, family.inputs)}.json" for variant in own}
        for variant in own:
            known_one = None if refresh else _remembered(places[variant.name], variant)
            if known_one is not None:
                profiles[variant.name] = known_one
        unknown = [variant for variant in own if variant.name not in profiles]
        for turn in range(TURNS):
            for variant in tuple(unknown):
                try:
                    if turn:
                        measuring[variant.name].turn()
                        continue
                    progress(f"measuring {family.name} {variant.name}")
                    measuring[variant.name] = _begin(runner_of(variant), family, duty)
                except VariantLost as error:
                    progress(f"{family.name} {variant.name} does not answer: {error}")
                    unknown.remove(variant)
        for name in (variant.name for variant in unknown):
            profiles[name] = measuring[name].profile()
            _store(places[name], profiles[name])
    found = {v.name: _with_energy(profiles.get(v.name, ASSUMED_REMOTE), watts_per_core) for v in own}
    return _with_cascades(family, found)


def _begin(runner: Runner, family: Family, duty: float) -> "Measuring":
    if isinstance(runner, RemoteModel):
        runner.check()
    return Measuring(runner, family, within_s=family.default_budget.latency_ms / 1e3 * LONGEST_SHARE, duty=duty)


def _with_cascades(family: Family, profiles: dict[str, LatencyProfile]) -> dict[str, LatencyProfile]:
    """The profiles of all variants in the order of the manifest, out of those that were measured."""
    cascades = {variant.name: variant.cascade for variant in family.variants if variant.cascade is not None}
    made = {name: composed(profiles[c.first], profiles[c.then], c.escalation) for name, c in cascades.items()}
    return {variant.name: (made | profiles)[variant.name] for variant in family.variants}


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
    for variant in (v for v in family.variants if v.cascade is None):
        known = _remembered(cache_dir / f"{fingerprint(variant, family.inputs)}.json", variant)
        if known is None:
            return None
        profiles[variant.name] = _with_energy(known, watts_per_core)
    return _with_cascades(family, profiles)


class Measuring:
    """Service time of one variant by batch size, one batch at a time.

    Sizes double until a batch takes longer than `within_s` (larger ones could not meet the usual budget) or
    throughput has stopped growing. They are measured in turns, all variants of a family before the next one, so that
    a busy moment of the host touches all alike; the least of each turn counts, and the median of the turns, so that it
    touches none: what load adds later is learnt while serving.
    """

    def __init__(self, runner: Runner, family: Family, *, within_s: float, duty: float = 1.0) -> None:
        """Takes the first turn, which finds out the sizes."""
        self._runner = runner
        self._inputs = family.inputs
        self._duty = duty
        limit = family.max_batch_rows if family.batchable else 1
        self._rows: list[int] = []
        first: list[float] = []
        for rows in (size for size in BATCH_ROWS if size <= limit):
            self._rows.append(rows)
            first.append(self._least_s(rows))
            if first[-1] > within_s or _past_the_knee(self._rows, first):
                break
        self._turns = [first]

    def turn(self) -> None:
        """Measure every size once more."""
        self._turns.append([self._least_s(rows) for rows in self._rows])

    def profile(self) -> LatencyProfile:
        """What the turns until now say."""
        medians = tuple(statistics.median(times) for times in zip(*self._turns, strict=True))
        return LatencyProfile(rows=tuple(self._rows), seconds=medians)

    def _least_s(self, rows: int) -> float:
        return least_seconds(self._runner, random_inputs(self._inputs, rows), self._duty)


def least_seconds(runner: Runner, inputs: dict[str, Tensor], duty: float = 1.0) -> float:
    """Least time of a few runs after a warm-up, seconds.

    An input the model cannot process (random text, an index out of range) still tells the time it took.
    """
    _rest(_timed(runner, inputs), duty)
    least_s = spent_s = _timed(runner, inputs)
    _rest(spent_s, duty)
    for _ in range(RUNS_A_TURN):
        took_s = _timed(runner, inputs)
        _rest(took_s, duty)
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
    to which `inputs` are filled up. Of a remote variant only what is asked of whom is known.
    """
    facts: list[object] = [FORMAT, processor(), len(os.sched_getaffinity(0)), onnxruntime().__version__, variant.sha256]
    if variant.remote is not None:
        remote = variant.remote
        facts = [FORMAT, remote.url, remote.model, remote.version, remote.variant]
    facts += [[spec.name, spec.padding.axis, spec.padding.longest] for spec in inputs if spec.padding is not None]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def processor() -> str:
    """The processor's model name, for people and for the cache."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _timed(runner: Runner, inputs: dict[str, Tensor]) -> float:
    started_s = time.perf_counter()
    with contextlib.suppress(ModelRunError):
        runner.run(inputs)
    return time.perf_counter() - started_s


def _rest(worked_s: float, duty: float) -> None:
    """Leave the host to others, so that work was `duty` of the time."""
    if duty < 1:
        time.sleep(worked_s * (1 / duty - 1))


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


def _remembered(place: Path, variant: Variant) -> LatencyProfile | None:
    """What was stored, unless it is of a remote variant and too old."""
    if variant.remote is not None:
        try:
            age_s = time.time() - place.stat().st_mtime
        except OSError:
            return None
        if not 0 <= age_s <= REMOTE_AGE_S:
            return None
    return _read(place)


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
