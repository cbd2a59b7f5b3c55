"""The engine when Redis fails, when it is stopped, and when tools come and go."""

from __future__ import annotations

import asyncio
import threading
import time

import orjson
import pytest
from redis import Redis

from common.calls.head import MEMBER
from common.domain.errors import ErrorCode
from common.domain.ids import ToolId
from common.domain.tool import MAX_POOL_SIZE
from common.processes import is_running
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.scripts import script
from tests.support.backends import (
    EchoLog,
    echo_backend,
    http_tool,
    invocation,
    misbehaving,
    stdio_tool,
)
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until
from tests.worker.engine_bench import QUEUE, Bench, running

pytestmark = pytest.mark.usefixtures("the_engine_never_breaks")


# -- faults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut", "black hole", "reply lost"])
def test_a_fault_of_redis_while_a_call_runs(
    fault: str, client: Client, keys: Keys, raw: Redis, proxy: TcpProxy, echo_log: EchoLog
) -> None:
    """It is answered once Redis is back, and was executed once; so is the next."""
    address = StoreAddress(url=proxy.url, socket_timeout=0.5)
    with running(client, keys, raw, address) as bench:
        bench.register(stdio_tool(env=echo_log.env))
        assert bench.works()
        call = bench.send(invocation("sleep", {"seconds": 0.3}))
        wait_until(lambda: len(echo_log.received("tools/call")) == 2, description="the call at the backend")
        {"cut": proxy.cut, "black hole": proxy.black_hole, "reply lost": proxy.swallow_next_reply}[fault]()
        assert bench.ended(call) == "slept 0.3 s"
        assert bench.works()
        wait_until(lambda: bench.unacked() == 0, description="the acknowledgements")
    assert len(echo_log.received("tools/call")) == 3


def test_redis_away_for_a_while(
    client: Client, keys: Keys, raw: Redis, proxy: TcpProxy, echo_log: EchoLog
) -> None:
    """Calls under way end and are answered afterwards; the sessions stay."""
    address = StoreAddress(url=proxy.url, socket_timeout=0.5)
    with running(client, keys, raw, address) as bench:
        bench.register(stdio_tool(env=echo_log.env))
        call = bench.send(invocation("sleep", {"seconds": 0.2}))
        wait_until(lambda: echo_log.received("tools/call"), description="the call at the backend")
        proxy.refuse()
        proxy.cut()
        wait_until(lambda: bench.engine.in_flight == 0, description="the call to end")
        assert raw.get(keys.result(call.id)) is None
        proxy.refuse(False)
        assert bench.ended(call) == "slept 0.2 s"
        assert bench.works()
    assert (
        len({entry["pid"] for entry in echo_log.entries() if entry["received"]["method"] == "tools/call"})
        == 1
    )


