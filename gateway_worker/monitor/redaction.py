"""What of events and of workers' answers is shown: what is named here, and nothing else.

Our workers tell no arguments. Whoever else speaks Celery on the same Redis may, so nothing is taken on trust: texts
that can quote an argument are left out, whoever sent them. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from common.calls.contract import REDACTED
from common.domain.errors import ErrorCode, Status
from gateway_worker.events import CALL_FIELDS, MOST_TEXT

OF_EVENTS = frozenset(
    {
        *("type", "uuid", "hostname", "timestamp", "local_received", "clock", "utcoffset", "pid"),
        *("name", "retries", "runtime", "exchange", "routing_key", "queue", "root_id", "parent_id"),
        *("eta", "expires", "requeue", "terminated", "signum", "expired"),
        *("freq", "active", "processed", "loadavg", "sw_ident", "sw_ver", "sw_sys"),
        *CALL_FIELDS.values(),
    }
)
OF_REQUESTS = frozenset(
    {"id", "name", "type", "hostname", "time_start", "acknowledged", "delivery_info", "worker_pid", "eta"}
)
OF_SETTINGS = frozenset(
    {"task_default_queue", "task_serializer", "worker_concurrency", "worker_pool", "worker_send_task_events"}
)
OF_BROKER = frozenset({"transport", "hostname", "port"})
WITH_REQUESTS = frozenset({"active", "reserved", "scheduled"})
RESULTS = frozenset(f"<{status.value}>" for status in Status)
CODES = frozenset(code.value for code in ErrorCode)
_NAME = re.compile(r"[A-Za-z0-9_.:/@<>-]{1,200}")


def shown_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event without what may hold an argument, and with a call's name that says what it is."""
    shown = {name: _short(value) for name, value in event.items() if name in OF_EVENTS}
    if "args" in event or "kwargs" in event:
        shown |= {"args": REDACTED, "kwargs": "{}"}
    if "result" in event:
        shown["result"] = event["result"] if event["result"] in RESULTS else REDACTED
    if "exception" in event:
        shown |= {
            "exception": event["exception"] if event["exception"] in CODES else REDACTED,
            "traceback": "",
        }
    if "name" in event:
        shown["name"] = shown_name(event)
    return shown


def shown_name(event: Mapping[str, Any]) -> str:
    """``<tool> <method>`` of a call, a task's own name otherwise."""
    tool, method = (event.get(CALL_FIELDS[name]) for name in ("tool", "method"))
    if tool:
        return f"{tool} {method or ''}".strip()[:MOST_TEXT]
    name = str(event.get("name"))
    return name if _NAME.fullmatch(name) else REDACTED


def shown_answer(method: str, answer: Any) -> Any:
    """A worker's answer to ``inspect <method>``: no arguments, no passwords in URLs and options."""
    if method == "conf" and isinstance(answer, Mapping):
        return {name: value for name, value in answer.items() if name in OF_SETTINGS}
    if method in WITH_REQUESTS and isinstance(answer, list):
        return [_request(entry) for entry in answer]
    if method == "stats" and isinstance(answer, Mapping):
        return {**answer, "broker": _broker(answer.get("broker"))}
    return answer


def _request(entry: Any) -> dict[str, Any]:
    found = entry.get("request", entry) if isinstance(entry, Mapping) else {}
    request = {name: value for name, value in found.items() if name in OF_REQUESTS}
    request |= {"args": REDACTED, "kwargs": "{}"}
    if "request" not in entry:
        return request
    return {"eta": entry.get("eta"), "priority": entry.get("priority"), "request": request}


def _broker(told: Any) -> dict[str, Any]:
    return {name: value for name, value in (told or {}).items() if name in OF_BROKER}


def _short(value: Any) -> Any:
    return value[:MOST_TEXT] if isinstance(value, str) else value
