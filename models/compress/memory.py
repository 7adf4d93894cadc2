"""Memory that a served variant takes: `python -m models.compress.memory MODEL INPUTS` in a process of its own.

Within this process other models, and what the allocator kept of them, would blur the figure.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psutil

import models
from models.session import Session, Tensor, onnxruntime

TIMEOUT_S = 120.0
RUNS = 3
"""The first run allocates the arena, the next show that it stays."""


def measure_memory(content: bytes, inputs: Mapping[str, Tensor], timeout_s: float = TIMEOUT_S) -> int | None:
    """Bytes of resident memory that loading a model and running one batch adds; None where it cannot be told."""
    # The package is found from any working directory, also where it is not installed.
    path = os.pathsep.join([str(Path(models.__path__[0]).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory(prefix="gearshift-") as folder:
        (Path(folder) / "model.onnx").write_bytes(content)
        # Numbered, since names of inputs need not be names of files.
        np.savez(Path(folder) / "inputs.npz", *(inputs[name] for name in sorted(inputs)))
        command = [sys.executable, "-m", "models.compress.memory", folder, json.dumps(sorted(inputs))]
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter and our own module
                command, capture_output=True, timeout=timeout_s, check=True, env={**os.environ, "PYTHONPATH": path}
            )
            return int(json.loads(done.stdout)["resident_bytes"])
        except (OSError, subprocess.SubprocessError, ValueError, KeyError):
            return None


def resident_growth(folder: Path, names: list[str]) -> int:
    """Bytes by which this process grows from before the model is loaded to after it ran."""
    with np.load(folder / "inputs.npz", allow_pickle=False) as arrays:
        inputs = {name: arrays[f"arr_{at}"] for at, name in enumerate(names)}
    onnxruntime()
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    session = Session((folder / "model.onnx").read_bytes())
    for _ in range(RUNS):
        session.run(inputs)
    gc.collect()
    grown: int = process.memory_info().rss - before
    return max(0, grown)


if __name__ == "__main__":
    grown = resident_growth(Path(sys.argv[1]), json.loads(sys.argv[2]))
    sys.stdout.write(json.dumps({"resident_bytes": grown}))
