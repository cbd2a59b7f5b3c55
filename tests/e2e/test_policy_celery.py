"""Policy for calls of stock Celery producers, which pass no web process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from common.audit.journal import Journal
from common.domain.errors import GatewayError
from common.store.keys import Keys
from tests.e2e.celery_bench import Bench, serves, stop
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

POLICY = {
    "rules": [{"effect": "deny", "tenants": ["t"], "mcp_tools": ["fail"]}],
    "evaluators": [
        {
            "id": "e",
            "type": "cel",
            "counters": True,
            "expression": "counters.tool_waiting >= 0 && (!has(arguments.text) || arguments.text != 'no')",
        }
    ],
    "evaluator": "e",
}


@pytest.fixture
def judged(bench: Bench) -> Iterator[Bench]:
    """A worker with policy."""
    file = bench.home / "canalgate.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "policy": POLICY}))
    process = bench.worker()
    wait_until(lambda: serves(bench, "tool.a"), timeout=30, description="the worker")
    yield bench
    stop(process)


def test_a_stock_producer_s_calls_are_judged(judged: Bench) -> None:
    """By rules and evaluator, at once and when they are due; nothing of a denied one reaches the backend."""

    def said(name: str, arguments: dict[str, Any], **options: Any) -> str:
        try:
            return str(judged.send(name, arguments, **options).get(timeout=20)["status"])
        except GatewayError as error:
            return error.meaning.status.value

    for options in ({}, {"countdown": 0.1}):
        assert said("fail", {}, **options) == "denied"
        assert said("echo", {"text": "no"}, **options) == "denied"
        assert said("echo", {"text": "yes"}, **options) == "success"
    called = [
        entry["received"]["params"]["arguments"]
        for entry in judged.heard()
        if entry.get("received", {}).get("method") == "tools/call"
    ]
    assert called == [{"text": "yes"}] * 2
    wait_until(lambda: denials(judged) == 4, description="the journal to tell of each denied call")


def denials(bench: Bench) -> int:
    """Denied calls of the tenant in the journal."""
    records = Journal(bench.redis, Keys()).newest(1000)
    denied = [record.fields for record in records if record.fields.get("outcome") == "deny"]
    assert all(
        (found["tenant"], found["tool"], found["method"]) == ("t", "a", "tools/call") for found in denied
    )
    return sum(int(found.get("count", 1)) for found in denied)
