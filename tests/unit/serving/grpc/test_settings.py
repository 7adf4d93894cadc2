"""Trace and log settings, asked by the generated stubs."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.config import Settings
from serving.logs import current_level
from serving.run_folder import LOG_LEVEL


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    logger = logging.getLogger("gearshift")
    level = logger.level
    logger.setLevel(logging.INFO)
    settings = Settings.model_validate({"engine": {"runtime_dir": str(tmp_path)}})
    settings.run_folder.mkdir(parents=True)
    yield settings
    logger.setLevel(level)


def told(answer: pb.LogSettingsResponse) -> dict[str, Any]:
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in answer.settings.items()}


async def refused(awaitable: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await awaitable
    return failed.value.code().name, failed.value.details() or ""


async def test_log_settings_are_told_and_changed(make_desk: Any, settings: Settings) -> None:
    desk = await make_desk(settings=settings)
    before = told(await desk.stub.LogSettings(pb.LogSettingsRequest()))
    assert before == {
        "log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0,
        "log_format": "default",
    }  # fmt: skip
    change = pb.LogSettingsRequest()
    change.settings["log_info"].bool_param = False
    change.settings["log_file"].SetInParent()  # what a client sends for a setting to be cleared
    after = told(await desk.stub.LogSettings(change))
    assert after == before | {"log_info": False}
    assert current_level() == "warning"
    assert (settings.run_folder / LOG_LEVEL).read_text() == "warning", "the other processes of the node follow"


@pytest.mark.parametrize(
    ("name", "kind", "value", "text"),
    [
        ("log_info", "string_param", "no", "log settings: Expected `bool | null`"),
        ("log_verbose_level", "bool_param", True, "log settings: Expected `int | null`"),
        ("log_file", "string_param", "/elsewhere", "log file location can not be updated through network protocol"),
        ("log_error", "bool_param", False, "log_error with log_warning"),
    ],
)
async def test_log_settings_that_are_not_offered(
    make_desk: Any, settings: Settings, name: str, kind: str, value: Any, text: str
) -> None:
    desk = await make_desk(settings=settings)
    change = pb.LogSettingsRequest()
    setattr(change.settings[name], kind, value)
    code, said = await refused(desk.stub.LogSettings(change))
    assert code == "INVALID_ARGUMENT"
    assert text in said
    assert current_level() == "info"


async def test_trace_settings_are_told_and_not_changed(make_desk: Any, settings: Settings) -> None:
    desk = await make_desk(settings=settings)
    for model in ("", "m"):
        answer = await desk.stub.TraceSetting(pb.TraceSettingRequest(model_name=model))
        assert list(answer.settings["trace_level"].value) == ["OFF"]
    change = pb.TraceSettingRequest()
    change.settings["trace_rate"].value.append("5")
    code, said = await refused(desk.stub.TraceSetting(change))
    assert (code, "when the server starts" in said) == ("INVALID_ARGUMENT", True)
    code, _ = await refused(desk.stub.TraceSetting(pb.TraceSettingRequest(model_name="nobody")))
    assert code == "NOT_FOUND"
