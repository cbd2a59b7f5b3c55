"""A message as it lies in a tool's queue: kombu's Redis envelope around Celery's protocol 2."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from celery.utils.time import maybe_iso8601

from common.calls.contract import REDACTED
from common.calls.dead_letters import Reason
from common.calls.head import MEMBER, Head, head_from_text
from common.domain.errors import FormatTooNew, GatewayError, InvalidRequest
from common.domain.formats import check_format
from common.domain.ids import MAX_ID_LENGTH
from common.domain.invocation import WIRE_VERSION

WRAPPING = 4
"""How much larger than a request's body its message can be. Quotes inside a string inside a string are escaped twice
(2), numbers are written out (``1e15``, not quite 4); never both."""
ENVELOPE = 64 * 1024
JSON = "application/json"
OVERSIZED = re.compile(rb"\xffoversized (\d+) ")
"""Begins what ``fetch.lua`` makes of a message above the bound."""
_TAIL = 64 * 1024
_HEAD = re.compile(rb'\{"enqueued_at":\d+,"circuit":\d+,"canalgate":"([^"]*)"')
"""As ``head_of`` in ``common/store/lua/lib/heads.lua`` finds it."""
_NAMED = {
    name: re.compile(rb'"%b":\s*"([^"\\\x00-\x1f]{1,%d})"' % (name.encode(), MAX_ID_LENGTH))
    for name in ("correlation_id", "reply_to")
}


def largest_message(max_body_bytes: int) -> int:
    """Bytes of the largest message that a request within ``web.max_body_bytes`` can become."""
    return max_body_bytes * WRAPPING + ENVELOPE


class PoisonMessage(InvalidRequest):
    """A message that this worker cannot run, and most will never: it goes to the dead letters."""

    def __init__(self, reason: Reason, message: str, *, field: str) -> None:
        super().__init__(message, field=field)
        self.reason = reason
        self.told: GatewayError = self
        """What whoever waits for the call is told."""


def poison_of(error: FormatTooNew | InvalidRequest) -> PoisonMessage:
    """The poison of a part of ours that cannot be read; that of a newer release is told apart."""
    newer = isinstance(error, FormatTooNew)
    reason = Reason.NEWER_FORMAT if newer else Reason.BAD_INVOCATION
    poison = PoisonMessage(reason, error.message, field=str(error.data.get("field", MEMBER)))
    if newer:
        poison.told = error
    return poison


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMessage:
    """What the engine needs of a message; the body stays encoded until the task runs."""

    id: str
    task: str
    queue: str
    reply_to: str
    headers: Mapping[str, Any] = field(repr=False)
    envelope: Mapping[str, Any] = field(repr=False)

    def expired(self, now: datetime) -> bool:
        """True if the producer gave an ``expires`` that has passed."""
        expires = self.headers.get("expires")
        if not isinstance(expires, str):
            return False
        try:
            moment = datetime.fromisoformat(expires)
        except ValueError:
            return False
        return moment.replace(tzinfo=moment.tzinfo or UTC) <= now

    @property
    def delayed(self) -> bool:
        """True for an ETA or countdown, which Celery's own timer handles."""
        return self.headers.get("eta") is not None

    def first_argument(self) -> Mapping[str, Any]:
        """The payload of ``gateway.invoke``.

        Raises :class:`PoisonMessage` if it cannot be read, :class:`InvalidRequest` if it is not the one argument
        that the task takes.
        """
        args, kwargs = self._arguments()
        if len(args) == 1:
            return _payload(args[0])
        if "invocation" in kwargs:
            return _payload(kwargs["invocation"])
        raise InvalidRequest("gateway.invoke takes one argument, the invocation", field="args")

    def check_for_celery(self, known: Callable[[str], bool]) -> None:
        """Raise :class:`PoisonMessage` for what Celery's own path would drop; ``known`` tells the tasks it has."""
        if not known(self.task):
            raise PoisonMessage(Reason.UNKNOWN_TASK, "no worker has a task of this name", field="task")
        self._arguments()
        for name in ("eta", "expires"):
            _check_time(name, self.headers.get(name))
        properties = self.envelope["properties"]
        for name, good in (
            ("delivery_tag", isinstance(properties.get("delivery_tag"), str)),
            ("delivery_info", _is_delivery_info(properties.get("delivery_info"))),
            ("timelimit", _is_time_limit(self.headers.get("timelimit"))),
        ):
            if not good:
                raise PoisonMessage(Reason.NOT_CELERY, f"{name} is of the wrong type", field=name)

    def without_arguments(self) -> dict[str, Any]:
        """The envelope with nothing of the arguments in the texts that Celery shows in its events and logs."""
        return {**self.envelope, "headers": {**self.headers, "argsrepr": REDACTED, "kwargsrepr": "{}"}}

    def _arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """Positional and named arguments. Raises :class:`PoisonMessage` if the body is not Celery's."""
        if self.headers.get("compression") or self.envelope.get("content-type", JSON) != JSON:
            raise _bad_body()
        body = self.envelope.get("body")
        try:
            raw = body.encode() if isinstance(body, str) else b""
            if self.envelope["properties"].get("body_encoding") == "base64":
                raw = base64.b64decode(raw)
            args, kwargs, _ = orjson.loads(raw)
        except (ValueError, TypeError) as error:
            raise _bad_body() from error
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise _bad_body()
        return args, kwargs


