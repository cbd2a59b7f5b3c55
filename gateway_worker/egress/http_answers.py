"""What comes back over HTTP: bodies and event streams, and the answer in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from gateway_worker.egress.http1 import Response
from gateway_worker.egress.link import LinkLost, RpcError
from gateway_worker.egress.sse import ServerSentEvent

RESUME_DELAY, RESUME_DELAY_LEAST = 1.0, 0.05
AN_ANSWER = re.compile(r'\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*|"id"\s*:\s*\d+\s*,\s*)*"(?:result|error)"\s*:')
"""How a message begins that is certainly no notification and no request."""
_SECONDS = re.compile(r"[0-9]{1,9}")
"""More digits are no time, and Python refuses to read thousands of them."""


@dataclass(slots=True)
class Place:
    """How far a stream was read, and how to go on: ``delay`` in seconds, ``attempts`` since the last event."""

    last_id: str = ""
    delay: float = RESUME_DELAY
    attempts: int = 0

    def pass_by(self, event: ServerSentEvent) -> None:
        """This event was read."""
        self.attempts = 0
        if event.id is not None:
            self.last_id = event.id
        if event.retry is not None:
            self.delay = event.retry / 1000


def in_utf8(event_id: str) -> str:
    """As a header value, whose characters are bytes (WHATWG HTML, section 9.2.4)."""
    return event_id.encode("utf-8").decode("latin-1")


def refuse_encoded(response: Response) -> None:
    """Raise :class:`LinkLost` for an answer in a content encoding: none is asked for."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise LinkLost(
            f"the tool's URL answered with content encoding {encoding[:40]!r}, which was not asked for"
        )


def seconds_of(retry_after: str | None) -> int | None:
    """The header's value if it is a number of seconds, of no more digits than a time has; a date is no such number."""
    found = _SECONDS.fullmatch(retry_after or "")
    return int(found[0]) if found else None


def parsed(raw: bytes, *, answered: bool = False) -> dict[str, Any]:
    """The message in the bytes. Raises :class:`LinkLost`; ``answered`` says that they came as an answer."""
    try:
        message = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise LinkLost("the tool's answer is no JSON", answered=answered) from error
    if not isinstance(message, dict):
        raise LinkLost("the tool's answer is no JSON-RPC message", answered=answered)
    return message


def answer_to(request_id: int, message: dict[str, Any]) -> dict[str, Any]:
    """The message itself; an answer to another request means that the connection is out of step."""
    if message.get("id") != request_id and not (message.get("id") is None and "error" in message):
        raise LinkLost("the tool answered another request than it was sent")
    return message


def result_of(message: dict[str, Any]) -> dict[str, Any]:
    """The result in an answer. Raises :class:`RpcError` for an error, :class:`LinkLost` if there is neither."""
    error, result = message.get("error"), message.get("result")
    if isinstance(error, dict):
        raise RpcError(error)
    if not isinstance(result, dict):
        raise LinkLost("the tool's answer has neither a result nor an error object", answered=True)
    return result
