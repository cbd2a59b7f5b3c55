"""What Flower is given to show, whoever speaks Celery beside our workers."""

from __future__ import annotations

from typing import Any

import pytest

from gateway_worker.monitor.redaction import shown_answer, shown_event

CANARY = "a-canary"
ALWAYS = {"uuid": "1", "hostname": "w@h", "timestamp": 1.0, "clock": 1}


@pytest.mark.parametrize(
    "told",
    [
        {
            "type": "task-sent",
            "name": "gateway.invoke",
            "args": f"({CANARY},)",
            "kwargs": f"{{'x': '{CANARY}'}}",
        },
        {"type": "task-received", "name": "x", "args": CANARY, "kwargs": CANARY},
        {"type": "task-succeeded", "result": CANARY, "runtime": 1.0},
        {"type": "task-failed", "exception": f"ValueError('{CANARY}')", "traceback": CANARY},
        {"type": "task-retried", "exception": CANARY, "traceback": CANARY},
        {"type": "task-custom", "note": CANARY},
        {"type": "task-received", "name": f"<b>{CANARY}</b> (", "args": "()"},
    ],
)
def test_no_text_that_can_hold_an_argument_is_kept(told: dict[str, Any]) -> None:
    """Of any event of any sender."""
    shown = shown_event({**ALWAYS, **told})
    assert CANARY not in str(shown)
    assert shown["uuid"] == "1"
    assert shown["type"] == told["type"]


def test_what_a_worker_of_ours_tells_is_shown() -> None:
    """Whose call it is, its status and its code."""
    told = {
        **ALWAYS,
        "type": "task-received",
        "name": "gateway.invoke",
        "routing_key": "tool.a",
        "canalgate_tool": "a",
        "canalgate_method": "tools/call",
        "canalgate_tenant": "acme",
    }
    shown = shown_event(told)
    assert shown["name"] == "a tools/call"
    assert shown["canalgate_tenant"] == "acme"
    assert shown["routing_key"] == "tool.a"
    assert shown_event({**ALWAYS, "type": "task-succeeded", "result": "<success>"})["result"] == "<success>"
    failed = shown_event(
        {**ALWAYS, "type": "task-failed", "exception": "INVOCATION_TIMEOUT", "traceback": ""}
    )
    assert failed["exception"] == "INVOCATION_TIMEOUT"


@pytest.mark.parametrize("method", ["active", "reserved", "scheduled"])
def test_what_workers_hold_is_shown_without_arguments(method: str) -> None:
    """Celery's own answer for a delayed task has them."""
    request = {"id": "1", "name": "x", "args": [CANARY], "kwargs": {"x": CANARY}, "hostname": "w@h"}
    entry = {"eta": "2026", "priority": 6, "request": request} if method == "scheduled" else request
    (shown,) = shown_answer(method, [entry])
    assert CANARY not in str(shown)
    assert shown.get("request", shown)["id"] == "1"


def test_how_a_worker_is_set_up_is_shown_without_passwords() -> None:
    """Neither its settings nor its broker's options are."""
    assert shown_answer("conf", {"worker_concurrency": 5, "broker_url": CANARY}) == {"worker_concurrency": 5}
    stats = {"pid": 1, "broker": {"transport": "sentinel", "transport_options": {"password": CANARY}}}
    assert shown_answer("stats", stats) == {"pid": 1, "broker": {"transport": "sentinel"}}
