"""The admission: each verdict of Redis is a value of its own, and a full queue says when to come again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from redis import Redis

from common.calls.admission import (
    RETRY_LEAST,
    RETRY_MOST,
    Admission,
    Admitted,
    Order,
    QueueAtBound,
    QueueBounds,
    SessionChanged,
    SessionGone,
)
from common.domain.errors import ErrorCode, StoreUnavailable
from common.domain.ids import McpSessionId
from common.domain.session import SessionClaim
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.shared import SharedConnection
from tests.support.messages import unstamped
from tests.support.redis import RedisServer

QUEUE = "tool.a"
WIDE = QueueBounds(max_length=1000, max_age=60)


@pytest.fixture
def admission(address: StoreAddress, client: Client, keys: Keys) -> Iterator[Admission]:
    connection = SharedConnection(address)
    yield Admission(connection, keys)
    connection.close()


def order(bounds: QueueBounds = WIDE, session: SessionClaim | None = None) -> Order:
    return Order(queue=QUEUE, message=unstamped(n=1), bounds=bounds, session=session)


def claim(digest: str) -> SessionClaim:
    return SessionClaim(id=McpSessionId("s"), digest=digest, idle_ms=60_000)


def test_an_admitted_call_is_queued(admission: Admission, client: Client) -> None:
    """The verdict tells the length with it."""
    assert [type(admission.admit(order())) for _ in range(2)] == [Admitted, Admitted]
    third = admission.admit(order())
    assert isinstance(third, Admitted)
    assert third.length == client.llen(QUEUE) == 3


def test_a_session_is_confirmed_in_the_same_step(admission: Admission, client: Client, keys: Keys) -> None:
    """Known as it is: admitted. Changed: shown. Gone: said. Only the first queues anything."""
    key, record = keys.mcp_session(McpSessionId("s")), b"{}"
    digest = hashlib.sha1(record, usedforsecurity=False).hexdigest()
    assert isinstance(admission.admit(order(session=claim(digest))), SessionGone)
    client.set(key, record, px=60_000)
    assert isinstance(admission.admit(order(session=claim(digest))), Admitted)
    client.set(key, b"{ }", px=60_000)
    changed = admission.admit(order(session=claim(digest)))
    assert isinstance(changed, SessionChanged)
    assert changed.record == b"{ }"
    assert client.llen(QUEUE) == 1


def test_a_queue_at_its_length_refuses(admission: Admission, client: Client) -> None:
    """As QUEUE_FULL, which names the tool, the bound, and when to come again."""
    bounds = QueueBounds(max_length=2, max_age=60)
    admission.admit(order(bounds))
    admission.admit(order(bounds))
    verdict = admission.admit(order(bounds))
    assert isinstance(verdict, QueueAtBound)
    error = verdict.error("a", bounds)
    assert error.code is ErrorCode.QUEUE_FULL
    assert error.data == {"reason": "length", "retry_after": RETRY_MOST}
    assert "tool 'a'" in error.message
    assert "2 calls wait (bound: 2)" in error.message
    assert client.llen(QUEUE) == 2


def test_a_queue_whose_oldest_call_is_too_old_refuses(admission: Admission, client: Client) -> None:
    """However short it is: it does not move."""
    client.lpush(QUEUE, '{"enqueued_at":1000,"n":0}')
    verdict = admission.admit(order())
    assert isinstance(verdict, QueueAtBound)
    error = verdict.error("a", WIDE)
    assert error.data["reason"] == "age"
    assert "(bound: 60)" in error.message


@pytest.mark.parametrize(
    ("length", "drained", "seconds"),
    [
        (100, 10.0, 5.0),
        (100, 0.0, RETRY_MOST),
        (100, 0.01, RETRY_MOST),
        (4, 1000.0, RETRY_LEAST),
    ],
)
def test_one_is_to_come_again_when_half_of_it_is_served(length: int, drained: float, seconds: float) -> None:
    """At the rate that was measured, within bounds."""
    assert QueueAtBound(now=0, length=length, age=-1, drained=drained).retry_after == seconds


def test_without_redis_nothing_is_admitted(keys: Keys) -> None:
    """Fails closed."""
    connection = SharedConnection(StoreAddress(url="unix:///nonexistent/redis.sock"))
    with pytest.raises(StoreUnavailable):
        Admission(connection, keys).admit(order())


@contextmanager
def full(raw: Redis) -> Iterator[None]:
    """No memory for any write."""
    raw.config_set("maxmemory-policy", "noeviction")
    raw.config_set("maxmemory", 1)
    try:
        yield
    finally:
        raw.config_set("maxmemory", 0)


@contextmanager
def replica(raw: Redis) -> Iterator[None]:
    """It became the replica of another."""
    raw.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        raw.replicaof("NO", "ONE")


@pytest.mark.parametrize("state", [full, replica])
def test_a_redis_that_takes_no_writes_refuses_calls(
    state: Callable[[Redis], AbstractContextManager[None]], redis_server: RedisServer, client: Client
) -> None:
    """With an error after which a call may be sent again, for nothing is queued; the next one is admitted."""
    connection = SharedConnection(StoreAddress(url=redis_server.url()))
    admission = Admission(connection, Keys("test"))
    with redis_server.client() as raw, state(raw):
        refused(admission)
        assert client.dbsize() == 0
    assert isinstance(admission.admit(order()), Admitted)
    connection.close()


@pytest.mark.parametrize("may", ["%R~*", "~tool.*"], ids=["read", "nothing"])
@pytest.mark.parametrize("most_events", [0, 100])
def test_a_redis_that_refuses_the_journal_alone_refuses_audited_calls(
    may: str, most_events: int, redis_server: RedisServer, client: Client, raw: Redis
) -> None:
    """None is in the queue of which its caller is told that he may send it again."""
    apart = ("~tool.*", "~test:[!a]*", may)
    raw.execute_command("ACL", "SETUSER", "apart", "reset", "on", ">p", "+@all", "&*", *apart)
    connection = SharedConnection(StoreAddress(url=f"unix://apart:p@{redis_server.socket}"))
    try:
        audited = Order(queue=QUEUE, message=unstamped(audit="t"), bounds=WIDE, most_events=most_events)
        refused(Admission(connection, Keys("test")), audited)
        assert client.dbsize() == 0
    finally:
        connection.close()
        raw.acl_deluser("apart")


def refused(admission: Admission, what: Order | None = None) -> None:
    """As docs/errors.md says, and known not to be queued."""
    with pytest.raises(StoreUnavailable, match="refused a command") as caught:
        admission.admit(what or order())
    assert (caught.value.meaning.http, caught.value.meaning.retryable) == (503, True)
    assert "outcome" not in caught.value.data
