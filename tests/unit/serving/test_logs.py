import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.config import LogSettings
from serving.logs import LevelWatch, configure_logs, current_level, set_level
from serving.run_folder import LOG_LEVEL


@pytest.fixture(autouse=True)
def kept_root() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("gearshift")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def lines(folder: Path) -> list[dict[str, object]]:
    (file,) = folder.glob("*.log")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_fields_of_an_event_are_fields_of_its_line(tmp_path: Path) -> None:
    configure_logs(LogSettings(), tmp_path)
    logging.getLogger("gearshift.http").warning("refused: %s", "why", extra={"request_id": "a-1", "status": 503})
    (line,) = lines(tmp_path)
    assert line["event"] == "refused: why"
    assert (line["request_id"], line["status"], line["level"]) == ("a-1", 503, "warning")
    assert line["logger"] == "gearshift.http"
    assert str(line["timestamp"]).endswith("Z")


def test_an_exception_is_one_line(tmp_path: Path) -> None:
    configure_logs(LogSettings(), tmp_path)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("gearshift").exception("failed")
    (line,) = lines(tmp_path)
    assert "ValueError: broken" in str(line["exception"])


def test_levels_hold_for_our_loggers_only(tmp_path: Path) -> None:
    configure_logs(LogSettings(level="info"), tmp_path)
    logging.getLogger("gearshift.replica").info("told")
    logging.getLogger("gearshift.replica").debug("not told")
    logging.getLogger("somebody.else").info("not told")
    assert [line["event"] for line in lines(tmp_path)] == ["told"]


def test_json_on_a_stream_that_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogSettings(format="json"))
    logging.getLogger("gearshift").warning("careful", extra={"rows": 3})
    assert json.loads(capsys.readouterr().err)["rows"] == 3


def test_a_level_is_changed_while_it_runs(tmp_path: Path) -> None:
    configure_logs(LogSettings(level="info"), tmp_path)
    log = logging.getLogger("gearshift.replica")
    set_level(tmp_path, "debug")
    log.debug("told")
    set_level(tmp_path, "error")
    log.warning("not told")
    assert current_level() == "error"
    assert [line["event"] for line in lines(tmp_path)] == ["log level is now debug", "told", "log level is now error"]


def test_other_processes_of_the_node_follow(tmp_path: Path) -> None:
    configure_logs(LogSettings(level="info"), tmp_path)
    watch = LevelWatch(tmp_path)
    watch.follow()
    assert current_level() == "info"
    set_level(tmp_path, "debug")
    logging.getLogger("gearshift").setLevel("INFO")  # as in a process where nobody asked
    watch.follow()
    assert current_level() == "debug"


def test_a_level_is_taken_over_once(tmp_path: Path) -> None:
    configure_logs(LogSettings(level="info"), tmp_path)
    set_level(tmp_path, "debug")
    watch = LevelWatch(tmp_path)
    watch.follow()
    logging.getLogger("gearshift").setLevel("WARNING")  # by hand, in this process only
    watch.follow()
    assert current_level() == "warning"


@pytest.mark.parametrize("written", ["verbose", "", "\x00"])
def test_a_file_that_is_no_level_changes_nothing(tmp_path: Path, written: str) -> None:
    configure_logs(LogSettings(level="info"), tmp_path)
    (tmp_path / LOG_LEVEL).write_text(written)
    LevelWatch(tmp_path).follow()
    assert current_level() == "info"


def test_an_unknown_level_is_refused(tmp_path: Path) -> None:
    configure_logs(LogSettings(level="info"), tmp_path)
    with pytest.raises(ValueError, match="debug, info, warning, error"):
        set_level(tmp_path, "verbose")
    assert current_level() == "info"
    assert not (tmp_path / LOG_LEVEL).exists()


def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    configure_logs(LogSettings(level="info"), tmp_path)
    with pytest.raises(OSError, match="gone"):
        set_level(tmp_path / "gone", "debug")
    assert current_level() == "info"
