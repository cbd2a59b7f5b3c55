"""When discovery asks, what it does about failures, and that it never stands in anybody's way."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from common.domain.capabilities import Capabilities
from common.domain.ids import ToolId
from common.domain.tool import StdioTransport, Tool, ToolState
from common.mcp.revisions import Era
from common.processes import is_running
from common.store.client import Client
from common.store.keys import Keys
from gateway_worker import discovery as discovery_module
from tests.support.aio import on_loop, until
from tests.support.backends import (
    EchoLog,
    echo_backend,
    http_backend,
    http_tool,
    misbehaving,
    stdio_tool,
)
from tests.support.servers.http_wire import Connection, Request
from tests.worker.discovery_cluster import NAMES, QUICK, Changeable, Cluster
from tests.worker.egress.http_links import connected


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, so that the tests end soon."""
    monkeypatch.setattr("gateway_worker.discovery.LOOK_INTERVAL", 0.02)


def names(known: Capabilities) -> list[Any]:
    """The names of what was listed."""
    return [tool["name"] for tool in known.tools]


# -- what goes wrong ------------------------------------------------------------------------------------


@on_loop
async def test_a_failure_is_shown_and_tried_again_after_a_growing_pause(
    cluster: Cluster, echo_log: EchoLog
) -> None:
    """The error stands at the tool; each pause is longer than the one before, up to the bound."""
    cluster.registry.put(misbehaving("bad_initialize", env=echo_log.env))
    pauses: dict[int, int] = {}
    async with cluster.running():
        for attempt in range(1, 6):
            known = await cluster.settled(lambda k, n=attempt: k.attempts >= n, what=f"attempt {attempt}")
            pauses[known.attempts] = known.retry_at - known.discovered_at
    assert known.error is not None
    assert "protocol version" in known.error
    assert list(pauses) == [1, 2, 3, 4, 5]
    assert pauses[2] > pauses[1]
    assert pauses[3] > pauses[2]
    assert max(pauses.values()) <= 0.4 * 1.2 * 1000
    assert len(echo_log.received("initialize")) <= 6


@on_loop
async def test_the_last_good_answer_stays_in_use(cluster: Cluster, tmp_path: Path) -> None:
    """With the error beside it; a success afterwards takes the error away."""
    broken = {"on": False}
    backend = Changeable("both", "1")

    def handle(connection: Connection, request: Request) -> None:
        if broken["on"]:
            connection.respond("500 Internal Server Error", b"no", "text/plain")
        else:
            backend.handle(connection, request)

    with http_backend(handle) as server:
        cluster.registry.put(http_tool(server.url))
        async with cluster.running():
            good = await cluster.good("remote")
            broken["on"] = True
            cluster.registry.refresh(ToolId("remote"))
            bad = await cluster.settled(lambda k: k.error is not None, "remote", what="the error")
            assert bad.error is not None
            assert "status 500" in bad.error
            assert (bad.tools, bad.eras, bad.server_info) == (good.tools, good.eras, good.server_info)
            broken["on"] = False
            again = await cluster.settled(lambda k: k.error is None, "remote", what="the recovery")
            assert (again.attempts, again.eras) == (0, good.eras)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("exit_at_start", "exit status 3"),
        ("only_garbage", "no JSON-RPC"),
        ("silent_after_init", "did not list its capabilities in time"),
    ],
)
def test_what_the_error_says(mode: str, words: str, cluster: Cluster) -> None:
    """Enough to know where to look."""

    @on_loop
    async def scenario() -> None:
        cluster.registry.put(misbehaving(mode, startup_timeout=0.7))
        quick = QUICK.model_copy(update={"timeout": 0.2, "era_probe_timeout": 0.2})
        async with cluster.running(settings=quick):
            known = await cluster.settled(lambda k: k.error is not None, what="the error")
        assert known.error is not None
        assert words in known.error

    scenario()


@on_loop
async def test_a_command_that_does_not_exist(cluster: Cluster) -> None:
    """The tool names it."""
    cluster.registry.put(Tool(id=ToolId("local"), transport=StdioTransport(command="/no/such/program")))
    async with cluster.running():
        known = await cluster.settled(lambda k: k.error is not None, what="the error")
    assert known.error is not None
    assert "/no/such/program" in known.error


