"""Backpressure from outside: a tool that cannot keep up refuses at once, says when to come again, and recovers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import orjson
import pytest
from redis import Redis

from common.domain.ids import NodeId
from common.store.keys import Keys
from tests.support.mcp import modern
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

pytestmark = pytest.mark.e2e
COMMAND, *ARGS = server_command("echo")
BOUND = 3


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """One call at a time; three may wait for ``narrow``, none longer than half a second for ``hasty``."""
    tools = {
        "narrow": {"command": COMMAND, "args": ARGS},
        "hasty": {"command": COMMAND, "args": ARGS, "queue_max_age": 0.5, "queue_max_length": 100},
    }
    settings = {"worker": {"concurrency": 1}, "runtime": {"queue_max_length": BOUND}}
    with running_gateway(tools, directory=tmp_path_factory.mktemp("full"), settings=settings) as found:
        yield found


@pytest.fixture
def redis(gateway: RunningGateway) -> Iterator[Redis]:
    """The gateway's Redis."""
    record = orjson.loads((gateway.config.parent / "state" / "run.json").read_bytes())
    with Redis.from_url(record["redis_url"]) as client:
        yield client


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as pool:
        yield pool


def sleep(gateway: RunningGateway, tool: str, seconds: float) -> httpx.Response:
    client = modern(gateway.tool_url(tool))
    return client.post("tools/call", {"name": "sleep", "arguments": {"seconds": seconds}})


def refusal(response: httpx.Response) -> dict[str, object]:
    """Code and reason of a refused call."""
    data = response.json()["error"]["data"]
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) == max(1, math.ceil(data["retry_after"]))
    return {"code": data["code"], "reason": data["reason"]}


def test_a_full_queue_refuses_at_once_and_takes_calls_again(
    gateway: RunningGateway, redis: Redis, pool: ThreadPoolExecutor
) -> None:
    """``queue_max_length``: one runs, three wait, the next is told to come again; all others are answered."""
    accepted = [pool.submit(sleep, gateway, "narrow", 0.8)]
    wait_until(lambda: in_flight(redis) == 1, description="one runs")
    accepted += [pool.submit(sleep, gateway, "narrow", 0.1) for _ in range(BOUND)]
    wait_until(lambda: waiting_for(redis, "narrow") == BOUND, description="the others wait")
    begun = time.monotonic()
    assert refusal(sleep(gateway, "narrow", 0)) == {"code": "QUEUE_FULL", "reason": "length"}
    assert time.monotonic() - begun < 0.5
    assert [future.result().status_code for future in accepted] == [200] * (BOUND + 1)
    assert sleep(gateway, "narrow", 0).status_code == 200


def test_the_time_to_come_again_follows_the_measured_rate(
    gateway: RunningGateway, redis: Redis, pool: ThreadPoolExecutor
) -> None:
    """A queue that was drained quickly before it filled up says so."""
    for _ in range(20):
        assert sleep(gateway, "narrow", 0).status_code == 200
    accepted = [pool.submit(sleep, gateway, "narrow", 0.5)]
    wait_until(lambda: in_flight(redis) == 1, description="one runs")
    accepted += [pool.submit(sleep, gateway, "narrow", 0) for _ in range(BOUND)]
    wait_until(lambda: waiting_for(redis, "narrow") == BOUND, description="the others wait")
    response = sleep(gateway, "narrow", 0)
    assert 1 <= response.json()["error"]["data"]["retry_after"] < 5
    assert [future.result().status_code for future in accepted] == [200] * (BOUND + 1)


def test_a_queue_that_stands_still_refuses(
    gateway: RunningGateway, redis: Redis, pool: ThreadPoolExecutor
) -> None:
    """``queue_max_age``: it holds one call only, which has waited too long."""
    running = pool.submit(sleep, gateway, "hasty", 1.5)
    wait_until(lambda: in_flight(redis) == 1, description="one runs")
    waiting = pool.submit(sleep, gateway, "hasty", 0)
    wait_until(lambda: waiting_for(redis, "hasty") == 1, description="one waits")
    last: list[httpx.Response] = []
    more: list[Future[httpx.Response]] = []

    def refused() -> bool:
        """Calls that are admitted meanwhile wait as well, hence in threads of their own."""
        more.append(pool.submit(sleep, gateway, "hasty", 0))
        last[:] = [future.result() for future in more if future.done()]
        return any(response.status_code == 429 for response in last)

    wait_until(refused, description="the oldest has waited too long", interval=0.1)
    found = next(response for response in last if response.status_code == 429)
    assert refusal(found) == {"code": "QUEUE_FULL", "reason": "age"}
    assert [future.result().status_code for future in (running, waiting)] == [200, 200]


def waiting_for(redis: Redis, tool: str) -> int:
    """Calls that wait in the tool's queue, and on the direct lists of the nodes that own their sessions."""
    keys, queue = Keys(), f"tool.{tool}"
    lists = [queue, *(keys.direct(NodeId(node.decode()), queue) for node in redis.zrange(keys.nodes, 0, -1))]
    return sum(int(redis.llen(name)) for name in lists)


def in_flight(redis: Redis) -> int:
    """Calls that a worker has begun and not ended."""
    return sum(redis.hlen(key) for key in redis.keys("canalgate:unacked:*"))
