"""The tests' own Redis: private, and strict about what is left in it."""

from __future__ import annotations

from common.store.client import Client
from tests.support.redis import RedisServer, leaked_keys


def test_it_listens_on_no_tcp_port(redis_server: RedisServer) -> None:
    """Only this user's processes can reach it."""
    with redis_server.client() as client:
        assert client.config_get("port") == {"port": "0"}


def test_a_key_for_ever_is_found(client: Client) -> None:
    """A key without a lifetime that the catalogue does not know is a leak."""
    client.set("test:forgotten", 1)
    client.set("celery-task-meta-1", 1)
    found = leaked_keys(client)
    client.flushdb()
    assert sorted(found) == ["celery-task-meta-1", "test:forgotten"]


def test_permanent_keys_and_queues_are_none(client: Client) -> None:
    """What the catalogue names permanent may stay, as may what waits in a queue and what will expire."""
    client.set("test:registry:version", 1)
    client.zadd("other:nodes", {"n": 1})
    client.lpush("tool.a%2Fb", "message")
    client.set("test:mcp-session:x", 1, ex=100)
    assert leaked_keys(client) == []
