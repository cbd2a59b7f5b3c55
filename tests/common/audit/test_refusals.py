"""Refused calls: each is counted, and they cannot fill the journal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from common.audit import refusals as module
from common.audit.journal import Journal
from common.audit.refusals import MOST_KINDS, Refusals, refusal_event
from common.domain.audit import AuditEvent
from common.domain.errors import Forbidden, GatewayError, QueueFull, StoreUnavailable
from common.domain.ids import ClientId, TenantId
from common.domain.invocation import Caller
from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import Arg


class Way:
    """A way to Redis that can be cut."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.cut = False

    def __call__(self, command: tuple[Arg, ...]) -> object:
        if self.cut:
            raise StoreUnavailable("away")
        return self.client.execute_command(*command)


@pytest.fixture
def way(client: Client) -> Way:
    return Way(client)


@pytest.fixture
def refusals(way: Way, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusals]:
    monkeypatch.setattr(module, "SPAN", 0.0)
    made = Refusals(way, keys)
    made._span_ends = 0.0
    return made  # type: ignore[return-value]


def refused(tenant: str = "t", error: GatewayError | None = None, request: int = 1) -> AuditEvent:
    caller = Caller(tenant=TenantId(tenant), client=ClientId("c"))
    return refusal_event(
        caller, "a", "tools/call", {"name": "echo"}, error or Forbidden("no"), request_id=request
    )


def told(client: Client, keys: Keys) -> list[tuple[str, str, str]]:
    return [
        (record.fields["outcome"], record.fields.get("tenant", ""), record.fields.get("count", ""))
        for record in reversed(Journal(client, keys).newest(1000))
    ]


def test_the_first_is_told_at_once_and_in_full(client: Client, keys: Keys, refusals: Refusals) -> None:
    """Who asked for what, and why not."""
    refusals.note(refused())
    (record,) = Journal(client, keys).newest(9)
    assert record.fields == {
        "kind": "policy_decision",
        "tool": "a",
        "tenant": "t",
        "client": "c",
        "method": "tools/call",
        "capability": "echo",
        "request_id": "1",
        "outcome": "deny",
        "error_code": "FORBIDDEN",
        "reason": "no",
    }


def test_the_others_of_a_second_are_counted(client: Client, keys: Keys, refusals: Refusals) -> None:
    """All of them; each kind for itself."""
    for number in range(1000):
        refusals.note(refused(request=number))
    refusals.note(refused("u"))
    refusals.note(refused(error=QueueFull("full")))
    refusals.tick()
    assert told(client, keys) == [
        ("deny", "t", ""),
        ("deny", "u", ""),
        ("throttle", "t", ""),
        ("deny", "t", "999"),
    ]
    refusals.tick()
    refusals.note(refused())
    assert told(client, keys)[-1] == ("deny", "t", "")


def test_any_number_of_kinds_is_bounded(client: Client, keys: Keys, refusals: Refusals) -> None:
    """Whoever invents tenants is counted by the code alone."""
    for number in range(10 * MOST_KINDS):
        refusals.note(refused(str(number)))
    refusals.tick()
    found = told(client, keys)
    assert len(found) == MOST_KINDS + 1
    assert found[-1] == ("deny", "", str(9 * MOST_KINDS))


def test_what_redis_does_not_take_is_told_later(
    client: Client, keys: Keys, refusals: Refusals, way: Way
) -> None:
    """None is forgotten, and nobody waits."""
    way.cut = True
    for _ in range(3):
        refusals.note(refused())
    refusals.tick()
    refusals.note(refused())
    way.cut = False
    refusals.tick(at_once=True)
    assert [int(count or 1) for _, _, count in told(client, keys)] == [4]


def test_nobody_knows_the_outcome_where_redis_did_not_answer() -> None:
    """It may be admitted all the same."""
    assert refused(error=StoreUnavailable("?", outcome="unknown")).outcome == "unknown"
    assert refused(error=StoreUnavailable("?")).outcome == "error"
