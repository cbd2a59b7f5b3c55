"""The inbox of a connection: in order, bounded in number and bytes, and only for its own client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from common.domain.errors import SessionNotFound, Throttled
from common.domain.ids import ClientId, TenantId, ToolId
from common.domain.invocation import Caller
from common.sessions import connections as module
from common.sessions.connections import Connections
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.shared import SharedConnection

ME, YOU = (Caller(tenant=TenantId("t"), client=ClientId(name), scopes=frozenset()) for name in ("me", "you"))
ECHO = ToolId("echo")
SCOPES = len(b"[]\n")
"""Bytes that stand before each message."""


@pytest.fixture
def connections(address: StoreAddress, keys: Keys, client: Client) -> Iterator[Connections]:
    shared = SharedConnection(address)
    yield Connections(shared, keys)
    shared.close()


@pytest.fixture
def name(connections: Connections) -> str:
    """An open connection."""
    return connections.open(ME.principal, ECHO, lambda: None)


def post(connections: Connections, name: str, size: int, *, what: bytes = b"x") -> None:
    """Post what takes so many bytes."""
    connections.post(name, ME, ECHO, what * (size - SCOPES))


def take(connections: Connections, name: str) -> list[bytes]:
    """Some of what waits, which is forgotten then."""
    found = connections.take(name, 0)
    if found:
        connections.take(name, found[-1].number)
    return [posted.message for posted in found]


def taken(connections: Connections, name: str) -> list[bytes]:
    """All that waits."""
    found: list[bytes] = []
    while some := take(connections, name):
        found += some
    return found


def test_what_was_not_heard_is_given_again(connections: Connections, name: str) -> None:
    """Whoever took it may not have got it."""
    for message in (b"a", b"b", b"c"):
        connections.post(name, ME, ECHO, message)
    first = connections.take(name, 0)
    assert [posted.message for posted in first] == [b"a", b"b", b"c"]
    assert connections.take(name, 0) == first
    assert connections.take(name, first[0].number) == first[1:]
    assert connections.take(name, first[2].number) == []
    connections.post(name, ME, ECHO, b"d")
    assert [posted.message for posted in connections.take(name, first[2].number)] == [b"d"]


def test_numbers_grow_even_if_the_last_one_was_lost(
    connections: Connections, name: str, client: Client, keys: Keys
) -> None:
    """Or what comes later would be taken for heard."""
    connections.post(name, ME, ECHO, b"a")
    (first,) = connections.take(name, 0)
    client.delete(keys.connection_bytes(name))
    connections.post(name, ME, ECHO, b"b")
    assert [posted.message for posted in connections.take(name, first.number)] == [b"b"]


def test_messages_are_taken_in_their_order(connections: Connections, name: str) -> None:
    """Once each; then there is nothing."""
    sent = [b"%d" % number for number in range(40)]
    for message in sent:
        connections.post(name, ME, ECHO, message)
    assert taken(connections, name) == sent
    assert take(connections, name) == []


def test_only_its_own_client_finds_a_connection(connections: Connections, name: str) -> None:
    """At the endpoint where it was opened."""
    for caller, tool in ((YOU, ECHO), (ME, None), (ME, ToolId("other"))):
        with pytest.raises(SessionNotFound):
            connections.post(name, caller, tool, b"x")
    assert take(connections, name) == []


def test_so_many_messages_wait_at_most(connections: Connections, name: str) -> None:
    """Whoever sends more is told when to try again; there is room when some are taken."""
    for _ in range(module.MOST_WAITING):
        post(connections, name, 10)
    with pytest.raises(Throttled):
        post(connections, name, 10)
    take(connections, name)
    post(connections, name, 10)


def test_so_many_bytes_wait_at_most(
    connections: Connections, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few large messages are refused as many small ones are, and what is taken makes room for as much."""
    monkeypatch.setattr(module, "MOST_WAITING_BYTES", 100)
    monkeypatch.setattr(module, "_TAKEN_AT_ONCE", 1)
    post(connections, name, 60, what=b"a")
    post(connections, name, 40, what=b"b")
    with pytest.raises(Throttled) as refused:
        post(connections, name, 4)
    assert refused.value.data["retry_after"] == 1
    assert [message[:1] for message in take(connections, name)] == [b"a"]
    post(connections, name, 60, what=b"c")
    with pytest.raises(Throttled):
        post(connections, name, 4)
    assert [message[:1] for message in taken(connections, name)] == [b"b", b"c"]


def test_an_empty_inbox_takes_a_message_of_any_size(
    connections: Connections, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again; behind it nothing has room."""
    monkeypatch.setattr(module, "MOST_WAITING_BYTES", 10)
    for _ in range(3):
        post(connections, name, 100)
        with pytest.raises(Throttled):
            post(connections, name, 4)
        assert len(taken(connections, name)) == 1


def test_a_count_that_was_lost_refuses_nothing_for_ever(
    connections: Connections, name: str, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis may lose either key alone: from the next empty inbox on it is right again."""
    monkeypatch.setattr(module, "MOST_WAITING_BYTES", 100)
    post(connections, name, 100)
    client.delete(keys.connection_inbox(name))
    post(connections, name, 60)
    client.delete(keys.connection_bytes(name))
    assert len(taken(connections, name)) == 1
    assert not client.exists(keys.connection_bytes(name))
    post(connections, name, 60)
    client.delete(keys.connection_bytes(name))
    post(connections, name, 60)
    assert len(taken(connections, name)) == 2
    post(connections, name, 100)
    with pytest.raises(Throttled):
        post(connections, name, 4)


def test_what_waits_lives_no_longer_than_its_connection(
    connections: Connections, name: str, client: Client, keys: Keys
) -> None:
    """It has a lifetime, also while some of it is taken; the end of the connection takes it along."""
    for _ in range(20):
        post(connections, name, 10)
    take(connections, name)
    lease = client.pttl(keys.connection(name))
    inbox = [keys.connection_inbox(name), keys.connection_bytes(name)]
    assert all(0 < client.pttl(key) <= lease + 1000 for key in inbox)
    connections.close(name)
    assert client.keys("*") == []
    with pytest.raises(SessionNotFound):
        post(connections, name, 10)
