"""Structured logs: JSON lines for machines, aligned text for people; the same events either way."""

import logging
import logging.handlers
import os
import sys
from pathlib import Path

import structlog

from serving.config import LogSettings

FILE_BYTES = 10_000_000
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
    logging.getLogger("gearshift").setLevel(settings.level.upper())


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