def _check_time(name: str, value: object) -> None:
    """Raise :class:`PoisonMessage` for what Celery cannot read as a time."""
    if value is None:
        return
    try:
        moment = maybe_iso8601(value) if isinstance(value, str) else None
        if moment is None:
            raise ValueError(name)
        moment.astimezone().timestamp()
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise PoisonMessage(Reason.NOT_CELERY, f"{name} is not a time in ISO 8601", field=name) from error


def _is_delivery_info(value: object) -> bool:
    """Whether kombu finds in it where the message was sent."""
    return isinstance(value, dict) and all(
        isinstance(value.get(name), str) for name in ("exchange", "routing_key")
    )


def _is_time_limit(value: object) -> bool:
    """Whether it is a hard and a soft limit, each in seconds or not given."""
    if not isinstance(value, list):
        return value is None
    return len(value) == 2 and all(isinstance(limit, int | float | None) for limit in value)


def _bad_body() -> PoisonMessage:
    return PoisonMessage(
        Reason.BAD_BODY, "the task's body is not Celery protocol 2 in plain JSON", field="body"
    )


def _payload(argument: object) -> Mapping[str, Any]:
    """Raises :class:`PoisonMessage` for what is no invocation, or one of a format that is not known here."""
    if not isinstance(argument, dict):
        raise PoisonMessage(
            Reason.BAD_INVOCATION,
            "the invocation must be an object with tool, method and params",
            field="args",
        )
    try:
        check_format(argument, WIRE_VERSION, what="the invocation")
    except (FormatTooNew, InvalidRequest) as error:
        raise poison_of(error) from error
    return argument


def read_message(raw: bytes, queue: str) -> TaskMessage:
    """Read an envelope. Raises :class:`PoisonMessage` for what is none; its text holds nothing of the message."""
    if raw[:1] == b"\xff" and (found := OVERSIZED.match(raw)):
        size = found[1].decode()
        raise PoisonMessage(
            Reason.OVERSIZED,
            f"the message has {size} bytes, more than any call within web.max_body_bytes",
            field="message",
        )
    try:
        envelope = orjson.loads(raw)
    except ValueError as error:
        raise PoisonMessage(
            Reason.NOT_JSON, "not a Celery message: it is not JSON", field="message"
        ) from error
    try:
        headers = envelope["headers"]
        properties = envelope["properties"]
        queue = queue or str((properties.get("delivery_info") or {}).get("routing_key") or "")
        return TaskMessage(
            id=_name(headers["id"]),
            task=_name(headers["task"]),
            queue=queue,
            reply_to=str(properties.get("reply_to") or ""),
            headers=headers,
            envelope=envelope,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PoisonMessage(
            Reason.NOT_CELERY,
            f"not a Celery message of protocol 2 ({_fault(error)})",
            field="message",
        ) from error


def head_in(raw: bytes) -> Head | None:
    """The head by which Redis counted a message, whatever stands behind it; None without one. Never raises."""
    found = _HEAD.match(raw)
    try:
        return None if found is None else head_from_text(found[1].decode())
    except (FormatTooNew, InvalidRequest, UnicodeDecodeError):
        return None


def _name(value: object) -> str:
    """An id or a task's name. Raises :class:`ValueError` for what cannot stand in the name of a key."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_LENGTH:
        raise ValueError("id and task must be texts of 1 to 512 characters")
    return value


def _fault(error: Exception) -> str:
    """What is wrong, without a word of the message itself."""
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return str(error) if type(error) is ValueError else "a part is of the wrong type"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """What can be told of a message that cannot be run: whose answer is waited for where. Empty: not known."""

    id: str = ""
    task: str = ""
    reply_to: str = ""


def sender_of(raw: bytes) -> Sender:
    """Whoever sent it, as far as that can be read; never raises.

    Celery's properties stand at the end of a message, so they are found there even if the rest was cut or is no JSON.
    """
    try:
        envelope = orjson.loads(raw)
    except ValueError:
        tail = raw[-_TAIL:]
        last = {name: (wanted.findall(tail) or [b""])[-1] for name, wanted in _NAMED.items()}
        return Sender(
            id=last["correlation_id"].decode(errors="replace"),
            reply_to=last["reply_to"].decode(errors="replace"),
        )
    parts = envelope if isinstance(envelope, dict) else {}
    headers, properties = (
        part if isinstance(part := parts.get(name), dict) else {} for name in ("headers", "properties")
    )
    return Sender(
        id=_text(headers.get("id")) or _text(properties.get("correlation_id")),
        task=_text(headers.get("task")),
        reply_to=_text(properties.get("reply_to")),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= MAX_ID_LENGTH else ""
