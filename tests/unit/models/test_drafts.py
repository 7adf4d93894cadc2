"""What is in the making is left to its maker, and what a killed maker left is cleared away."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models import drafts
from models.compress.store import Store, key_of
from models.drafts import clear_abandoned, folder_in_making, write_whole
from models.repository import open_repository, publish
from tests.support import tiny_models

NETS = {"a": tiny_models.affine()}
FILES = {"a.onnx": NETS["a"]}
ROOT = Path(__file__).parents[3]
HANG = "print('here', flush=True); import time; time.sleep(600)"


@pytest.fixture
def maker():
    """Start a process that stops in the middle of its work; it has begun when this returns."""
    started = []

    def start(script, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "here\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def killed(process):
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_put_in_place_whole(tmp_path):
    place = tmp_path / "deep" / "file.bin"
    write_whole(place, b"one")
    write_whole(place, b"two")
    assert place.read_bytes() == b"two"
    assert names(place.parent) == ["file.bin"]


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    place = tmp_path / "file.bin"
    write_whole(place, b"one")

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(place, b"two")
    assert (names(tmp_path), place.read_bytes()) == (["file.bin"], b"one")


def test_a_folder_that_is_not_renamed_goes(tmp_path):
    with folder_in_making(tmp_path / "family", ".new-") as folder:
        (folder / "file").write_bytes(b"x")
        assert folder.name.startswith(".new-")
    assert names(tmp_path / "family") == []
    with folder_in_making(tmp_path / "family", ".new-") as folder:
        folder.rename(tmp_path / "family" / "1")
    assert names(tmp_path / "family") == ["1"]


def test_what_was_cleared_away_in_the_moment_before_it_was_held_is_made_again(tmp_path, monkeypatch):
    """Between making a folder and holding it another process may have taken it for abandoned."""
    real, cleared = drafts._held, []

    def late(handle, path):
        if not cleared:
            cleared.extend(clear_abandoned(tmp_path, ".new-*") + clear_abandoned(tmp_path, "*.tmp"))
        return real(handle, path)

    monkeypatch.setattr(drafts, "_held", late)
    with folder_in_making(tmp_path, ".new-") as folder:
        assert len(cleared) == 1
        assert folder.is_dir()
    cleared.clear()
    write_whole(tmp_path / "file", b"x")
    assert len(cleared) == 1
    assert names(tmp_path) == ["file"]


def test_where_locks_are_not_known_things_are_made_and_nothing_is_cleared(tmp_path, monkeypatch):
    (tmp_path / "left.tmp").write_bytes(b"x")

    def unknown(handle, operation):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(drafts.fcntl, "flock", unknown)
    assert clear_abandoned(tmp_path, "*.tmp") == []
    write_whole(tmp_path / "file", b"x")
    assert names(tmp_path) == ["file", "left.tmp"]


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"x")
    (tmp_path / ".new-1").symlink_to(tmp_path / "elsewhere")
    assert clear_abandoned(tmp_path, ".new-*") == []
    assert names(tmp_path / "elsewhere") == ["file"]


def test_what_a_killed_publisher_left_goes_with_the_next_version_and_that_of_a_living_one_stays(tmp_path, maker):
    script = (
        "import sys; from pathlib import Path; from models import repository; from tests.support import tiny_models\n"
        "real, written = repository._write, []\n"
        "def slow(path, content):\n"
        f"    if written: {HANG}\n"
        "    real(path, content); written.append(path)\n"
        "repository._write = slow\n"
        "files = {'a.onnx': tiny_models.affine()}\n"
        "family = tiny_models.family_of({'a': files['a.onnx']}, name='tiny', version='7')\n"
        "repository.publish(Path(sys.argv[1]), family, files)\n"
    )
    dead, alive = maker(script, tmp_path), maker(script, tmp_path)
    left = {path: [file.name for file in path.iterdir()] for path in (tmp_path / "tiny").iterdir()}
    assert list(left.values()) == [["a.onnx"]] * 2, "both stopped with one file written"
    killed(dead)
    publish(tmp_path, tiny_models.family_of(NETS, name="tiny", version="1"), FILES)
    assert len(set(names(tmp_path / "tiny")) - {"1"}) == 1, "only that of the living one is there"
    killed(alive)
    publish(tmp_path, tiny_models.family_of(NETS, name="tiny", version="2"), FILES)
    assert names(tmp_path / "tiny") == ["1", "2"]
    assert [artifact.key for artifact in open_repository(tmp_path).artifacts] == ["tiny/1", "tiny/2"]


def test_what_was_being_remembered_when_it_was_killed_goes_when_the_store_is_opened(tmp_path, maker):
    script = (
        "import sys; from pathlib import Path; from models.compress.store import Store, key_of\n"
        f"def slow(self, target): {HANG}\n"
        "store = Store(Path(sys.argv[1])); Path.replace = slow\n"
        "store.keep(key_of('x'), {}, b'model')\n"
    )
    process = maker(script, tmp_path)

    def left():
        return [path for path in tmp_path.rglob("*") if path.is_file()]

    assert [path.suffix for path in left()] == [drafts.SUFFIX]
    Store(tmp_path)
    assert len(left()) == 1, "its maker lives"
    killed(process)
    assert Store(tmp_path).recall(key_of("x")) is None
    assert left() == []
