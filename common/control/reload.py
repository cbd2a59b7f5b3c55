"""Reading the settings anew while a process runs: the whole of them is looked at first, and a broken file changes
nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import structlog

from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import ConfigurationError, GatewayError
from common.policy.loading import evaluator_problems
from common.settings import Settings
from common.settings.changes import SettingsChanges, changes_between

log = structlog.get_logger(__name__)

TAKEN, REFUSED, UNCHANGED = "taken", "refused", "unchanged"
"""How a reload came out, in metrics."""
FILE = "file"

Commit = Callable[[], object]
Prepare = Callable[[SettingsChanges], Commit | None]
"""Makes what new settings need, and returns what puts it in place: that must not fail. None: nothing is to be done.

Raises :class:`ConfigurationError` for what cannot be made: then nothing is put in place, of others neither.
"""


class TakesOver(Protocol):
    """A process's parts, as one."""

    @property
    def settings(self) -> Settings:
        """Those that hold."""

    def take_over(self, changes: SettingsChanges) -> None:
        """Put everything in place that is live, or raise :class:`ConfigurationError` and change nothing."""


def problems_of(settings: Settings) -> list[str]:
    """What of settings that could be read would not work. Of a start some of it is only told; a reload is refused.

    A tool that cannot be made would be left out at a start. Here that would take away the tool that runs.
    """
    problems = [f"tool {problem.id}: {problem.message}" for problem in settings.tool_problems]
    return [*problems, *evaluator_problems(settings.policy)]


def changes_checked(
    now: Settings, wanted: Settings, *looks: Callable[[Settings], Iterable[str]]
) -> SettingsChanges:
    """What changes, if what would hold then is no worse than what does.

    ``wanted`` may be good as a whole, and yet not the part of it that is live beside the old rest. Raises
    :class:`ConfigurationError`.
    """
    changes = changes_between(now, wanted)
    if changes.restart and changes.live:
        for look in looks:
            known = set(look(now))
            problems = [text for text in look(changes.settings) if text not in known]
            if problems:
                words = "\n".join(problems)
                raise ConfigurationError(f"with what needs a restart as it was: {words}; restart instead")
    return changes


def checked(read: Callable[[], Settings], *further: Callable[[Settings], Iterable[str]]) -> Settings:
    """The settings as they are now. Raises :class:`ConfigurationError` that names everything that is wrong."""
    settings = read()
    problems = [*problems_of(settings), *(text for look in further for text in look(settings))]
    if problems:
        raise ConfigurationError("\n".join(problems))
    return settings


def commit_all(prepares: Iterable[Prepare], changes: SettingsChanges) -> None:
    """Let all of them make what they need, and only then put it in place."""
    commits = [prepare(changes) for prepare in prepares]
    for commit in commits:
        if commit is not None:
            commit()


class Reload:
    """Reads the settings of one process anew whenever it is called, by whichever thread; calls wait for one another.

    Fails closed in the sense that the old settings hold: it never raises. What it did is logged, counted and audited; a
    journal that cannot be written to is logged, and keeps nothing from being taken over.
    """

    def __init__(
        self,
        parts: TakesOver,
        read: Callable[[], Settings],
        *,
        process: str,
        record: Callable[[AuditEvent], object],
        count: Callable[[str], object] = lambda _outcome: None,
        looks: Sequence[Callable[[Settings], Iterable[str]]] = (),
    ) -> None:
        """``read`` gives the settings whole and checked, or raises :class:`ConfigurationError` (:func:`checked`);
        ``looks`` find what is wrong with those that would hold (:func:`changes_checked`).
        """
        self._parts = parts
        self._read = read
        self._process = process
        self._record = record
        self._count = count
        self._looks = looks
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Take over what is new."""
        with self._lock:
            try:
                changes = changes_checked(self._parts.settings, self._read(), *self._looks)
                if not changes.nothing:
                    self._parts.take_over(changes)
            except ConfigurationError as error:
                self._refused(error.message)
            except Exception as error:
                log.exception("settings_broke")
                self._refused(f"{type(error).__name__}; the process's log has more")
            else:
                self._taken(changes)

    def _taken(self, changes: SettingsChanges) -> None:
        log.info(
            "settings_reloaded",
            live=list(changes.live),
            tools_added=list(changes.added),
            tools_changed=list(changes.changed),
            tools_removed=list(changes.removed),
        )
        if changes.restart:
            log.warning("settings_need_restart", settings=list(changes.restart))
        self._count(UNCHANGED if changes.nothing else TAKEN)
        if not changes.nothing:
            self._tell(EventKind.SETTINGS_RELOADED, told(changes))

    def _refused(self, reason: str) -> None:
        log.error("settings_refused", reason=reason)
        self._count(REFUSED)
        self._tell(EventKind.SETTINGS_REFUSED, reason)

    def _tell(self, kind: EventKind, detail: str) -> None:
        try:
            self._record(AuditEvent(kind=kind, actor=FILE, node=self._process, detail=detail))
        except GatewayError as error:
            log.warning("reload_not_audited", cause=repr(error))


def told(changes: SettingsChanges) -> str:
    """The names of what changed, on one line, without any value."""
    parts = (
        ("taken over", changes.live),
        ("tools added", changes.added),
        ("tools changed", changes.changed),
        ("tools removed", changes.removed),
        ("need a restart", changes.restart),
    )
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)
