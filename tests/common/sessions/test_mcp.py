"""MCP sessions: bound to whom and where they were opened, found by any web process, gone when idle."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from common.domain.errors import InvalidRequest, SessionNotFound, StoreUnavailable
from common.domain.ids import ClientId, McpSessionId, TenantId, ToolId
from common.domain.invocation import Caller
from common.domain.session import McpSession
from common.sessions import mcp as module
from common.sessions.mcp import McpSessions
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.shared import SharedConnection
from tests.support.wait import wait_until

ME = Caller(tenant=TenantId("t"), client=ClientId("c"), subject="s").principal
STRANGERS = [
    Caller(tenant=TenantId("u"), client=ClientId("c"), subject="s").principal,
    Caller(tenant=TenantId("t"), client=ClientId("d"), subject="s").principal,
    Caller(tenant=TenantId("t"), client=ClientId("c"), subject="other").principal,
    Caller(tenant=TenantId("t"), client=ClientId("c")).principal,
    "",
]
IDLE = 1800.0


@pytest.fixture
def shared(address: StoreAddress, client: Client) -> Iterator[SharedConnection]:
    connection = SharedConnection(address)
    yield connection
    connection.close()


@pytest.fixture
def sessions(shared: SharedConnection, keys: Keys) -> McpSessions:
    return McpSessions(shared, keys, idle_timeout=IDLE)


def opened(sessions: McpSessions, tool: ToolId | None = None, **changes: Any) -> McpSession:
    fields: dict[str, Any] = {
        "principal": ME,
        "version": "2025-06-18",
        "tool": tool,
        "client_info": {"name": "test", "version": "1", "icons": []},
        "client_capabilities": {"sampling": {}, "experimental": {"x": {"y": [1]}}},
    }
    return sessions.create(**fields | changes)


@pytest.mark.parametrize("tool", [None, ToolId("a"), ToolId("a b/c")])
def test_a_session_is_found_by_another_process(
    sessions: McpSessions, shared: SharedConnection, keys: Keys, tool: ToolId | None
) -> None:
    """With all that ``initialize`` told."""
    session = opened(sessions, tool)
    elsewhere = McpSessions(shared, keys, idle_timeout=IDLE)
    assert elsewhere.use(session.id, principal=ME, tool=tool) == session


def test_ids_cannot_be_guessed(sessions: McpSessions) -> None:
    """192 random bits in visible ASCII (MCP, "Session Management"): all different in every place."""
    ids = [opened(sessions).id for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{32}", name) for name in ids)
    assert all(len(set(column)) > 10 for column in zip(*ids, strict=True))


@pytest.mark.parametrize("stranger", STRANGERS)
def test_another_principal_is_a_stranger(sessions: McpSessions, stranger: str) -> None:
    """Who knows the id alone is answered as if there were no such session."""
    session = opened(sessions)
    with pytest.raises(SessionNotFound) as unknown:
        sessions.use("unknown", principal=ME, tool=None)
    with pytest.raises(SessionNotFound) as refused:
        sessions.use(session.id, principal=stranger, tool=None)
    assert (refused.value.message, refused.value.data) == (unknown.value.message, unknown.value.data)
    assert sessions.use(session.id, principal=ME, tool=None) == session


@pytest.mark.parametrize(
    ("opened_at", "used_at"), [(None, "a"), ("a", None), ("a", "b"), ("a", ""), ("a/b", "a%2Fb")]
)
def test_a_session_holds_at_its_own_endpoint(
    sessions: McpSessions, opened_at: str | None, used_at: str | None
) -> None:
    """One of the aggregate is none of a tool's, nor the other way round."""
    session = opened(sessions, None if opened_at is None else ToolId(opened_at))
    with pytest.raises(SessionNotFound):
        sessions.use(session.id, principal=ME, tool=None if used_at is None else ToolId(used_at))


@pytest.mark.parametrize("name", ["", "*", "a:b", "é" * 200, "x" * 8000, "\x00", "../nodes"])
def test_any_text_may_be_asked_for(sessions: McpSessions, name: str) -> None:
    """It comes from a header: no id leads to another key."""
    opened(sessions)
    with pytest.raises(SessionNotFound):
        sessions.use(name, principal=ME, tool=None)


def test_each_use_begins_the_idle_time_anew(sessions: McpSessions, client: Client, keys: Keys) -> None:
    """Half an hour after the last request, not after the first."""
    session = opened(sessions)
    key = keys.mcp_session(session.id)
    assert 0 < client.pttl(key) <= IDLE * 1000
    client.pexpire(key, 1000)
    sessions.use(session.id, principal=ME, tool=None)
    assert client.pttl(key) > 1000


