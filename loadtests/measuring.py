"""Measure how long a family's batches take, with one and with all workers busy.

    python -m loadtests.measuring models/zoo/families/fashion/1 loadtests/measured/fashion.json

Nothing else should run meanwhile: what disturbs the measurement is kept as noise of the model.
"""

import argparse
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from loadtests.durations import Durations, Host, Level, Overhead, VariantDurations, write_durations
from models.calibrate import processor, random_inputs
from models.manifest import Family, ManifestError
from models.repository import Artifact, open_family
from models.session import ModelRunError, Session, Tensor, onnxruntime
from serving.config import usable_cores

SIZES = (1, 2, 4, 8, 16, 32, 64)
TURNS = 6
"""Each size gets its samples in so many turns, so that a busy moment of the host touches all sizes alike."""
WARM_UP_RUNS = 2
LONGEST_S = 0.1
"""A size whose batch takes longer is the last that is measured."""
ASSUMED = Overhead(source="assumed", parse_us=60.0, hand_off_us=50.0, travel_us=0.0, render_us=50.0)
"""Until somebody measures a live gateway on this host. From its throughput with a tiny model, about 9,000 requests a
second and core, the four together cost little more than 0.1 ms a request."""

Progress = Callable[[str], None]


def measure_durations(
    artifact: Artifact,
    *,
    workers: int,
    samples: int = 60,
    longest_s: float = LONGEST_S,
    seed: int = 1,
    overhead: Overhead = ASSUMED,
    progress: Progress = lambda _: None,
) -> Durations:
    """Times of every variant and size, `samples` (>= 1) of each, with 1 and with `workers` threads at work.

    Raises `ManifestError` for a family whose files cannot be served.
    """
    found = []
    load_average = os.getloadavg()[0]
    for variant in artifact.family.variants:
        session = artifact.load(variant)
        levels = []
        for busy in sorted({1, workers}):
            progress(f"measuring {artifact.key} {variant.name}, {busy} busy")
            levels.append(_measure(session, artifact.family, busy, samples, longest_s, seed))
        found.append(VariantDurations(name=variant.name, levels=tuple(levels)))
    host = Host(
        processor=processor(),
        cores=usable_cores(),
        onnxruntime=onnxruntime().__version__,
        python=platform.python_version(),
        command=f"python -m loadtests.measuring --workers {workers} --samples {samples} --seed {seed}",
        load_average=round(load_average, 2),
        seed=seed,
    )
    return Durations(family=artifact.key, host=host, overhead=overhead, variants=tuple(found))


def _measure(session: Session, family: Family, busy: int, samples: int, longest_s: float, seed: int) -> Level:
    limit = family.max_batch_rows if family.batchable else 1
    inputs = {rows: random_inputs(family.inputs, rows, seed=seed) for rows in SIZES if rows <= limit}
    times: dict[int, list[float]] = {}
    a_turn = -(-samples // TURNS)
    for _ in range(TURNS):
        for rows in list(inputs):
            taken = times.setdefault(rows, [])
            with _neighbours(session, inputs[rows], busy - 1):
                least_s = min(_timed(session, inputs[rows]) for _ in range(WARM_UP_RUNS))
                for _ in range(min(a_turn, samples - len(taken))):
                    taken.append(_timed(session, inputs[rows]))
            if least_s > longest_s:
                for larger in [size for size in inputs if size > rows]:
                    del inputs[larger]
                    times.pop(larger, None)
                break
    sizes = tuple(rows for rows in times if times[rows])
    return Level(
        busy=busy, rows=sizes, samples_us=tuple(tuple(round(s * 1e6, 1) for s in times[rows]) for rows in sizes)
    )


@contextmanager
def _neighbours(session: Session, inputs: dict[str, Tensor], count: int) -> Iterator[None]:
    """Threads that run the same batch over and over, as the other workers of a full pool do."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            _timed(session, inputs)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _timed(session: Session, inputs: dict[str, Tensor]) -> float:
    started_s = time.perf_counter()
    with suppress(ModelRunError):  # random input need not make sense to a model; the time it took still counts
        session.run(inputs)
    return time.perf_counter() - started_s


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point: exit code 0, or 2 for a family that cannot be served."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.measuring", description=__doc__)
    parser.add_argument("family", type=Path, help="folder of one version of a family")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="threads of a fully busy host")
    parser.add_argument("--samples", type=int, default=60, help="times kept of each variant and size")
    parser.add_argument("--seed", type=int, default=1, help="of the random inputs")
    options = parser.parse_args(arguments)
    try:
        durations = measure_durations(
            open_family(options.family),
            workers=options.workers,
            samples=options.samples,
            seed=options.seed,
            progress=lambda line: print(line, file=sys.stderr),  # noqa: T201  # a command's own progress
        )
    except ManifestError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    write_durations(durations, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
