"""A message as it lies in a tool's queue: kombu's Redis envelope around Celery's protocol 2."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from common.domain.errors import InvalidRequest


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

    def first_argument(self) -> object:
        """The payload. Raises :class:`InvalidRequest` if the body is not Celery's."""
        body = self.envelope.get("body")
        try:
            raw = body.encode() if isinstance(body, str) else b""
            if self.envelope.get("properties", {}).get("body_encoding") == "base64":
                raw = base64.b64decode(raw)
            args, kwargs, _ = orjson.loads(raw)
        except (ValueError, TypeError) as error:
            raise InvalidRequest("the task's body is not Celery protocol 2 in JSON", field="body") from error
        if isinstance(args, list) and len(args) == 1:
            return args[0]
        if isinstance(kwargs, dict) and "invocation" in kwargs:
            return kwargs["invocation"]
        raise InvalidRequest("gateway.invoke takes one argument, the invocation", field="args")


def read_message(raw: bytes, queue: str) -> TaskMessage:
    """Read an envelope. Raises :class:`InvalidRequest` for what is none."""
    try:
        envelope = orjson.loads(raw)
        headers = envelope["headers"]
        properties = envelope["properties"]
        queue = queue or str((properties.get("delivery_info") or {}).get("routing_key") or "")
        return TaskMessage(
            id=str(headers["id"]),
            task=str(headers["task"]),
            queue=queue,
            reply_to=str(properties.get("reply_to") or ""),
            headers=headers,
            envelope=envelope,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"not a Celery message: {error!r}", field="message") from error
