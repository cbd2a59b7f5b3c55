"""The proxy does to a connection what it says, and nothing else."""

from __future__ import annotations

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy


@pytest.fixture
def through(proxy: TcpProxy) -> Redis:
    return Redis.from_url(proxy.url, socket_timeout=0.2, retry=Retry(NoBackoff(), 0))


def test_it_forwards(through: Redis, proxy: TcpProxy) -> None:
    """Undisturbed, it is a wire."""
    with through:
        assert through.ping()
        assert proxy.links == 1


def test_a_cut_is_seen_and_can_be_mended(through: Redis, proxy: TcpProxy) -> None:
    """What stood is closed; what comes next works."""
    with through:
        through.ping()
        proxy.cut()
        assert proxy.links == 0
        assert through.ping()
        assert proxy.links == 1


def test_one_reply_is_lost(through: Redis, proxy: TcpProxy, raw: Redis) -> None:
    """The command was executed; its answer never comes."""
    with through:
        through.ping()
        proxy.swallow_next_reply()
        with pytest.raises(RedisTimeoutError):
            through.set("swallowed", 1, ex=10)
        assert raw.get("swallowed") == b"1"
        assert proxy.swallowed == 1


def test_a_black_hole_swallows_what_stands_and_lets_new_ones_through(through: Redis, proxy: TcpProxy) -> None:
    """As when a firewall forgets a connection."""
    with through:
        through.ping()
        proxy.black_hole()
        with pytest.raises(RedisTimeoutError):
            through.ping()
        assert through.ping()


def test_new_connections_are_refused(through: Redis, proxy: TcpProxy, redis_server: RedisServer) -> None:
    """A server that is away."""
    proxy.refuse()
    with through, pytest.raises(RedisConnectionError):
        through.ping()
    proxy.refuse(False)
    assert through.ping()
    through.close()


@pytest.mark.parametrize("keep", [0, 3])
def test_a_request_is_cut_in_its_middle(keep: int, through: Redis, proxy: TcpProxy, raw: Redis) -> None:
    """What is cut off was never executed; other commands pass."""
    raw.delete("victim")
    proxy.cut_at(b"victim", keep=keep)
    with through:
        through.set("other", 1, ex=10)
        assert proxy.sprung == 0
        with pytest.raises(RedisConnectionError):
            through.set("victim", 1, ex=10)
        assert proxy.sprung == 1
        assert raw.get("victim") is None
        assert through.set("victim", 1, ex=10)


def test_an_answer_is_cut_in_its_middle(through: Redis, proxy: TcpProxy, raw: Redis) -> None:
    """The client has a part of it, and then the connection is gone."""
    raw.set("k", "a long value", ex=10)
    proxy.cut_at(b"long", answers=True, keep=2)
    with through, pytest.raises(RedisConnectionError):
        through.get("k")
    assert proxy.sprung == 1


@pytest.mark.parametrize("silent", [False, True])
def test_the_answer_to_a_request_is_lost(silent: bool, through: Redis, proxy: TcpProxy, raw: Redis) -> None:
    """The request was executed; its connection breaks, or says nothing more."""
    proxy.lose_answer_to(b"victim", silent=silent)
    with through, pytest.raises(RedisTimeoutError if silent else RedisConnectionError):
        through.set("victim", 1, ex=10)
    assert raw.get("victim") == b"1"
    assert proxy.sprung == 1


def test_an_answer_is_lost_by_what_it_says(through: Redis, proxy: TcpProxy, raw: Redis) -> None:
    """And the connection says nothing more."""
    raw.set("k", "victim", ex=10)
    proxy.lose(b"victim")
    with through:
        assert through.ping()
        with pytest.raises(RedisTimeoutError):
            through.get("k")
        assert through.get("k") == b"victim"
