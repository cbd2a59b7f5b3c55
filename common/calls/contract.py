"""Names and forms both programs agree on.

A call travels as an ordinary Celery protocol-2 message inside kombu's Redis envelope, so any Celery worker,
producer or monitor understands it. Specification: Celery documentation, "Message Protocol", version 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import orjson

from common.calls.head import MEMBER, Head
from common.domain.audit_call import MEMBER as AUDIT
from common.domain.audit_call import call_text
from common.domain.errors import ERRORS_BY_CODE, FormatTooNew, InternalError, PayloadUnreadable
from common.domain.invocation import (
    ExecutionResult,
    Invocation,
    failed,
    invocation_to_wire,
    result_from_wire,
    result_to_wire,
)
from common.store.keys import Keys
from common.store.sealing import Seals, no_keys, unsealed
from common.telemetry.context import read_context

INVOKE_TASK = "gateway.invoke"
ORIGIN = "canalgate:"
"""Begins the ``origin`` of our own messages; the key prefix of the gateway follows."""
SEALED = "sealed"
"""The member under which a sealed payload stands, alone."""
CALL, RESULT, FRAME = "call", "result", "frame"
"""What is sealed of a call, as it is bound to its id."""
REDACTED = "<redacted>"
"""Stands for the arguments in every event, log and monitor: Flower never shows them."""

_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def new_invocation_id() -> str:
    """An id for an invocation, which is its Celery task id as well."""
    return str(uuid4())


def task_body(invocation: Invocation, queue: str, seals: Seals | None) -> str:
    """The body of the message for one call; with ``seals`` nobody reads in it what is asked."""
    argument: Mapping[str, Any] = invocation_to_wire(invocation)
    if seals is not None:
        argument = {SEALED: seals.text(orjson.dumps(argument), CALL, invocation.id, queue)}
    return orjson.dumps([[argument], {}, _EMBED]).decode()


def opened_argument(
    argument: Mapping[str, Any], invocation: str, queue: str, keys: Keys
) -> Mapping[str, Any]:
    """The argument of a message with this id, from this queue. Raises :class:`PayloadUnreadable`."""
    seals, text = keys.seals, argument.get(SEALED)
    if text is None:
        if seals is not None and not seals.accept_plain:
            raise unsealed()
        return argument
    if seals is None:
        raise no_keys()
    opened: Mapping[str, Any] = orjson.loads(seals.open_text(str(text), CALL, invocation, queue))
    return opened


def task_message(
    invocation: Invocation,
    head: Head,
    *,
    prefix: str,
    audited: bool = False,
    seals: Seals | None = None,
    trace: Mapping[str, str] | None = None,
) -> bytes:
    """The message for one call, as ``admit.lua`` takes it: its head first, and behind it what the journal is told.

    ``trace`` are the headers that carry a trace on, as OpenTelemetry's instrumentation of Celery writes and reads them.
    """
    queue = head.queue
    message = {
        MEMBER: head.text(),
        **({AUDIT: call_text(invocation, _trace_id(trace), private=seals is not None)} if audited else {}),
        "body": task_body(invocation, queue, seals),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": INVOKE_TASK,
            "id": invocation.id,
            "root_id": invocation.id,
            "parent_id": None,
            "group": None,
            "group_index": None,
            "shadow": None,
            "eta": None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": REDACTED,
            "kwargsrepr": "{}",
            "origin": ORIGIN + prefix,
            "ignore_result": False,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
            **(trace or {}),
        },
        "properties": {
            "correlation_id": invocation.id,
            "reply_to": head.reply,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "utf-8",
            "delivery_tag": invocation.id,
        },
    }
    return orjson.dumps(message)


def _trace_id(trace: Mapping[str, str] | None) -> str:
    context = None if trace is None else read_context(trace)
    return "" if context is None else f"{context.trace_id:032x}"


def encoded_result(
    result: ExecutionResult, invocation: str = "", seals: Seals | None = None
) -> orjson.Fragment:
    """The result's wire form as JSON, to be put into its record and into its frame without encoding it twice.

    With ``seals`` nobody reads it who has no key.
    """
    encoded = orjson.dumps(result_to_wire(result))
    return orjson.Fragment(encoded if seals is None else seals.seal(encoded, RESULT, invocation))


def result_of_wire(wire: Mapping[str, Any], invocation: str, keys: Keys) -> ExecutionResult:
    """The result in a frame or a record. What cannot be opened, or is of a newer release, is a failure that says so.

    A failure that is not sealed is taken in any case: scripts write some for dead workers, and so does a worker without
    keys. An answer that is not sealed may be anybody's. Raises :class:`InvalidRequest` as ``result_from_wire``.
    """
    seals, text = keys.seals, wire.get(SEALED)
    try:
        if text is not None:
            if seals is None:
                raise no_keys()
            return result_from_wire(orjson.loads(seals.open_text(str(text), RESULT, invocation)))
        result = result_from_wire(wire)
        if seals is not None and result.answered and not seals.accept_plain:
            raise unsealed()
    except (PayloadUnreadable, FormatTooNew) as error:
        return failed(error)
    return result


def result_record(
    invocation_id: str,
    result: ExecutionResult,
    *,
    done_at: str,
    encoded: orjson.Fragment | None = None,
    sealed: bool = False,
) -> bytes:
    """The value of ``celery-task-meta-<id>``: what a stock ``AsyncResult`` reads.

    An answer of the backend, be it an error, is SUCCESS and its value our result. What never became an answer
    (a timeout, a broken transport) is FAILURE with the exception's name, so that monitors show it as such; our
    own result then stands beside it under ``canalgate``. With ``sealed``, as ``encoded`` then is, the exception has no
    text.
    """
    wire = encoded or encoded_result(result)
    record: dict[str, Any] = {
        "task_id": invocation_id,
        "status": "SUCCESS" if result.answered else "FAILURE",
        "result": wire,
        "traceback": None,
        "children": [],
        "date_done": done_at,
    }
    if not result.answered and result.failure is not None:
        record["canalgate"] = wire
        record["result"] = {
            "exc_type": type_name(result),
            "exc_message": [
                f"{result.failure.code}: the text is sealed" if sealed else result.failure.message
            ],
            "exc_module": "common.domain.errors",
        }
    return orjson.dumps(record)


def type_name(result: ExecutionResult) -> str:
    """The exception a stock client raises for a failed result."""
    if result.failure is None:
        return InternalError.__name__
    return ERRORS_BY_CODE.get(result.failure.code, InternalError).__name__


def wire_of_record(record: dict[str, Any]) -> dict[str, Any]:
    """Our result inside a record made by :func:`result_record`."""
    wire: dict[str, Any] = record.get("canalgate") or record["result"]
    return wire


def result_frame(
    invocation_id: str, result: ExecutionResult, *, encoded: orjson.Fragment | None = None
) -> bytes:
    """The last message of a call on its reply channel: ``<id> <json>``."""
    return invocation_id.encode() + b" " + orjson.dumps({"result": encoded or encoded_result(result)})


def notification_payload(method: str, params: Mapping[str, Any]) -> bytes:
    """A notification of the backend that belongs to a running call, as its frame holds it."""
    message = {"jsonrpc": "2.0", "method": method, "params": dict(params)}
    return orjson.dumps({"notification": message})


def server_request_payload(name: str, method: str, params: Mapping[str, Any]) -> bytes:
    """A request of the backend to the call's client; ``name`` is its id towards the client."""
    return orjson.dumps({"request": {"id": name, "method": method, "params": dict(params)}})


def frame_of(invocation_id: str, payload: bytes) -> bytes:
    """A message of a running call on its reply channel. One with a place in a log has it before the payload."""
    return invocation_id.encode() + b" " + payload


def notification_frame(invocation_id: str, method: str, params: Mapping[str, Any]) -> bytes:
    """The message for a notification."""
    return frame_of(invocation_id, notification_payload(method, params))


def server_request_frame(invocation_id: str, name: str, method: str, params: Mapping[str, Any]) -> bytes:
    """The message for a request of the backend."""
    return frame_of(invocation_id, server_request_payload(name, method, params))


def moved_frame(invocation_id: str, holder: str) -> bytes:
    """Word to whoever waits for a call that another one hands its stream out from now on."""
    return frame_of(invocation_id, orjson.dumps({"moved": holder}))
