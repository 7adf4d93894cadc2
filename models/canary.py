"""Try an unknown model in a process of its own, before it may run beside others.

ONNX Runtime is native code: a graph may crash it, hang in it or eat all memory, and no exception tells of that. A
child process with limits meets the surprise first. Run as a module it is that child: `python -m models.canary FILE...`.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from models.repository import Artifact

TIMEOUT_S = 60.0
"""For one model with all its variants: to import the runtime, load, and run one row each."""
MEMORY_BYTES = 2 << 30
"""Address space for the interpreter and the runtime; the models' own share comes on top."""
MEMORY_PER_FILE_BYTE = 12
"""Loading holds the file, its parsed graph and the prepared weights at once."""
NICENESS = 10


class CanaryError(ValueError):
    """The model does not survive being loaded and run once; the message says how it ended."""


def try_out(artifact: Artifact, *, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES) -> None:
    """Load each variant and run one row of random input, elsewhere. Raises `CanaryError`.

    An input that the model refuses is no failure: random numbers need not make sense to it.
    """
    files = [artifact.path_of(variant) for variant in artifact.family.variants if variant.file]
    try_files(files, timeout_s=timeout_s, memory_bytes=memory_bytes)


def try_files(files: Sequence[Path], *, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES) -> None:
    """The same for ONNX files. Raises `CanaryError`."""
    limit = memory_bytes + MEMORY_PER_FILE_BYTE * sum(_size(file) for file in files)
    command = [sys.executable, "-m", "models.canary", str(limit), str(timeout_s), *map(str, files)]
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    env = kept | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    try:
        ended = subprocess.run(  # noqa: S603 - our own interpreter and module; the files are arguments, not code
            command, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise CanaryError(f"tried in a process of its own, it was not done within {timeout_s:g} s") from None
    except OSError as error:
        raise CanaryError(f"no process to try it in could be started: {error.strerror}") from error
    if ended.returncode < 0:
        told = signal.strsignal(-ended.returncode) or "an unknown signal"
        raise CanaryError(
            f"tried in a process of its own, it ended that process with signal {-ended.returncode}: {told}"
        )
    if ended.returncode:
        lines = ended.stderr.decode(errors="replace").strip().splitlines()
        raise CanaryError(f"tried in a process of its own, it failed: {lines[-1][:300] if lines else 'without a word'}")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def main(argv: Sequence[str]) -> int:
    """The child: `MEMORY_BYTES SECONDS FILE...`. Returns the exit code; the last line on stderr says what failed."""
    memory_bytes, seconds, *files = argv
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    spent_s = max(1, int(float(seconds)))
    resource.setrlimit(resource.RLIMIT_CPU, (spent_s, spent_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(spent_s + 5)  # should the parent end before it can end this process
    from models.calibrate import random_inputs
    from models.session import ModelLoadError, ModelRunError, Session

    for file in map(Path, files):
        try:
            session = Session(file.read_bytes())
            with contextlib.suppress(ModelRunError):
                session.run(random_inputs(session.inputs, 1))
        except (ModelLoadError, MemoryError, OSError) as error:
            sys.stderr.write(f"{file.name}: {str(error) or type(error).__name__}\n")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
