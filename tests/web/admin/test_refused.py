"""What operators are refused is in the journal: who, what, and why; bounded, and without what they sent."""

from __future__ import annotations

from typing import Any

import pytest

from common.audit.journal import Journal
from tests.web.admin.conftest import Ask
from tests.web.harness import Web

SECRET = "sesame-1"


@pytest.fixture
def journal(admin_web: Web) -> Journal:
    """That of the gateway, in which nothing waits to be written."""
    admin_web.gateway.refusals.tick(at_once=True)
    return Journal(admin_web.gateway.client, admin_web.gateway.keys)


@pytest.mark.parametrize(
    ("role", "method", "path", "more", "status", "route"),
    [
        ("viewer", "POST", "/tools/t/enable", {}, 403, "POST /tools/<path:tool>/enable"),
        ("viewer", "POST", "/policy/test", {"json": {"tenant": "t", "client": "c", "tool": "t", "name": "n"}}, 403,
         "POST /policy/test"),
        ("admin", "POST", "/tools/t/circuit/trip", {"json": {"raeson": SECRET}}, 422,
         "POST /tools/<path:tool>/circuit/trip"),
        ("admin", "POST", "/tools/t/circuit/trip", {"data": b"{" + SECRET.encode()}, 422,
         "POST /tools/<path:tool>/circuit/trip"),
        ("admin", "PUT", "/tenants/t", {"json": {"requests_per_minute": SECRET}}, None, "PUT /tenants/<path:tenant>"),
        ("operator", "DELETE", "/calls/no-such", {}, 404, "DELETE /calls/<call>"),
        ("admin", "DELETE", "/keys/none", {}, None, "DELETE /keys/<key>"),
        ("admin", "POST", "/tools/no-such/enable", {}, 404, "POST /tools/<path:tool>/enable"),
        ("admin", "PUT", "/tools/t", {"json": {"command": "cmd"}}, 428, "PUT /tools/<path:tool>"),
        ("admin", "DELETE", "/tools/x?dry_run=1", {}, None, "DELETE /tools/<path:tool>"),
        ("operator", "DELETE", "/calls/no-such?dry_run", {}, None, "DELETE /calls/<call>"),
        ("admin", "POST", "/config/import?dry_run=no", {"json": {"tolls": {}}}, 422, "POST /config/import"),
        ("admin", "POST", "/config/import?dry_run=perhaps", {"json": {"tools": {}}}, 422, "POST /config/import"),
    ],
)  # fmt: skip
def test_what_is_refused_is_recorded(
    ask: Ask,
    journal: Journal,
    role: str,
    method: str,
    path: str,
    more: dict[str, Any],
    status: int | None,
    route: str,
) -> None:
    """Bodies that are not valid, names that nobody has, versions, and what a role may not."""
    before = journal.newest_id()
    answer = ask(method, path, role=role, **more)
    assert 400 <= answer.status_code < 500
    assert status in {None, answer.status_code}
    (record,) = journal.after(before)
    event = record.fields
    assert (event["kind"], event["actor"], event["outcome"]) == ("admin_refused", f"admin:{role}-1", "deny")
    assert (event["method"], event["error_code"]) == (route, answer.json["code"])
    assert event["reason"] == answer.json["detail"][:500]
    assert event["detail"].startswith(f"HTTP {answer.status_code}")
    named = path.partition("?")[0].split("/")[2] if path.startswith(("/tools/", "/tenants/")) else ""
    assert named in {event.get("tool", ""), event.get("tenant", "")}
    assert SECRET not in repr(event)


@pytest.mark.parametrize(
    ("role", "method", "path", "more"),
    [
        ("admin", "GET", "/tools/no-such", {}),
        ("admin", "GET", "/tools?limit=x", {}),
        ("admin", "POST", "/policy/test", {"json": {}}),
        ("admin", "POST", "/config/import?dry_run=true", {"json": {"tools": {"evil": {"command": "sh"}}}}),
        ("admin", "POST", "/config/import?dry_run=1&prune=1", {"json": {"tolls": {}}}),
        (None, "POST", "/tools/t/enable", {}),
    ],
)
def test_what_merely_asks_is_not(
    ask: Ask, journal: Journal, role: str | None, method: str, path: str, more: dict[str, Any]
) -> None:
    """Nor is anybody of whom nothing is known."""
    before = journal.newest_id()
    assert 400 <= ask(method, path, role=role, **more).status_code < 500
    assert journal.after(before) == []


def test_a_definition_that_is_refused_has_one_record(ask: Ask, journal: Journal) -> None:
    """The one that says more."""
    before = journal.newest_id()
    body = {"command": "sh"}
    assert ask("PUT", "/tools/evil", json=body, headers={"If-None-Match": "*"}).status_code == 400
    assert [record.kind for record in journal.after(before)] == ["tool_refused"]


def test_trying_again_and_again_does_not_fill_it(ask: Ask, journal: Journal, admin_web: Web) -> None:
    """The first is written, the others are counted; each operator for himself."""
    before = journal.newest_id()
    for _ in range(50):
        for role in ("viewer", "operator"):
            assert ask("DELETE", "/tools/t", role=role).status_code == 403
    admin_web.gateway.refusals.tick(at_once=True)
    records = [record.fields for record in journal.after(before)]
    assert len(records) <= 8  # a span may have ended meanwhile
    for role in ("viewer", "operator"):
        counts = [int(event.get("count", 1)) for event in records if event["actor"] == f"admin:{role}-1"]
        assert sum(counts) == 50
