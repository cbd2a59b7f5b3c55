"""What ``canalgate up`` does at a SIGHUP: look at the file, and have its children read it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from common.audit.journal import Journal
from common.control.reload import FILE, checked, told
from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import ConfigurationError, GatewayError
from common.settings import Settings, load
from common.settings.changes import changes_between
from gateway_web.cli.output import remark
from gateway_web.identity import identity_problems

PROCESS = "supervisor"


class UpReload:
    """A file that could not be taken over is told to nobody: not one of the children changes anything then."""

    def __init__(
        self, settings: Settings, read: Callable[[], Settings], children: Sequence[str], journal: Journal
    ) -> None:
        """``settings`` are those of the start, ``children`` the names of those that read settings."""
        self._settings = settings
        self._read = read
        self._children = children
        self._journal = journal
        self._had_terminal = _has_terminal()

    def __call__(self, send: Callable[[Sequence[str], signal.Signals], list[str]]) -> bool:
        """Whether it was meant so; not if it came because the terminal is gone, as it does to any program."""
        if self._had_terminal and not _has_terminal():
            return False
        try:
            changes = changes_between(self._settings, checked(self._read, identity_problems))
        except ConfigurationError as error:
            remark(f"settings not reloaded: {error.message}")
            event = AuditEvent(
                kind=EventKind.SETTINGS_REFUSED, actor=FILE, node=PROCESS, detail=error.message
            )
            with contextlib.suppress(GatewayError):  # who sent the signal reads it here
                self._journal.record(event)
            return True
        self._settings = changes.settings
        names = send(self._children, signal.SIGHUP)
        remark(f"settings reloaded by {', '.join(names)}: {told(changes) or 'no change'}")
        return True


def reader(file: Path, host: str | None, port: int | None) -> Callable[[], Settings]:
    """What reads the file as at the start."""
    return lambda: load(file, overrides={"web.host": host, "web.port": port})


def _has_terminal() -> bool:
    """Whether this process has a terminal that is there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
