"""Structured logs: JSON lines for machines, aligned text for people; the same events either way."""

import logging
import logging.config
import sys

import structlog

from serving.config import LogSettings

_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def configure_logs(settings: LogSettings) -> None:
    """Send every log of this process to standard error in the form the settings name."""
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    final: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    if as_json:
        final.insert(0, structlog.processors.format_exc_info)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _extra_fields,
        ],
        processors=final,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
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