@on_loop
async def test_a_fault_of_our_own_is_paused_for_too(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever breaks, the backend is not started again and again without a pause."""
    tries: list[float] = []

    def broken(*_: object, **__: object) -> None:
        tries.append(time.monotonic())
        raise KeyError("a bug")

    monkeypatch.setattr("tests.worker.discovery_cluster.make_link", broken)
    cluster.registry.put(stdio_tool())
    async with cluster.running():
        known = await cluster.settled(lambda k: k.attempts >= 4, what="four attempts")
    assert known.error is not None
    assert len(tries) <= 5


# -- when -----------------------------------------------------------------------------------------------


@on_loop
async def test_it_is_asked_once_and_not_again(cluster: Cluster, echo_log: EchoLog) -> None:
    """Before its time has come nobody asks, also while the catalogue has not read the answer yet."""
    cluster.registry.put(stdio_tool("echo", "--era", "modern", env=echo_log.env))
    async with cluster.running():
        cluster.refreshing = False
        await cluster.good()
        looks = 0
        original = cluster.workers[0]._look

        async def counted() -> None:
            nonlocal looks
            looks += 1
            await original()

        cluster.workers[0]._look = counted  # type: ignore[method-assign]
        await until(lambda: looks > 10, description="some more looks")
        cluster.refreshing = True
        await until(lambda: looks > 20, description="some more looks")
    assert len(echo_log.received("tools/list")) == 1


@on_loop
async def test_after_its_time_it_is_asked_again(cluster: Cluster) -> None:
    """``ttl`` is the age at which an answer is out of date."""
    cluster.registry.put(stdio_tool("echo", "--era", "modern"))
    async with cluster.running(settings=QUICK.model_copy(update={"ttl": 0.2})):
        first = await cluster.good()
        again = await cluster.settled(lambda k: k.discovered_at > first.discovered_at, what="a second answer")
    assert again.discovered_at - first.discovered_at >= 200


@on_loop
async def test_a_refresh_that_somebody_asked_for(cluster: Cluster, client: Client, keys: Keys) -> None:
    """Is done at once, and the wish is gone afterwards."""
    cluster.registry.put(stdio_tool("echo", "--era", "modern"))
    async with cluster.running():
        first = await cluster.good()
        cluster.registry.refresh(ToolId("local"))
        await cluster.settled(lambda k: k.discovered_at > first.discovered_at, what="a second answer")
        await until(lambda: not client.hgetall(keys.registry_refresh), description="no wish left")


@on_loop
async def test_a_changed_list_is_read(cluster: Cluster) -> None:
    """When a live session heard its announcement."""
    with echo_backend("modern") as server:
        cluster.registry.put(http_tool(server.url))
        async with cluster.running():
            await cluster.good("remote")
            async with connected(server, era=Era.MODERN) as (backend, _):
                await backend.request("tools/call", {"name": "list_changed", "arguments": {}})
            cluster.workers[0].announce(ToolId("remote"), "tools")
            known = await cluster.settled(
                lambda k: len(k.tools) > len(NAMES), "remote", what="the longer list"
            )
            assert known.announced == {"tools": 1}
            # What a backend announces counts, also if its list reads the same.
            cluster.workers[0].announce(ToolId("remote"), "tools")
            cluster.workers[0].announce(ToolId("remote"), "prompts")
            again = await cluster.settled(lambda k: "prompts" in k.announced, "remote", what="two more")
    assert names(known)[-1] == "added_1"
    assert again.announced == {"tools": 2, "prompts": 1}


@on_loop
async def test_one_that_announces_changes_all_the_time_is_asked_less_and_less(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time at once, then after pauses that grow; what it announces meanwhile is not forgotten."""
    monkeypatch.setattr(discovery_module, "CALM", 3600.0)
    monkeypatch.setattr(discovery_module, "PAUSE_FIRST", 3600.0)
    with echo_backend("modern") as server:
        cluster.registry.put(http_tool(server.url))
        async with cluster.running():
            await cluster.good("remote")
            worker = cluster.workers[0]
            for time in (1, 2):
                worker.announce(ToolId("remote"), "tools")
                known = await cluster.settled(
                    lambda k, time=time: k.announced == {"tools": time}, "remote", what="another look"
                )
            worker.announce(ToolId("remote"), "tools")
            (entry,) = (entry for entry in worker._catalogue.entries() if entry.id == "remote")
            assert not worker._due(entry, {})
            monkeypatch.setattr(discovery_module, "PAUSE_MAX", 0.0)
            worker._pauses.clear()
            await cluster.settled(lambda k: k.announced == {"tools": 3}, "remote", what="the third")
    assert known.error is None


@on_loop
async def test_a_changed_definition_is_asked_anew(cluster: Cluster) -> None:
    """What was known belonged to the old one."""
    cluster.registry.put(stdio_tool("echo", "--era", "modern", "--name", "first"))
    async with cluster.running():
        await cluster.good()
        cluster.registry.put(stdio_tool("echo", "--era", "modern", "--name", "second"))
        await cluster.settled(lambda k: k.server_info["name"] == "second", what="the second server")


@on_loop
async def test_who_is_not_asked(cluster: Cluster, echo_log: EchoLog) -> None:
    """A disabled tool, and one that this worker does not serve."""
    disabled = stdio_tool(env=echo_log.env, id=ToolId("disabled")).with_state(ToolState.DISABLED)
    cluster.registry.put(disabled)
    cluster.registry.put(stdio_tool(env=echo_log.env, id=ToolId("foreign")))
    cluster.registry.put(stdio_tool("echo", "--era", "modern", id=ToolId("mine")))
    async with cluster.running(serves=lambda tool: tool != "foreign"):
        await cluster.good("mine")
    assert echo_log.received() == []


@on_loop
async def test_two_workers_do_not_ask_twice(cluster: Cluster, echo_log: EchoLog, client: Client) -> None:
    """One holds the lease; it gives it back."""
    cluster.registry.put(misbehaving("slow_start", "--seconds", "0.3", "--era", "modern", env=echo_log.env))
    async with cluster.running("n1", "n2", "n3"):
        await cluster.good()
        await until(lambda: not client.keys("test:discovery:*"), description="the lease to be given back")
    assert len(echo_log.received("tools/list")) == 1


@on_loop
async def test_a_lease_of_another_is_respected(
    cluster: Cluster, client: Client, keys: Keys, echo_log: EchoLog
) -> None:
    """While it lasts nobody else asks; when it has run out somebody does."""
    client.set(keys.discovery_lease(ToolId("local")), "a dead worker", px=500)
    cluster.registry.put(stdio_tool("echo", "--era", "modern", env=echo_log.env))
    async with cluster.running():
        begun = time.monotonic()
        await cluster.good()
        assert time.monotonic() - begun > 0.3


@on_loop
async def test_a_slow_tool_does_not_hold_up_the_others(cluster: Cluster, quick_stop: None) -> None:
    """Nor does one that never answers."""
    cluster.registry.put(misbehaving("silent", id=ToolId("a-silent")))
    cluster.registry.put(misbehaving("slow_start", "--seconds", "3", id=ToolId("b-slow")))
    cluster.registry.put(stdio_tool("echo", "--era", "modern", id=ToolId("c-quick")))
    async with cluster.running():
        begun = time.monotonic()
        await cluster.good("c-quick")
        assert time.monotonic() - begun < 2.0


@on_loop
async def test_closing_ends_what_runs_and_begins_nothing(
    cluster: Cluster, echo_log: EchoLog, client: Client
) -> None:
    """The children go, the leases too."""
    cluster.registry.put(misbehaving("silent", env=echo_log.env))
    async with cluster.running():
        await until(echo_log.received, description="the child to be asked")
        begun = time.monotonic()
        await cluster.workers[0].close()
        assert time.monotonic() - begun < 3.0
        (pid,) = echo_log.pids()
        assert not is_running(pid)
        assert client.keys("test:discovery:*") == []
        looked = asyncio.Event()
        original = cluster.workers[0]._look

        async def seen() -> None:
            await original()
            looked.set()

        cluster.workers[0]._look = seen  # type: ignore[method-assign]
        await looked.wait()
        assert len(echo_log.pids()) == 1
