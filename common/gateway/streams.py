"""A call as a Python program sees it: what comes before the result, then exactly one result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from common.calls.call import Call
from common.calls.replies import Frame, Notification
from common.domain.errors import GatewayError, InternalError
from common.domain.invocation import ExecutionResult, failed

PROGRESS = "notifications/progress"
TOKEN = "progress"  # noqa: S105 - a name for what is of this call
FOREVER = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a call is: ``progress`` of ``total``, which is None if the tool does not say."""

    progress: float
    total: float | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Any other notification that a tool sends in the course of a call, such as a log message."""

    method: str
    params: Mapping[str, Any]


Event = Progress | Notice


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """All that came of a call."""

    events: tuple[Event, ...]
    result: ExecutionResult


def event_of(frame: Frame | None) -> Event | None:
    """What a program is given of a frame; None for what is not for it: it answers no requests of tools."""
    if not isinstance(frame, Notification):
        return None
    params = frame.message.get("params")
    params = params if isinstance(params, Mapping) else {}
    method = str(frame.message.get("method", ""))
    progress, message = _number(params.get("progress")), params.get("message")
    if method != PROGRESS or progress is None:
        return Notice(method=method, params=params)
    return Progress(
        progress=progress,
        total=_number(params.get("total")),
        message=message if isinstance(message, str) else None,
    )


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def with_progress(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The params of a call that asks for progress. One that has a token of its own keeps it."""
    meta = params.get("_meta")
    meta = meta if isinstance(meta, Mapping) else {}
    return {**params, "_meta": {"progressToken": TOKEN, **meta}}


class CallStream:
    """Iterate over the events of a call, then ask for its :meth:`result`; a context manager that leaves no call behind.

    Belongs to one thread; :meth:`cancel` may come from any. Whatever ends the call, refusals included, is a result: its
    ``failure`` tells, and ``ExecutionResult.value`` raises it.
    """

    def __init__(self, begin: Callable[[], Call], ended: Callable[[CallStream], None]) -> None:
        """``begin`` sends the call on its way, at once; ``ended`` is told when nobody listens any more."""
        self._ended = ended
        self._call: Call | None = None
        self._result: ExecutionResult | None = None
        try:
            self._call = begin()
        except GatewayError as error:
            self._result = failed(error)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while self._result is None and self._call is not None:
            frame = self._call.next(FOREVER)
            if isinstance(frame, ExecutionResult):
                self._result = frame
                self.close()
            elif (event := event_of(frame)) is not None:
                return event
        raise StopIteration

    def result(self) -> ExecutionResult:
        """The one result; waits for it, and leaves out the events that were not read. Asked again it is the same."""
        for _ in self:
            pass
        return self._result or failed(InternalError("the stream was closed before its call had ended"))

    def collect(self) -> Collected:
        """All events that were not read yet, and the result."""
        events = tuple(self)
        return Collected(events=events, result=self.result())

    @property
    def ended(self) -> bool:
        """Whether the result is there, or nobody listens any more."""
        return self._result is not None or self._call is None

    def abandon(self) -> None:
        """As :meth:`cancel`."""
        self.cancel()

    def cancel(self) -> None:
        """Take the call back: its result is INVOCATION_CANCELLED, unless it has one already."""
        call = self._call
        if call is not None and self._result is None:
            call.cancel()

    def close(self) -> None:
        """Listen no longer. A call that has not ended is taken back."""
        call, self._call = self._call, None
        if call is not None:
            if self._result is None:
                call.cancel()
            call.close()
        self._ended(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