def test_an_idle_session_is_gone(shared: SharedConnection, client: Client, keys: Keys) -> None:
    """And its id with it."""
    sessions = McpSessions(shared, keys, idle_timeout=0.05)
    session = opened(sessions)
    wait_until(lambda: not client.exists(keys.mcp_session(session.id)), description="it expires")
    with pytest.raises(SessionNotFound, match="initialize again"):
        sessions.use(session.id, principal=ME, tool=None)


def test_the_log_level_is_kept_with_the_session(
    sessions: McpSessions, shared: SharedConnection, keys: Keys
) -> None:
    """For whichever process serves the next request; nothing else of it changes."""
    session = opened(sessions)
    sessions.set_log_level(session, "warning")
    found = McpSessions(shared, keys, idle_timeout=IDLE).use(session.id, principal=ME, tool=None)
    assert found == replace(session, log_level="warning")


def test_an_ended_session_is_not_written_back_to_life(sessions: McpSessions) -> None:
    """A request that was under way when the session was deleted changes nothing any more."""
    session = opened(sessions)
    sessions.end(session)
    with pytest.raises(SessionNotFound):
        sessions.set_log_level(session, "debug")
    with pytest.raises(SessionNotFound):
        sessions.use(session.id, principal=ME, tool=None)


def test_an_ended_session_is_gone(sessions: McpSessions) -> None:
    """At once, and ending it twice is no error."""
    session = opened(sessions)
    sessions.end(session)
    sessions.end(session)
    with pytest.raises(SessionNotFound):
        sessions.use(session.id, principal=ME, tool=None)


def test_a_record_of_tomorrow_is_read_as_far_as_it_is_known(
    sessions: McpSessions, client: Client, keys: Keys
) -> None:
    """Web processes of two versions serve the same sessions while an upgrade goes on."""
    session = opened(sessions)
    key = keys.mcp_session(McpSessionId(session.id))
    record = orjson.loads(client.get(key) or b"")
    client.set(key, orjson.dumps({**record, "mood": "good"}), ex=60)
    assert sessions.use(session.id, principal=ME, tool=None) == session


@pytest.fixture
def away(keys: Keys) -> Iterator[McpSessions]:
    shared = SharedConnection(StoreAddress(url="unix:///nonexistent/redis.sock"))
    yield McpSessions(shared, keys, idle_timeout=IDLE)
    shared.close()


def test_without_redis_there_is_no_session(away: McpSessions) -> None:
    """Fails closed, and says why: not "unknown session", upon which a client would throw its id away."""
    session = McpSession(id=McpSessionId("x"), principal=ME, version="2025-06-18")
    for asking in (
        lambda: opened(away),
        lambda: away.use("x", principal=ME, tool=None),
        lambda: away.end(session),
    ):
        with pytest.raises(StoreUnavailable):
            asking()


def test_a_client_that_says_too_much_of_itself_is_refused(sessions: McpSessions, client: Client) -> None:
    """It would be kept for as long as the session, here and in Redis."""
    with pytest.raises(InvalidRequest, match="16384 bytes"):
        opened(sessions, client_info={"name": "x" * 17_000})
    assert client.keys() == []


def test_what_is_remembered_is_bounded(sessions: McpSessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """In number and in bytes; what was forgotten is found again, by a round trip."""
    monkeypatch.setattr(module, "REMEMBERED", 3)
    kept = [opened(sessions) for _ in range(5)]
    assert list(sessions._remembered) == [session.id for session in kept[2:]]
    monkeypatch.setattr(module, "REMEMBERED_BYTES", 20_000)
    large = [opened(sessions, client_info={"name": "x" * 15_000}) for _ in range(3)]
    assert list(sessions._remembered) == [large[-1].id]
    assert sessions._remembered_bytes < 20_000
    for session in (*kept, *large):
        assert sessions.recall(session.id, principal=ME, tool=None) == session


def test_a_remembered_session_is_its_owners_only(sessions: McpSessions) -> None:
    """At its own endpoint, for its own principal: without asking Redis."""
    session = opened(sessions, ToolId("a"))
    assert sessions.recall(session.id, principal=ME, tool=ToolId("a")) == session
    for principal, tool in ((ME, None), (ME, ToolId("b")), *((other, ToolId("a")) for other in STRANGERS)):
        with pytest.raises(SessionNotFound):
            sessions.recall(session.id, principal=principal, tool=tool)


def test_a_stranger_does_not_keep_a_session_alive(sessions: McpSessions, client: Client, keys: Keys) -> None:
    """Its idle time goes on."""
    session = opened(sessions)
    client.pexpire(keys.mcp_session(session.id), 1000)
    with pytest.raises(SessionNotFound):
        sessions.use(session.id, principal=STRANGERS[0], tool=None)
    assert client.pttl(keys.mcp_session(session.id)) <= 1000