def test_redis_away_for_too_long(
    client: Client,
    keys: Keys,
    raw: Redis,
    proxy: TcpProxy,
    echo_log: EchoLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sessions are given up, and calls under way end with them. Then all goes on, anew."""
    monkeypatch.setattr("gateway_worker.nodes.BEAT", 0.05)
    monkeypatch.setattr("gateway_worker.node.SELF_FENCE", 0.7)
    monkeypatch.setattr("gateway_worker.node.CUT_OFF", 0.9)
    address = StoreAddress(url=proxy.url, socket_timeout=0.5)
    with running(client, keys, raw, address) as bench:
        bench.register(stdio_tool(env=echo_log.env))
        call = bench.send(invocation("cancel_log"))
        wait_until(lambda: echo_log.received("tools/call"), description="the call at the backend")
        (pid,) = (entry["pid"] for entry in echo_log.entries() if entry.get("received", {}).get("id") == 2)
        proxy.refuse()
        proxy.cut()
        wait_until(lambda: not is_running(pid), description="the child to end")
        proxy.refuse(False)
        assert bench.ended(call) is ErrorCode.WORKER_LOST
        assert bench.works()
        assert raw.hlen(keys.sessions(ToolId("local"))) == 1
    assert len(echo_log.received("tools/call")) == 2


# -- the end --------------------------------------------------------------------------------------------


def test_a_stop_lets_calls_end(client: Client, keys: Keys, raw: Redis, address: StoreAddress) -> None:
    """What runs is finished and answered, nothing more is fetched, nothing is left of the node."""
    with running(client, keys, raw, address) as bench:
        bench.register(stdio_tool())
        pid = int(str(bench.ended(bench.send(invocation("pid")))))
        call = bench.send(invocation("sleep", {"seconds": 0.5}))
        wait_until(lambda: bench.engine.in_flight, description="the call under way")
        stopping = threading.Thread(target=bench.engine.stop)
        stopping.start()
        assert bench.ended(call) == "slept 0.5 s"
        stopping.join(10)
        assert not stopping.is_alive()
        left = invocation("echo")
        bench.send(left)
        assert raw.llen(QUEUE) == 1
        assert raw.get(keys.result(left.id)) is None
        assert raw.zscore(keys.nodes, bench.engine.node) is None
        assert bench.unacked() == 0
        assert not is_running(pid)


def test_a_stop_cuts_off_what_takes_too_long(
    client: Client, keys: Keys, raw: Redis, address: StoreAddress, echo_log: EchoLog
) -> None:
    """Its caller is told that the outcome is unknown, not that he cancelled it himself."""
    with running(client, keys, raw, address, drain_timeout=0.2) as bench:
        bench.register(stdio_tool(env=echo_log.env))
        call = bench.send(invocation("cancel_log"))
        wait_until(lambda: echo_log.received("tools/call"), description="the call at the backend")
        begun = time.monotonic()
        bench.engine.stop()
        assert time.monotonic() - begun < 4.0
        assert bench.ended(call) is ErrorCode.WORKER_LOST
        assert bench.unacked() == 0


def test_a_stop_during_a_start_does_not_wait_for_it(
    client: Client, keys: Keys, raw: Redis, address: StoreAddress, echo_log: EchoLog
) -> None:
    """A silent child, with a minute to start, is ended at once."""
    with running(client, keys, raw, address, drain_timeout=0) as bench:
        bench.register(misbehaving("silent", env=echo_log.env, startup_timeout=60))
        call = bench.send(invocation("echo"))
        wait_until(echo_log.received, description="the child to be asked")
        begun = time.monotonic()
        bench.engine.stop()
        assert time.monotonic() - begun < 5.0
        assert not any(map(is_running, echo_log.pids()))
        # Nothing of the call was sent: it waits for another worker.
        (waiting,) = raw.lrange(QUEUE, 0, -1)
        assert orjson.loads(waiting)["headers"]["id"] == call.id


def test_a_stop_ends_services_that_miss_their_cancellation(
    client: Client, keys: Keys, raw: Redis, address: StoreAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Python 3.11 ``asyncio.wait_for``, with which redis-py waits, loses one now and then (python/cpython#86296)."""

    async def deaf_once(_: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    monkeypatch.setattr("gateway_worker.listener.Listener.run", deaf_once)
    with running(client, keys, raw, address) as bench:
        stopping = threading.Thread(target=bench.engine.stop, daemon=True)
        stopping.start()
        stopping.join(8)
        stuck = stopping.is_alive()
        if stuck:  # let the fixture end
            loop = bench.engine._loop
            assert loop is not None
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        assert not stuck


def test_a_stop_while_redis_is_away(client: Client, keys: Keys, raw: Redis, proxy: TcpProxy) -> None:
    """It ends in bounded time all the same."""
    with running(client, keys, raw, StoreAddress(url=proxy.url, socket_timeout=0.3)) as bench:
        bench.register(stdio_tool())
        assert bench.works()
        proxy.refuse()
        proxy.cut()
        begun = time.monotonic()
        bench.engine.stop()
        assert time.monotonic() - begun < 8.0


# -- the registry ---------------------------------------------------------------------------------------


def test_tools_come_and_go(bench: Bench) -> None:
    """A new one can be called as soon as it is known, a changed one runs as changed, a removed one is refused."""
    with echo_backend() as server:
        bench.register(http_tool(server.url, id=ToolId("local")))
        wait_until(
            lambda: bench.works() and len(server.messages("tools/call")) > 0,
            description="the new definition at work",
        )
    changes = bench.host.changes
    bench.registry.remove(ToolId("local"))
    wait_until(lambda: bench.engine.tools() == [], description="the removal")
    assert bench.ended(bench.send(invocation("echo"))) is ErrorCode.TOOL_NOT_FOUND
    assert bench.host.changes > changes


# -- what others have written ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record", [b"[]", b"null", b'"x"', b'{"tool_version":1,"discovered_at":null}', b'{"tool_version":"1"}']
)
def test_a_record_of_the_wrong_form_costs_its_own_tool_alone(record: bytes, bench: Bench) -> None:
    """Whoever wrote it: the others are served, and new ones are found."""
    bench.raw.hset(bench.keys.registry_capabilities, "local", record)
    bench.raw.hset(bench.keys.registry_refresh, "other", "soon")
    bench.register(stdio_tool(id=ToolId("other")))
    bench.engine.follow([QUEUE, "tool.other"])
    call = invocation("echo", {"text": "x"}, tool="other")
    bench.raw.lpush("tool.other", orjson.dumps(bench.stock_message(call)))
    bench.raw.publish(bench.keys.wake_channel, "tool.other")
    assert bench.ended(call) == "x"


@pytest.mark.parametrize("size", [0, 257, 10**10])
def test_a_head_with_an_impossible_pool_gets_another_one(size: int, bench: Bench) -> None:
    """Whoever can write a queue can write such a head; what is fetched together with it is served."""
    odd, good = invocation("echo", {"text": "odd"}), invocation("echo", {"text": "good"})
    made = bench.message(odd)
    parts = made[MEMBER].split("|")
    assert parts[9] == "0"
    parts[4], parts[9] = "*", str(size)
    bench.raw.lpush(QUEUE, orjson.dumps({**made, MEMBER: "|".join(parts)}), orjson.dumps(bench.message(good)))
    bench.raw.publish(bench.keys.wake_channel, QUEUE)
    assert [bench.ended(odd), bench.ended(good)] == ["odd", "good"]


def test_the_largest_pool_is_the_same_everywhere() -> None:
    """The script cannot import it."""
    assert f"MOST_OF_POOL = {MAX_POOL_SIZE}\n" in script("fetch").source
