"""The history of a run: what callers, backends, workers and the harness wrote down, read into one.

All event files are JSON lines with ``event`` and ``at``, seconds of the machine's monotonic clock, which is one clock
for all processes; so events of different files are put in order by it. The gateway's own logs have the time of day.

==================  =========================================================================================
file                events
==================  =========================================================================================
``client.jsonl``    ``sent``, ``ended`` (:mod:`tests.chaos.load`)
``backend.jsonl``   ``opened``, ``got``, ``done``, ``cancelled``, ``broke`` (:mod:`tests.support.servers.recorder_core`)
``harness.jsonl``   ``fault``, ``exit``, ``orphans``, ``sample``, ``rest`` (:mod:`tests.chaos.cluster`)
``worker*.log``     the workers' structured log: ``session_opened``, ``call_begun``, ``answer_refused`` ...
==================  =========================================================================================

What a history is judged by is in :mod:`tests.support.invariants`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson

Json = Mapping[str, Any]
T = TypeVar("T", "Ended", "Seen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A call whose bytes were written to a web process. ``leave``: its operator lets it run twice.

    ``allowed`` is False for one that has to be refused, whatever is broken. ``deadline`` is in seconds.
    """

    call: str
    at: float
    port: int
    tool: str
    tenant: str
    client: str
    era: str
    deadline: float
    leave: bool = False
    allowed: bool = True
    action: str = "act"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a call ended for its caller: see :mod:`tests.chaos.load` for the outcomes."""

    call: str
    at: float
    outcome: str
    code: str | None = None
    unknown: bool = False
    seconds: float = 0.0
    echo: Json | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An event at a backend: ``kind`` is ``got``, ``done``, ``cancelled`` or ``broke``; ``era`` is the caller's."""

    kind: str
    call: str
    at: float
    tool: str
    marker: str | None
    tenant: str | None
    client: str | None
    era: str | None
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A backend's session began in process ``pid`` below ``ancestors``; ``wall`` is the time of day."""

    marker: str | None
    at: float
    wall: float
    tool: str
    pid: int
    ancestors: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What the harness did: ``kill``, ``term``, ``stop``, ``cont``, ``start``, ``lose``, ``up``, ``down`` ..."""

    what: str
    at: float
    process: str
    kind: str
    pid: int = 0
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLine:
    """A worker's line about a session: ``kind`` is ``session_opened``, ``session_closed`` or ``call_begun``.

    ``worker`` is the process that wrote it, ``pid`` that of the backend, if it is a child.
    """

    kind: str
    wall: float
    worker: str
    tool: str
    session: str
    fence: int
    pid: int | None


@dataclass(slots=True)
class History:
    """All events of a run, each kind in the order of time."""

    sent: list[Sent] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    opened: list[Opened] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    sessions: list[SessionLine] = field(default_factory=list)
    exits: list[Json] = field(default_factory=list)
    orphans: list[Json] = field(default_factory=list)
    samples: list[Json] = field(default_factory=list)
    rests: list[Json] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, home: Path) -> History:
        """The history in a directory."""
        history = cls()
        for name in ("client.jsonl", "backend.jsonl", "harness.jsonl"):
            path = home / name
            for line in path.read_bytes().splitlines() if path.exists() else ():
                history._take(name, line)
        for path in sorted(home.glob("worker*.log")):
            for line in path.read_bytes().splitlines():
                history._take_log(line)
        history._sort()
        return history

    def calls(self) -> dict[str, Sent]:
        """The calls sent, by their ids."""
        return {call.call: call for call in self.sent}

    def ends(self) -> dict[str, list[Ended]]:
        """The ends of each call."""
        return grouped(self.ended)

    def got(self) -> dict[str, list[Seen]]:
        """For each call how often, and where, a backend got it."""
        return grouped(event for event in self.seen if event.kind == "got")

    def _take(self, name: str, line: bytes) -> None:
        """One line of an event file. It is written in one piece, so that one which cannot be read is a fault."""
        try:
            event = orjson.loads(line)
            kind = event["event"]
            if name == "client.jsonl":
                self._take_client(kind, event)
            elif name == "backend.jsonl":
                self._take_backend(kind, event)
            else:
                self._take_harness(kind, event)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            self.unreadable.append(f"{name}: {error!r}: {line[:200]!r}")

    def _take_client(self, kind: str, event: Json) -> None:
        if kind == "sent":
            self.sent.append(Sent(**_picked(Sent, event)))
        elif kind == "ended":
            self.ended.append(Ended(**_picked(Ended, event)))
        else:
            raise ValueError(kind)

    def _take_backend(self, kind: str, event: Json) -> None:
        if kind == "opened":
            fields = _picked(Opened, event)
            self.opened.append(Opened(**{**fields, "ancestors": tuple(event["ancestors"])}))
        else:
            self.seen.append(Seen(kind=kind, **_picked(Seen, event)))

    def _take_harness(self, kind: str, event: Json) -> None:
        lists = {"exit": self.exits, "orphans": self.orphans, "sample": self.samples, "rest": self.rests}
        if kind == "fault":
            self.faults.append(Fault(**_picked(Fault, event)))
        elif kind in lists:
            lists[kind].append(event)

    def _take_log(self, line: bytes) -> None:
        """One line of a worker's log; what is no event of ours is passed over, as is a line cut off by a death."""
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError:
            return
        if not isinstance(event, dict) or event.get("event") not in _SESSION_EVENTS or not event.get("fence"):
            return
        try:
            self.sessions.append(
                SessionLine(
                    kind=event["event"],
                    wall=datetime.fromisoformat(event["timestamp"]).timestamp(),
                    worker=str(event["process"]),
                    tool=str(event.get("tool") or event["queue"].removeprefix("tool.")),
                    session=str(event["session"]),
                    fence=int(event["fence"]),
                    pid=event.get("pid"),
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            self.unreadable.append(f"worker log: {error!r}: {line[:200]!r}")

    def _sort(self) -> None:
        self.sent.sort(key=_at)
        self.ended.sort(key=_at)
        self.seen.sort(key=_at)
        self.opened.sort(key=_at)
        self.faults.sort(key=_at)
        self.sessions.sort(key=lambda line: line.wall)


_SESSION_EVENTS = frozenset({"session_opened", "session_closed", "call_begun"})


def grouped(events: Iterable[T]) -> dict[str, list[T]]:
    """Events by their calls."""
    found: defaultdict[str, list[T]] = defaultdict(list)
    for event in events:
        found[event.call].append(event)
    return found


def _picked(kind: Any, event: Json) -> dict[str, Any]:
    return {name: event[name] for name in kind.__dataclass_fields__ if name in event}


def _at(event: Any) -> float:
    return float(event.at)
