"""Log and trace settings in Triton's words."""

import itertools
import json
import logging
from pathlib import Path

import pytest

from serving.config import TracingSettings
from serving.core.errors import InvalidRequest, Unavailable
from serving.http.extensions import read_change
from serving.logs import OWN_LOGGER, current_level
from serving.triton_settings import LogChange, change_logging, changed_level, log_settings, trace_settings

LEVELS = ("debug", "info", "warning", "error")


def change(level: str, **settings: object) -> str:
    return changed_level(level, read_change(json.dumps(settings).encode()))


@pytest.mark.parametrize(("level", "wanted"), [*itertools.product(LEVELS, LEVELS)])
def test_the_settings_of_a_level_lead_to_it(level: str, wanted: str) -> None:
    assert change(level, **log_settings(wanted)) == wanted


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("body", [b"", b"{}", b'{"log_info": null}', b'{"nonsense": 1}'])
def test_what_is_not_said_stays(level: str, body: bytes) -> None:
    assert changed_level(level, read_change(body)) == level


@pytest.mark.parametrize(
    ("level", "settings", "wanted"),
    [
        ("info", {"log_verbose_level": 1}, "debug"),
        ("debug", {"log_verbose_level": 0}, "info"),
        ("info", {"log_info": False}, "warning"),
        ("debug", {"log_info": False}, "warning"),
        ("warning", {"log_warning": False}, "error"),
        ("info", {"log_info": False, "log_warning": False}, "error"),
        ("error", {"log_warning": True, "log_info": True}, "info"),
    ],
)
def test_single_settings(level: str, settings: dict, wanted: str) -> None:
    assert change(level, **settings) == wanted


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"log_error": False}, "log_error with log_warning"),
        ({"log_error": False, "log_warning": False, "log_info": False}, "errors are always logged"),
        ({"log_warning": False}, "expected every severity above"),
        ({"log_file": "/x"}, "log file location can not be updated through network protocol"),
        ({"log_format": "ISO8601"}, "log_format"),
        ({"log_info": "x"}, "log_info"),
        ({"log_verbose_level": True}, "log_verbose_level"),
    ],
)
def test_what_is_not_offered(settings: dict, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        change("info", **settings)


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_settings(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="log settings"):
        read_change(body)


async def test_a_level_that_cannot_be_told_to_the_node_is_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(OWN_LOGGER), "level", logging.INFO)
    with pytest.raises(Unavailable, match="run folder"):
        await change_logging(tmp_path / "gone", LogChange(log_verbose_level=1))
    assert current_level() == "info"


def test_traces_are_told_as_they_are() -> None:
    assert trace_settings(TracingSettings())["trace_level"] == ["OFF"]
    on = trace_settings(TracingSettings(endpoint="http://127.0.0.1:4318/v1/traces", sample_ratio=0.01))
    assert (on["trace_level"], on["trace_rate"]) == (["TIMESTAMPS"], "100")
    none = trace_settings(TracingSettings(endpoint="http://127.0.0.1:4318/v1/traces", sample_ratio=0))
    assert (none["trace_level"], none["trace_rate"]) == (["OFF"], "0")
