"""admit: what is decided and what is written, in one step; a refused call has taken nothing."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest
from redis import Redis
from redis.exceptions import RedisError

from common.domain.ids import McpSessionId
from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import run
from tests.support.messages import stamped, unstamped

PREFIX, WAKE = "test:", "test:wake"
QUEUE, DRAIN, HEAD = "tool.a", "test:drain:tool.a", "test:head:tool.a"
IDLE_MS = 60_000


def admit(client: Client, *, most: int = 0, oldest: int = 0, session: tuple[str, str] | None = None) -> Any:
    """One call; ``session`` is the key of a session and the digest the caller knows."""
    keys: list[str] = [QUEUE, DRAIN, HEAD]
    args: list[Any] = [unstamped(n=1), PREFIX, most, oldest, 1, 1, 100]
    if session is not None:
        keys.append(session[0])
        args += [IDLE_MS, session[1]]
    return run(client, "admit", keys, args)


def redis_ms(client: Client) -> int:
    seconds, micros = client.time()
    return int(seconds * 1000 + micros // 1000)


def looks(client: Client) -> int:
    """How often the oldest message was looked at by now."""
    return int(client.info("commandstats").get("cmdstat_lindex", {"calls": 0})["calls"])


def waiting(client: Client, age_ms: int) -> None:
    """A message that has waited so long."""
    client.lpush(QUEUE, f'{{"enqueued_at":{redis_ms(client) - age_ms},"n":0}}')


def test_an_admitted_call_is_on_its_queue(client: Client) -> None:
    """With the time before all its members; the sender learns the time and the length."""
    before = redis_ms(client)
    kind, now, length = admit(client)
    assert (kind, length) == (b"admitted", 1)
    assert before <= now <= redis_ms(client)
    assert client.lrange(QUEUE, 0, -1) == [stamped(at=now, n=1)]
    assert orjson.loads(client.lindex(QUEUE, 0) or b"")["enqueued_at"] == now
    assert admit(client)[2] == 2


def test_workers_are_woken_only_when_there_was_nothing(client: Client) -> None:
    """The name of the queue goes out with the first message, and again once it was emptied."""
    with client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(WAKE)
        channel.get_message(timeout=1)
        admit(client)
        admit(client)
        client.delete(QUEUE)
        admit(client)
        client.publish(WAKE, "end")
        heard = []
        while not heard or heard[-1] != b"end":
            if message := channel.get_message(timeout=1):
                heard.append(message["data"])
    assert heard == [b"tool.a", b"tool.a", b"end"]


def test_a_queue_takes_as_many_as_its_bound(client: Client) -> None:
    """And not one more: the next is refused, and nothing changes."""
    assert [admit(client, most=2)[0] for _ in range(3)] == [b"admitted", b"admitted", b"queue_full"]
    assert client.llen(QUEUE) == 2


def test_the_age_of_the_oldest_bounds_a_queue(client: Client) -> None:
    """However short it is; what is younger than the bound does not matter."""
    waiting(client, 5_000)
    waiting(client, 10)
    assert admit(client, oldest=60_000)[0] == b"admitted"
    kind, _, length, age, _ = admit(client, oldest=4_000)
    assert (kind, length) == (b"queue_full", 3)
    assert 5_000 <= age < 15_000
    assert client.llen(QUEUE) == 3


def test_a_message_without_a_stamp_has_no_age(client: Client) -> None:
    """A stock producer's: it counts for the length only."""
    client.lpush(QUEUE, '{"body":"","enqueued_at":1}')
    assert admit(client, oldest=1)[0] == b"admitted"
    assert admit(client, most=2, oldest=1)[2:4] == [2, -1]


def test_the_oldest_message_is_not_copied_for_every_call(client: Client) -> None:
    """It may be megabytes long, and Redis does nothing else meanwhile: it is looked at once a second."""
    waiting(client, 0)
    before = looks(client)
    for _ in range(50):
        assert admit(client, oldest=60_000)[0] == b"admitted"
    assert 1 <= looks(client) - before <= 3
    assert 0 < client.pttl(HEAD) <= 1000


