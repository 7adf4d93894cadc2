import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.config import LogSettings
from serving.logs import configure_logs


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
