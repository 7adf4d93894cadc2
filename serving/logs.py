"""Structured logs: JSON lines for machines, aligned text for people; the same events either way."""

import logging
import logging.handlers
import os
import sys
from pathlib import Path

import structlog

from serving.config import LogSettings
from serving.run_folder import LOG_LEVEL

FILE_BYTES = 10_000_000
LEVELS = ("debug", "info", "warning", "error")
OWN_LOGGER = "gearshift"
"""Parent of all our loggers; the level is set here, so libraries stay at warning."""
_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def configure_logs(settings: LogSettings, folder: Path | None = None) -> None:
    """Send every log of this process to standard error, or, for one that has no terminal, to a file of its own.

    `folder`: where the file goes; it is bounded, and always JSON unless the settings say console.
    """
    handler: logging.Handler
    if folder is None:
        handler = logging.StreamHandler()
        colours = sys.stderr.isatty()
        as_json = settings.format == "json" or (settings.format == "auto" and not colours)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"replica-{os.getpid()}.log"
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=FILE_BYTES, backupCount=1, encoding="utf-8")
        colours = False
        as_json = settings.format != "console"
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=colours)
    )
    final: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    if as_json:
        final.insert(0, structlog.processors.format_exc_info)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _extra_fields,
            ],
            processors=final,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(OWN_LOGGER).setLevel(settings.level.upper())


def current_level() -> str:
    """Least severity this process writes."""
    return logging.getLevelName(logging.getLogger(OWN_LOGGER).level).lower()


def set_level(run_folder: Path, level: str) -> None:
    """Change the least severity written by every process of this node, those started later too, until the next start.

    This process follows at once, the others within about a second (`LevelWatch`). Raises `ValueError`, or `OSError`
    when the folder cannot be written; then nothing changes.
    """
    if level not in LEVELS:
        raise ValueError(f"log level: expected one of {', '.join(LEVELS)}")
    told = run_folder / LOG_LEVEL
    fresh = told.with_name(f"{LOG_LEVEL}.{os.getpid()}")
    fresh.write_text(level, encoding="ascii")
    fresh.replace(told)
    _apply(level)


class LevelWatch:
    """Follows the level of the node. One look is one system call."""

    def __init__(self, run_folder: Path) -> None:
        self._file = run_folder / LOG_LEVEL
        self._seen: tuple[int, int] | None = None

    def follow(self) -> None:
        """Take over the level if it was changed since the last look."""
        try:
            found = self._file.stat()
        except OSError:
            return
        if (found.st_mtime_ns, found.st_ino) != self._seen:
            self._seen = found.st_mtime_ns, found.st_ino
            level = self._file.read_text(encoding="ascii").strip()
            if level in LEVELS:
                _apply(level)


def _apply(level: str) -> None:
    if level != current_level():
        logging.getLogger(OWN_LOGGER).setLevel(level.upper())
        # Whoever lowers the level wants to see that it worked; whoever raises it, when the silence began.
        severity = logging.ERROR if level == "error" else logging.WARNING
        logging.getLogger("gearshift.logs").log(severity, "log level is now %s", level)


def _extra_fields(
    logger: object,  # noqa: ARG001 - structlog's signature
    name: str,  # noqa: ARG001
    event: structlog.typing.EventDict,
) -> structlog.typing.EventDict:
    """What was passed as `extra` becomes fields of the event."""
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event.update({key: value for key, value in vars(record).items() if key not in _OWN_FIELDS})
    return event
