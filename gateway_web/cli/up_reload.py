"""What ``canalgate up`` does at a SIGHUP: look at the file, and tell its children to read it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from common.audit.journal import Journal
from common.control.reload import FILE, changes_checked, checked, told
from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import ConfigurationError, GatewayError
from common.settings import Settings, load
from common.settings.changes import PROVIDER_SECTIONS, SettingsChanges
from gateway_web.cli.output import remark_if_heard
from gateway_web.cli.programs import environment, worker_check_command
from gateway_web.identity import identity_problems
from gateway_web.listener_tls import listener_context

PROCESS = "supervisor"


CHECK_WITHIN = 20.0
"""Seconds that a look at what only workers can make may take."""
MOST_SAID = 2000
"""Characters of what it finds wrong."""


class UpReload:
    """A file that a child would refuse is told to none of them: not one changes anything then.

    It looks at what they look at: the file, its tools, evaluators and resolvers, and whether the workers could make its
    credential providers. What the children make of it after that they tell themselves.
    """

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        children: Sequence[str],
        journal: Journal,
        *,
        own_token: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """``settings`` are those of the start, ``children`` the names of those that read settings.

        With ``own_token`` they have a token in their environment, which goes before what the file says of ``admin``.
        ``check`` looks whether the providers of credentials can be made, and raises :class:`ConfigurationError`.
        """
        self._settings = settings
        self._read = read
        self._children = children
        self._journal = journal
        self._own_token = own_token
        self._check = check
        self._had_terminal = _has_terminal()

    def __call__(self, send: Callable[[Sequence[str], signal.Signals], list[str]]) -> bool:
        """Whether it was meant so; not if it came because the terminal is gone, as it does to any program."""
        if self._had_terminal and not _has_terminal():
            return False
        try:
            changes = self._changes()
        except Exception as error:  # noqa: BLE001 - what nobody foresaw must not end the children: nothing is reloaded
            self._refused(error if isinstance(error, ConfigurationError) else unforeseen(error))
            return True
        self._settings = changes.settings
        names = send(self._children, signal.SIGHUP)
        what = told(changes) or "no change"
        remark_if_heard(f"settings read; {', '.join(names)} told to take them over: {what}")
        self._look_at_certificate()
        return True

    def _refused(self, error: ConfigurationError) -> None:
        event = AuditEvent(kind=EventKind.SETTINGS_REFUSED, actor=FILE, node=PROCESS, detail=error.message)
        with contextlib.suppress(GatewayError):  # who sent the signal reads it here
            self._journal.record(event)
        remark_if_heard(f"settings not reloaded: {error.message}")

    def _look_at_certificate(self) -> None:
        """The web processes read it at the same signal, and keep the old one if they cannot."""
        if self._settings.web.tls_cert_file is not None:
            try:
                listener_context(self._settings.web)
            except ConfigurationError as error:
                remark_if_heard(f"the listener keeps the certificate that it has: {error.message}")

    def _changes(self) -> SettingsChanges:
        wanted = checked(self._read, identity_problems)
        changes = changes_checked(self._settings, wanted, identity_problems)
        if self._own_token:
            changes = without_admin(changes, self._settings)
        if not changes.sections.isdisjoint(PROVIDER_SECTIONS):
            self._check()
        return changes


def without_admin(changes: SettingsChanges, now: Settings) -> SettingsChanges:
    """The changes where nobody hears what the file says of ``admin`` until the next start."""
    waits = {name for name in changes.live if name.startswith("admin.")}
    return replace(
        changes,
        settings=changes.settings.model_copy(update={"admin": now.admin}),
        live=tuple(name for name in changes.live if name not in waits),
        restart=tuple(sorted(waits.union(changes.restart))),
    )


def unforeseen(error: Exception) -> ConfigurationError:
    """Its kind only: its words may hold what the file says."""
    return ConfigurationError(f"the settings could not be looked at: {type(error).__name__}")


def workers_check(config: Path) -> None:
    """Have a process of its own look, as workers would. Raises :class:`ConfigurationError`."""
    env = {**os.environ, **environment(config)}
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            worker_check_command(),
            env=env,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CHECK_WITHIN,
            check=False,
        )
    except OSError as error:
        raise ConfigurationError(
            f"the credential providers could not be looked at: {error.strerror}"
        ) from None
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"the credential providers could not be made within {CHECK_WITHIN:g} s"
        ) from None
    if done.returncode:
        said = done.stdout.strip()[:MOST_SAID]
        raise ConfigurationError(said or "the credential providers could not be looked at")


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