def test_nobody_is_refused_for_a_message_that_is_gone(client: Client) -> None:
    """What was seen of the oldest is looked at again before a refusal."""
    now = redis_ms(client)
    waiting(client, 0)
    client.set(HEAD, f"{now - 60_000} {now - 500}", px=1000)
    assert admit(client, oldest=5_000)[0] == b"admitted"


def test_a_redis_without_memory_refuses_the_call(
    client: Client, raw: Redis, session: tuple[str, str]
) -> None:
    """The call as well as everything else: the message is the first thing that is written."""
    raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(RedisError):
            admit(client, session=session)
    finally:
        raw.config_set("maxmemory", 0)
    assert client.llen(QUEUE) == 0


def measured(client: Client, since: int, **spans: int) -> float:
    """What a refusal says of spans of ten seconds, counted from the one of this moment: ``this``, ``last``, ``old``."""
    now = redis_ms(client)
    back = {"this": 0, "last": 1, "old": 2}
    client.delete(DRAIN)
    client.hset(DRAIN, mapping={str(now // 10_000 - back[name]): count for name, count in spans.items()})
    client.hset(DRAIN, "since", now - since)
    client.expire(DRAIN, 60)
    return float(admit(client, most=1)[4])


def test_a_refusal_tells_how_fast_the_queue_is_drained(client: Client) -> None:
    """As measured by the workers in the last ten seconds; what was measured long ago does not count."""
    waiting(client, 0)
    assert float(admit(client, most=1)[4]) == 0
    assert measured(client, 600_000, old=1000) == 0
    now = redis_ms(client) % 10_000
    assert measured(client, 600_000, last=400) == pytest.approx(40 * (1 - now / 10_000), abs=2)
    assert measured(client, 600_000, this=100, last=100) == pytest.approx(10 + 10 * (1 - now / 10_000), abs=2)


def test_a_rate_that_was_measured_for_two_seconds_only_is_right_as_well(client: Client) -> None:
    """200 in two seconds are 100 a second; of one moment nothing is made."""
    waiting(client, 0)
    assert measured(client, 2000, this=200) == pytest.approx(100, rel=0.1)
    assert measured(client, 0, this=1) == pytest.approx(1, rel=0.1)


@pytest.fixture
def session(client: Client, keys: Keys) -> tuple[str, str]:
    """Key and digest of a session that expires soon."""
    key, record = keys.mcp_session(McpSessionId("s")), b'{"principal":"p"}'
    client.set(key, record, px=30_000)
    return key, hashlib.sha1(record, usedforsecurity=False).hexdigest()


def test_a_session_is_confirmed_and_kept(client: Client, session: tuple[str, str]) -> None:
    """Its idle time begins anew."""
    assert admit(client, session=session)[0] == b"admitted"
    assert client.pttl(session[0]) > 30_000


def test_without_its_session_no_call_is_admitted(client: Client, session: tuple[str, str]) -> None:
    """It ended in another process: nothing is queued, nothing comes back to life."""
    client.delete(session[0])
    assert admit(client, session=session)[0] == b"session_gone"
    assert client.keys() == []


def test_a_changed_session_is_shown_before_anything_relies_on_it(
    client: Client, session: tuple[str, str]
) -> None:
    """Another process wrote it: the caller gets the record and asks again."""
    client.set(session[0], b"{}", px=30_000)
    kind, _, record = admit(client, session=session)
    assert (kind, record) == (b"session_changed", b"{}")
    assert client.llen(QUEUE) == 0
    assert client.pttl(session[0]) <= 30_000


def test_a_full_queue_does_not_keep_a_session_alive(client: Client, session: tuple[str, str]) -> None:
    """A refusal takes nothing and gives nothing."""
    waiting(client, 0)
    assert admit(client, most=1, session=session)[0] == b"queue_full"
    assert client.pttl(session[0]) <= 30_000
