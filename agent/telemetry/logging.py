"""Log lines: readable and coloured on a terminal, one JSON object a line elsewhere, never with a secret.

``get_logger`` may be called at import time; it costs nothing until the first line. The standard library's
``logging`` (aiohttp, watchfiles, asyncio) is led through the same processors.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from datetime import datetime
from io import StringIO
from typing import Any, TextIO

_held = sys.modules.get("rich")
if _held is None:
    # structlog loads all of rich for its tracebacks if it finds it: 5 MB that a daemon never uses
    sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
finally:
    if _held is None:
        del sys.modules["rich"]

from agent.telemetry.redaction import redact_field, redact_text  # noqa: E402

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_PLAIN_KEYS = frozenset({"timestamp", "level"})


def get_logger(name: str = "") -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry ``name`` as the field ``component``; use: ``log.info("message", app="web")``."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return structlog.get_logger(component=name) if name else logger


def configure_logging(
    stream: TextIO | None = None, level: str = "info", environment: Mapping[str, str] | None = None
) -> None:
    """Send every log line to ``stream`` (standard error by default) from now on.

    On a terminal lines are for people, with colours unless NO_COLOR is set (https://no-color.org); elsewhere
    they are JSON. ``level`` is debug, info, warning or error.
    """
    stream = stream if stream is not None else sys.stderr
    environment = os.environ if environment is None else environment
    terminal = stream.isatty() and environment.get("TERM") != "dumb"
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _add_clock_time if terminal else structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *([] if terminal else [structlog.processors.format_exc_info]),
            redact_event,
            _console(not environment.get("NO_COLOR")) if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    _lead_standard_logging(level)


def _add_clock_time(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["timestamp"] = datetime.now().strftime("%H:%M:%S.%f")[:-3]
    return event


def _console(colours: bool) -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=colours, pad_event_to=32, exception_formatter=_redacted_traceback, sort_keys=False
    )


def _redacted_traceback(stream: TextIO, exception: structlog.typing.ExcInfo) -> None:
    text = StringIO()
    structlog.dev.plain_traceback(text, exception)
    stream.write(redact_text(text.getvalue()))


def redact_event(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:  # structlog's processor protocol
    """A structlog processor that takes the secrets out of every field of a line."""
    for key, value in event.items():
        if key not in _PLAIN_KEYS and key != "exc_info":
            event[key] = redact_field(key, value)
    return event


class _StructlogHandler(logging.Handler):
    """Hands a standard library log record to structlog, so that there is one format and one redaction."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(component=record.name)
        logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)


def _lead_standard_logging(level: str) -> None:
    root = logging.getLogger()
    root.handlers = [_StructlogHandler()]
    root.setLevel(max(LEVELS[level], logging.INFO))
    logging.getLogger("aiohttp.access").setLevel(logging.INFO if level == "debug" else logging.WARNING)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
