"""What a supervisor tells while it works."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EventKind(StrEnum):
    """What happened to a child."""

    STARTED = "started"
    READY = "ready"
    NOT_READY = "not_ready"
    """It did not become ready in time after a restart, and is killed and started again."""
    EXITED = "exited"
    RESTARTING = "restarting"
    """It will be started again in ``seconds``."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    KILLED = "killed"
    """It did not stop in time, or a second signal came."""
    REAPER_RESTARTED = "reaper_restarted"
    """The reaper of child processes had died. ``child`` is ``reaper``."""
    REAPER_LOST = "reaper_lost"
    """It had died and cannot be started again for now: were we killed, children would live on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    Attributes:
        child: name of the child.
        pid: its process id, if it has one.
        seconds: from start to ready, or until the next start, or that stopping took, depending on ``kind``.
        detail: words for a person, such as how a process ended. No secrets.
    """

    kind: EventKind
    child: str
    pid: int | None = None
    seconds: float | None = None
    detail: str = ""
