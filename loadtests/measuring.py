"""Measure how long a family's batches take, with one and with all workers busy.

    python -m loadtests.measuring models/zoo/families/fashion/1 loadtests/measured/fashion.json

Nothing else should run meanwhile: what disturbs the measurement is kept as noise of the model.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from loadtests.documents import write_document
from loadtests.durations import Durations, Host, Level, Overhead, VariantDurations
from models.calibrate import processor, random_inputs
from models.manifest import Family, ManifestError, Variant
from models.repository import Artifact, open_family
from models.session import ModelRunError, Session, Tensor, onnxruntime
from serving.config import usable_cores

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TURNS = 6
"""Each size gets its samples in so many turns, so that a busy moment of the host touches all sizes alike."""
WARM_UP_RUNS = 2
LONGEST_S = 0.02
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
    """Times of every variant with a file, `samples` (>= 1) of each size, with 1 and with `workers` workers busy.

    Raises `ManifestError` for a family whose files cannot be served.
    """
    found = []
    load_average = os.getloadavg()[0]
    for variant in (v for v in artifact.family.variants if v.file):
        session = artifact.load(variant)
        levels = []
        for busy in sorted({1, workers}):
            progress(f"measuring {artifact.key} {variant.name}, {busy} busy")
            with ExitStack() as stack:
                company = [stack.enter_context(_neighbour(artifact, variant, seed)) for _ in range(busy - 1)]
                levels.append(_measure(session, artifact.family, company, samples, longest_s, seed))
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


def _measure(
    session: Session, family: Family, company: Sequence[Connection], samples: int, longest_s: float, seed: int
) -> Level:
    limit = family.max_batch_rows if family.batchable else 1
    inputs = {rows: random_inputs(family.inputs, rows, seed=seed) for rows in SIZES if rows <= limit}
    times: dict[int, list[float]] = {}
    a_turn = -(-samples // TURNS)
    for _ in range(TURNS):
        for rows in list(inputs):
            taken = times.setdefault(rows, [])
            with _working(company, rows):
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
        busy=1 + len(company),
        rows=sizes,
        samples_us=tuple(tuple(round(s * 1e6, 1) for s in times[rows]) for rows in sizes),
    )


@contextmanager
def _neighbour(artifact: Artifact, variant: Variant, seed: int) -> Iterator[Connection]:
    """Another worker, told over the connection what to run.

    A process: what two share is then the processor and its caches. What threads of one process cost each other besides
    (the interpreter's lock) is the gateway's own time, not the model's.
    """
    context = get_context("spawn")
    line, theirs = context.Pipe()
    process = context.Process(target=_keep_running, args=(artifact, variant, seed, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield line
    finally:
        process.kill()
        process.join()
        line.close()


@contextmanager
def _working(company: Sequence[Connection], rows: int) -> Iterator[None]:
    """Every neighbour runs batches of `rows` rows over and over."""
    for line in company:
        line.send(rows)
    for line in company:
        line.recv()  # it runs
    try:
        yield
    finally:
        for line in company:
            line.send(0)
            line.recv()  # it rests


def _keep_running(artifact: Artifact, variant: Variant, seed: int, line: Connection) -> None:
    session = artifact.load(variant)
    with suppress(EOFError, OSError):  # until whoever asks is gone
        while True:
            rows = line.recv()
            inputs = random_inputs(artifact.family.inputs, max(1, rows), seed=seed)
            line.send(rows)
            while rows and not line.poll():
                _timed(session, inputs)


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
    parser.add_argument("--workers", type=int, default=usable_cores(), help="workers of a fully busy host")
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
    write_document(durations, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
