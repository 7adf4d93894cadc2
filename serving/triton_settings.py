"""Trace and log settings in Triton's words, and what of its extensions is not offered; for every protocol."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from serving.config import TracingSettings
from serving.core.errors import InvalidRequest, Unavailable
from serving.logs import current_level, set_level

NO_SHARED_MEMORY = "shared memory is not offered: send tensors in the request, in binary form where size matters"
TRACING_FIXED = "trace settings are made when the server starts, in section [tracing] of its configuration"


class LogChange(msgspec.Struct):
    """Log settings a caller wants changed; what is absent stays, and what is unknown is ignored, as Triton does."""

    log_file: str = ""
    log_info: bool | None = None
    log_warning: bool | None = None
    log_error: bool | None = None
    log_verbose_level: int | None = None
    log_format: str = "default"


def trace_settings(tracing: TracingSettings) -> dict[str, Any]:
    """What is traced, in Triton's words."""
    on = tracing.endpoint is not None and tracing.sample_ratio > 0
    return {
        "trace_level": ["TIMESTAMPS" if on else "OFF"],
        "trace_rate": str(round(1 / tracing.sample_ratio) if tracing.sample_ratio else 0),
        "trace_count": "-1",
        "log_frequency": "0",
        "trace_file": "",
        "trace_mode": "opentelemetry",
    }


def log_settings(level: str) -> dict[str, Any]:
    """What is logged from that level on, in Triton's words."""
    return {
        "log_file": "",
        "log_info": level in ("debug", "info"),
        "log_warning": level != "error",
        "log_error": True,
        "log_verbose_level": int(level == "debug"),
        "log_format": "default",
    }


def changed_level(level: str, change: LogChange) -> str:
    """The level after a change.

    Raises `InvalidRequest` for what is not offered: a file, a format, or severities without those above them.
    """
    if change.log_file:
        raise InvalidRequest("log file location can not be updated through network protocol")
    if change.log_format != "default":
        raise InvalidRequest("log_format: expected default; the format is chosen when the server starts")
    told = log_settings(level)
    wanted = {name: getattr(change, name) for name in told}
    told |= {name: value for name, value in wanted.items() if value is not None}
    if change.log_info is not None and not change.log_info and change.log_verbose_level is None:
        told["log_verbose_level"] = 0  # verbose lines are less severe than those that were just switched off
    ladder = [told["log_verbose_level"] > 0, told["log_info"], told["log_warning"], told["log_error"]]
    if ladder != sorted(ladder):
        raise InvalidRequest(
            "log settings: expected every severity above the least one that is logged: "
            "log_error with log_warning, both with log_info, all with a log_verbose_level above 0"
        )
    if not ladder[-1]:
        raise InvalidRequest("log_error: errors are always logged")
    return ("debug", "info", "warning", "error")[ladder.index(True)]


async def change_logging(run_folder: Path, change: LogChange) -> dict[str, Any]:
    """Change what every process of the node logs; returns the settings then.

    Raises `InvalidRequest` as `changed_level` does, and `Unavailable` when the node cannot be told.
    """
    level = changed_level(current_level(), change)
    try:
        await asyncio.to_thread(set_level, run_folder, level)
    except OSError as error:
        raise Unavailable("the log level cannot be changed now: the server's run folder cannot be written") from error
    return log_settings(level)
