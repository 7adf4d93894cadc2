import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from deployments.processes import end_processes, ray_processes

HOLD = "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"


@contextmanager
def child(*command: str) -> Iterator[int]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def ray_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "ray"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "worker.out").touch()
    return folder


def script(folder: Path, name: str) -> str:
    file = folder / name
    file.write_text(HOLD)
    return str(file)


def pids(ray_dir: Path) -> set[int]:
    return {process.pid for process in ray_processes(ray_dir)}


def test_only_ray_of_this_folder_is_found(tmp_path: Path, ray_dir: Path):
    ours = str(ray_dir / "logs" / "worker.out")
    other = tmp_path / "other.out"
    other.touch()
    with ExitStack() as stack:
        worker = stack.enter_context(child(sys.executable, script(tmp_path, "default_worker.py"), ours))
        reader = stack.enter_context(child(sys.executable, script(tmp_path, "tail.py"), ours))
        foreign = stack.enter_context(child(sys.executable, script(tmp_path, "agent.py"), str(other)))
        assert pids(ray_dir) == {worker}
        assert not {reader, foreign} & pids(ray_dir)
    assert pids(ray_dir) == set()


def test_a_folder_whose_name_only_begins_alike_is_another(tmp_path: Path, ray_dir: Path):
    sibling = tmp_path / "ray2"
    sibling.mkdir()
    (sibling / "worker.out").touch()
    with child(sys.executable, script(tmp_path, "default_worker.py"), str(sibling / "worker.out")):
        assert pids(ray_dir) == set()


def test_who_ignores_sigterm_is_killed():
    with child(sys.executable, "-c", DEAF) as pid:
        assert end_processes([psutil.Process(pid)]) == []
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
