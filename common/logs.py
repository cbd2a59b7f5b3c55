"""Logs: one line an event, for people or as JSON."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from logging.handlers import WatchedFileHandler
from typing import Any

import structlog

from common.log_masking import mask_secrets
from common.settings import LoggingSettings
from common.telemetry.about import add_facts

TRIED_AGAIN = frozenset(
    {
        "answer_not_read",
        "discovery_interrupted",
        "fetch_waits",
        "node_not_renewed",
        "replies_disconnected",
        "replies_wait",
        "reply_not_recovered",
        "session_not_asked_for",
        "strays_wait",
        "sweep_interrupted",
    }
)
"""Events that come several times a second while Redis is away, from whatever tries again until it is back."""
TOLD_EVERY = 60.0
"""Seconds between two lines about one of them."""
OVER_AFTER = 10.0
"""Seconds of silence after which one is news again."""
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_configured: tuple[str, str | None] | None = None
"""How this process named itself, and where it writes."""
_with_own_levels: set[str] = set()
"""The loggers that the settings gave levels last."""


def configure(settings: LoggingSettings, *, process: str, file: str | None = None) -> None:
    """Set up logging for this process; ``process`` names it on every line. Libraries' own lines come along.

    It goes to standard error, or to ``file``, which may be moved away while it is written (log rotation).
    """
    global _configured  # noqa: PLW0603 - a process logs in one way
    _configured = process, file
    level = _LEVELS[settings.level]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        add_facts,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(process),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            Rarely(),
            *shared,
            structlog.processors.format_exc_info,
            mask_secrets,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=file is None and sys.stderr.isatty())
    )
    handler = (
        logging.StreamHandler(sys.stderr) if file is None else WatchedFileHandler(file, encoding="utf-8")
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            # Left to the renderer, a library's exception comes with local variables, and those hold secrets.
            foreign_pre_chain=[*shared, structlog.processors.format_exc_info, mask_secrets],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    for name in _with_own_levels - settings.levels.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    _with_own_levels.clear()
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # One line a request from the HTTP client would say what our own lines say better.
    logging.getLogger("httpx").setLevel(max(level, logging.WARNING))
    logging.getLogger("httpcore").setLevel(max(level, logging.WARNING))
    for name, own in settings.levels.items():
        logging.getLogger(name).setLevel(_LEVELS[own])
        _with_own_levels.add(name)


def take_over(settings: LoggingSettings) -> None:
    """Let other settings hold in a process that has logging set up; nothing in any other."""
    if _configured is not None:
        process, file = _configured
        configure(settings, process=process, file=file)


class Rarely:
    """A processor that leaves out repetitions of :data:`TRIED_AGAIN`: the first is written, then one a minute.

    That one says in ``left_out`` how many were not. An outage is thus seen when it begins, and fills no disk.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """``now`` is a clock, in seconds."""
        self._now = now
        self._told: dict[str, _Told] = {}

    def __call__(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """The event. Raises :class:`structlog.DropEvent` for one that is left out."""
        name = event.get("event")
        if name not in TRIED_AGAIN:
            return event
        now, told = self._now(), self._told.get(name)
        if told is None or now - told.last >= OVER_AFTER:
            self._told[name] = _Told(written=now, last=now)
            return event
        told.last = now
        if now - told.written < TOLD_EVERY:
            told.left_out += 1
            raise structlog.DropEvent
        event["left_out"] = told.left_out
        told.written, told.left_out = now, 0
        return event


@dataclass(slots=True)
class _Told:
    """When an event was written, and when it came last, in seconds of the clock."""

    written: float
    last: float
    left_out: int = 0


def _named(process: str) -> Any:
    def add(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        event["process"] = process
        return event

    return add
