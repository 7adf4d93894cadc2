import subprocess
import sys
from pathlib import Path

import pytest

from serving.run_folder import LOGS, METRICS, RunFolderError, claimed

HOLD = """
import sys
from pathlib import Path
from serving.run_folder import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_numbers_of_an_earlier_run_go_and_its_logs_stay_once(tmp_path: Path) -> None:
    with claimed(tmp_path / "run") as folder:
        (folder / METRICS).mkdir()
        (folder / METRICS / "counter_1.db").touch()
        (folder / LOGS).mkdir()
        (folder / LOGS / "replica-1.log").write_text("the end")
    with claimed(tmp_path / "run") as folder:
        assert not (folder / METRICS).exists()
        assert not (folder / LOGS).exists()
        assert (folder / f"{LOGS}.previous" / "replica-1.log").read_text() == "the end"


def test_the_folder_is_for_its_user_only(tmp_path: Path) -> None:
    with claimed(tmp_path / "run") as folder:
        assert folder.stat().st_mode & 0o077 == 0


def test_two_servers_cannot_share_it_and_a_killed_one_leaves_it_free(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match="another Gearshift runs"), claimed(folder):
            pass
        holder.kill()
        holder.wait()
    with claimed(folder):
        pass


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="engine.runtime_dir"), claimed(tmp_path / "file" / "run"):
        pass
