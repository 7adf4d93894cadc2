import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models import canary
from models.canary import CanaryError, try_files, try_out
from models.repository import Artifact, open_family, publish
from tests.support import tiny_models


def artifact_of(root: Path, content: bytes) -> Artifact:
    family = tiny_models.family_of({"only": content})
    return open_family(publish(root, family, {"only.onnx": content}))


def child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """In the place of the canary's process: this code."""
    run = subprocess.run

    def instead(_command: list[str], **rest: object) -> "subprocess.CompletedProcess[bytes]":
        return run([sys.executable, "-c", code], **rest)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(canary.subprocess, "run", instead)


def test_a_good_model_passes_also_when_it_refuses_random_input(tmp_path: Path) -> None:
    try_out(artifact_of(tmp_path, tiny_models.picky(3)))


def test_a_file_that_is_no_model_is_named_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "bad.onnx"
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(CanaryError, match=r"it failed: bad\.onnx: ONNX Runtime .* cannot load it"):
        try_files([file])


def test_a_crash_stays_in_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, f"import os; os.kill(os.getpid(), {signal.SIGSEGV.value})")
    with pytest.raises(CanaryError, match="it ended that process with signal 11: Segmentation fault"):
        try_files([tmp_path / "any.onnx"])


def test_a_hang_ends_with_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "import threading; threading.Event().wait(60)")
    with pytest.raises(CanaryError, match=r"not done within 0\.2 s"):
        try_files([tmp_path / "any.onnx"], timeout_s=0.2)


def test_memory_is_limited(tmp_path: Path) -> None:
    with pytest.raises(CanaryError, match="tried in a process of its own"):
        try_out(artifact_of(tmp_path, tiny_models.affine()), memory_bytes=96 << 20)


def test_the_child_knows_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTE_TOKEN", "secret")
    child(monkeypatch, "import os, sys; sys.exit('REMOTE_TOKEN' in os.environ)")
    assert "REMOTE_TOKEN" in os.environ
    try_files([tmp_path / "any.onnx"])
