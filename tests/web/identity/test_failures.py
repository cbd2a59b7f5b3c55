"""Identity failures in the journal: each is told, none tells a secret, and no flood fills it."""

from __future__ import annotations

import pytest

from common.audit.journal import Journal
from common.domain.errors import StoreUnavailable
from common.store.client import Client, StoreAddress, connect
from common.store.keys import Keys
from gateway_web.identity.failures import MOST_A_SECOND, Failures, route_of
from gateway_web.identity.refusals import Reason
from tests.web.identity.support import facts


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def told(client: Client, keys: Keys) -> list[tuple[str, str, str]]:
    found = [record.fields for record in Journal(client, keys).newest(1000)]
    assert {fields["kind"] for fields in found} <= {"identity_failure"}
    return sorted((fields["actor"], fields["reason"], fields.get("detail", "")) for fields in found)


def test_the_same_failure_is_one_record_a_second(client: Client, keys: Keys) -> None:
    """With their number; the credential stands nowhere."""
    clock = Clock()
    failures = Failures(client, keys, clock=clock)
    for _ in range(500):
        failures.note(Reason.EXPIRED, facts({"authorization": "Bearer hunter2"}, remote_address="1.2.3.4"))
    failures.note(Reason.MISSING, facts({}, remote_address="", path="/servers/any/thing/ws", method="GET"))
    failures.flush()
    failures.note(Reason.EXPIRED, facts({}, remote_address="1.2.3.4"))
    clock.now = 0.9
    failures.flush()
    first = [("1.2.3.4", "expired", "POST /mcp x500"), ("unix", "missing", "GET /servers/*/ws x1")]
    assert told(client, keys) == first
    clock.now = 1.0
    failures.flush()
    assert told(client, keys) == sorted([*first, ("1.2.3.4", "expired", "POST /mcp x1")])


def test_a_flood_from_everywhere_is_bounded(client: Client, keys: Keys) -> None:
    """What is more than the bound is counted in one record."""
    failures = Failures(client, keys)
    for number in range(3000):
        failures.note(Reason.MALFORMED, facts({}, remote_address=f"2001:db8::{number:x}"))
    failures.flush()
    found = told(client, keys)
    assert len(found) == MOST_A_SECOND + 1
    assert ("many addresses", "many", f"x{3000 - MOST_A_SECOND}") in found


def test_without_redis_it_is_kept_and_written_later(client: Client, keys: Keys) -> None:
    """Within the bound."""
    clock = Clock()
    away = connect(StoreAddress(url="unix:///nonexistent/s"))
    failures = Failures(away, keys, clock=clock)
    failures.note(Reason.MISSING, facts({}))
    with pytest.raises(StoreUnavailable):
        failures.flush()
    failures._client = client
    clock.now = 1.0
    failures.flush()
    assert told(client, keys) == [("127.0.0.1", "missing", "POST /mcp x1")]


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/mcp", "POST /mcp"),
        ("/servers/secret tool/mcp", "POST /servers/*/mcp"),
        ("/servers/a/b\n/mcp/", "POST /servers/*/mcp"),
        ("/x" * 500, "POST " + "/x" * 100),
    ],
)
def test_a_route_is_told_without_names(path: str, route: str) -> None:
    """Strangers choose them."""
    assert route_of(facts({}, path=path)) == route
