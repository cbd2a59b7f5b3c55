"""A process's view of the registry: always what a fresh reading would give, and never gone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import orjson
import pytest

import common.registry.catalogue as module
from common.domain.capabilities import Capabilities
from common.domain.errors import StoreUnavailable
from common.domain.health import Health, health_to_wire
from common.domain.ids import ToolId
from common.domain.tool import StdioTransport, Tool, ToolState
from common.registry.catalogue import FULL_RELOAD_BEHIND, Catalogue
from common.registry.lifecycle import Lifecycle
from common.registry.records import Entry, capabilities_to_json
from common.registry.registry import Registry
from common.store.client import Client, StoreAddress, connect
from common.store.keys import Keys
from common.store.scripts import run
from tests.support.egress import ANYTHING
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until


def tool(name: str, command: str = "cmd") -> Tool:
    return Tool(id=ToolId(name), transport=StdioTransport(command=command))


@pytest.fixture
def registry(client: Client, keys: Keys) -> Registry:
    return Registry(client, keys, ANYTHING)


@pytest.fixture
def catalogue(client: Client, keys: Keys) -> Catalogue:
    return Catalogue(client, keys)


def discovered(client: Client, keys: Keys, name: str, version: int, **known: Any) -> None:
    found = Capabilities(tool_version=version, discovered_at=1, **known)
    names = [
        *(keys.registry_versions, keys.registry_capabilities, keys.registry_version),
        *(keys.registry_changes, keys.registry_refresh),
    ]
    run(client, "capabilities_put", names, [name, capabilities_to_json(found), version, 1, "test:registry"])


def graded(client: Client, keys: Keys, name: str, grade: ToolState) -> Health:
    """Write a tool's health as a probe does that found another grade."""
    health = Health(grade=grade, latency_ms=1.5, at=2, since=1)
    with client.pipeline(transaction=True) as pipe:
        pipe.hset(keys.health, name, orjson.dumps(health_to_wire(health)))
        pipe.incr(keys.registry_version)
        pipe.execute()
    version = int(client.get(keys.registry_version) or 0)
    client.zadd(keys.registry_changes, {name: version})
    return health


def commands(client: Client, work: Callable[[], object]) -> set[str]:
    """Names of the commands that Redis was sent meanwhile."""
    client.config_resetstat()
    work()
    return {name.removeprefix("cmdstat_") for name in client.info("commandstats")}


def test_before_the_first_look_there_is_nothing(catalogue: Catalogue) -> None:
    """And nobody has to ask whether it is loaded."""
    assert (catalogue.get(ToolId("a")), catalogue.entries(), list(catalogue.ids())) == (None, (), [])


def test_it_holds_what_is_registered(registry: Registry, catalogue: Catalogue) -> None:
    """Sorted by id; a second look at the same version is one read and no change."""
    registry.put(tool("b"))
    registry.put(tool("a").with_state(ToolState.DISABLED))
    assert catalogue.refresh() is True
    assert list(catalogue.entries()) == registry.entries()
    assert [entry.id for entry in catalogue.entries()] == ["a", "b"]
    assert catalogue.get(ToolId("b")) == registry.get(ToolId("b"))
    assert catalogue.refresh() is False


def test_an_unchanged_registry_costs_one_read(
    registry: Registry, catalogue: Catalogue, client: Client
) -> None:
    """It is polled once a second by every process."""
    registry.put(tool("a"))
    catalogue.refresh()
    assert commands(client, catalogue.refresh) - {"config|resetstat"} == {"get"}


def test_what_changed_is_read_and_nothing_else(
    registry: Registry, catalogue: Catalogue, client: Client
) -> None:
    """Changed, new, removed and discovered tools."""
    for name in ("same", "changed", "removed", "discovered"):
        registry.put(tool(name))
    catalogue.refresh()
    same = catalogue.get(ToolId("same"))
    registry.put(tool("changed", "new"))
    registry.remove(ToolId("removed"))
    registry.put(tool("new"))
    discovered(client, Keys("test"), "discovered", registry.get(ToolId("discovered")).registered.version)
    assert "hgetall" not in commands(client, catalogue.refresh)
    assert list(catalogue.entries()) == registry.entries()
    assert catalogue.get(ToolId("same")) is same
    assert catalogue.get(ToolId("removed")) is None
    found = catalogue.get(ToolId("discovered"))
    assert found is not None
    assert found.known is not None


def test_far_behind_it_reads_everything(registry: Registry, catalogue: Catalogue, client: Client) -> None:
    """1000 changes of a few tools are cheaper read at once."""
    registry.put(tool("a"))
    registry.put(tool("gone"))
    catalogue.refresh()
    registry.remove(ToolId("gone"))
    with client.pipeline() as pipe:
        for _ in range(999):
            pipe.incr("test:registry:version")
        pipe.execute()
    registry.put(tool("a", "last"))
    assert commands(client, catalogue.refresh).isdisjoint({"zrangebyscore", "hmget"})
    assert list(catalogue.entries()) == registry.entries()
    assert FULL_RELOAD_BEHIND < 1000


@pytest.mark.parametrize("seed", range(5))
def test_step_by_step_is_the_same_as_at_once(
    registry: Registry, client: Client, keys: Keys, seed: int
) -> None:
    """Whatever happens between two looks: a view kept up to date equals a fresh one."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    followed = Catalogue(client, keys)
    lifecycle = Lifecycle(client, keys)
    names = ["a", "b", "c", "d"]
    for _ in range(60):
        name = rng.choice(names)
        present = {entry.id: entry.registered.version for entry in registry.entries()}
        step = rng.choice(["put", "put", "remove", "discover", "say", "probe", "look"])
        if step == "put":
            registry.put(tool(name, rng.choice("xyz")))
        elif step == "remove" and name in present:
            registry.remove(ToolId(name))
        elif step == "discover" and name in present:
            discovered(client, keys, name, present[ToolId(name)], instructions=rng.choice("xyz"))
        elif step == "say" and name in present:
            getattr(lifecycle, rng.choice(["enable", "disable", "drain", "undrain"]))(ToolId(name))
        elif step == "probe" and name in present:
            graded(client, keys, name, rng.choice([ToolState.ENABLED, ToolState.UNAVAILABLE]))
        elif step == "look":
            followed.refresh()
            fresh = Catalogue(client, keys)
            fresh.refresh()
            assert (followed.entries(), followed.version) == (fresh.entries(), fresh.version)
            assert set(followed.ids()) == {entry.id for entry in fresh.entries()}


def test_another_writer_in_between_is_noticed(
    registry: Registry, catalogue: Catalogue, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes are read in one transaction; who is disturbed in it reads everything."""
    registry.put(tool("a"))
    catalogue.refresh()
    registry.put(tool("a", "second"))
    original = type(client.pipeline()).multi

    def disturbed(pipe: Any) -> None:
        monkeypatch.undo()
        registry.put(tool("b"))
        registry.remove(ToolId("a"))
        original(pipe)

    monkeypatch.setattr(type(client.pipeline()), "multi", disturbed)
    assert catalogue.refresh() is True
    assert list(catalogue.entries()) == registry.entries()
    assert catalogue.version == int(client.get(keys.registry_version) or 0)


def test_an_emptied_redis_empties_the_view(registry: Registry, catalogue: Catalogue, client: Client) -> None:
    """The counter went backwards: nothing that was known is true any more."""
    for name in ("a", "b", "c"):
        registry.put(tool(name))
    catalogue.refresh()
    client.flushdb()
    assert catalogue.refresh() is True
    assert catalogue.entries() == ()
    registry.put(tool("d"))
    catalogue.refresh()
    assert [entry.id for entry in catalogue.entries()] == ["d"]


def test_a_lost_registry_is_settled_later(
    registry: Registry, catalogue: Catalogue, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool that is missing meanwhile need not have been removed."""
    monkeypatch.setattr(module, "WRITTEN_AGAIN", 0.2)
    registry.put(tool("a"))
    catalogue.refresh()
    registry.remove(ToolId("a"))
    catalogue.refresh()
    assert catalogue.settled, "a tool was removed, and nothing lost"
    client.flushdb()
    catalogue.refresh()
    assert not catalogue.settled
    wait_until(lambda: catalogue.settled, description="what is missing to be gone")


def test_a_doubted_registry_is_read_again(registry: Registry, catalogue: Catalogue, client: Client) -> None:
    """Written anew behind a loss it may have come to the same version."""
    registry.put(tool("a"))
    catalogue.refresh()
    client.flushdb()
    registry.put(tool("b"))
    assert not catalogue.refresh()
    catalogue.doubt()
    assert catalogue.refresh()
    assert (set(catalogue.ids()), catalogue.settled) == ({"b"}, False)
    assert not catalogue.refresh()


def test_while_redis_is_away_the_last_view_stays(registry: Registry, proxy: TcpProxy, keys: Keys) -> None:
    """Whoever asked is told; calls then fail at the queue, with the right error."""
    registry.put(tool("a"))
    client = connect(StoreAddress(url=proxy.url))
    catalogue = Catalogue(client, keys)
    catalogue.refresh()
    proxy.refuse()
    proxy.cut()
    with pytest.raises(StoreUnavailable):
        catalogue.refresh()
    assert [entry.id for entry in catalogue.entries()] == ["a"]
    proxy.refuse(False)
    assert catalogue.refresh() is False
    client.close()


@pytest.mark.parametrize(
    "broken",
    [
        b"not json",
        b"{}",
        b'{"origin": "moon", "tool": {}}',
        b'{"origin": "file", "tool": {"id": "x", "transport": {"type": "pigeon"}}}',
        b"[]",
    ],
)
@pytest.mark.parametrize("full", [True, False])
def test_one_unreadable_record_does_not_hide_the_others(
    registry: Registry, catalogue: Catalogue, client: Client, keys: Keys, broken: bytes, full: bool
) -> None:
    """A newer gateway may have written it: that tool is unknown here, the rest is served."""
    registry.put(tool("good"))
    registry.put(tool("bad"))
    if not full:
        catalogue.refresh()
    registry.put(tool("bad", "changed"))
    client.hset(keys.registry_tools, "bad", broken)
    assert catalogue.refresh() is True
    assert [entry.id for entry in catalogue.entries()] == ["good"]
    registry.put(tool("bad"))
    catalogue.refresh()
    assert [entry.id for entry in catalogue.entries()] == ["bad", "good"]


def test_capabilities_of_tomorrow_are_read_as_far_as_they_are_known(
    registry: Registry, catalogue: Catalogue, client: Client, keys: Keys
) -> None:
    """While processes of two versions run side by side."""
    version = registry.put(tool("a"))
    found = capabilities_to_json(Capabilities(tool_version=version, discovered_at=1, instructions="hello"))
    client.hset(keys.registry_capabilities, "a", found[:-1] + b',"smells":["of","cheese"]}')
    catalogue.refresh()
    entry = catalogue.get(ToolId("a"))
    assert entry is not None
    assert entry.known is not None
    assert entry.known.instructions == "hello"


def test_capabilities_of_another_definition_are_not_this_ones(
    registry: Registry, catalogue: Catalogue, client: Client, keys: Keys
) -> None:
    """After a change the tool offers nothing until its backend was asked again."""
    version = registry.put(tool("a"))
    offered = {"name": "x", "inputSchema": {"type": "object"}}
    discovered(client, keys, "a", version, tools=({"name": "w"}, offered))
    catalogue.refresh()
    entry = catalogue.get(ToolId("a"))
    assert isinstance(entry, Entry)
    assert entry.definition("x") == offered
    assert entry.definition("y") is None
    registry.put(tool("a", "changed"))
    catalogue.refresh()
    entry = catalogue.get(ToolId("a"))
    assert isinstance(entry, Entry)
    assert (entry.known, entry.definition("x")) == (None, None)
    assert entry.capabilities is not None


@pytest.mark.parametrize("full", [True, False])
def test_it_shows_the_health_that_a_probe_found(
    registry: Registry, catalogue: Catalogue, client: Client, keys: Keys, full: bool
) -> None:
    """Beside the operator's word, which goes before it."""
    registry.put(tool("a"))
    if not full:
        catalogue.refresh()
    health = graded(client, keys, "a", ToolState.DEGRADED)
    catalogue.refresh()
    entry = catalogue.get(ToolId("a"))
    assert entry is not None
    assert (entry.health, entry.state, entry.enabled) == (health, ToolState.DEGRADED, True)
    Lifecycle(client, keys).disable(ToolId("a"))
    catalogue.refresh()
    entry = catalogue.get(ToolId("a"))
    assert entry is not None
    assert (entry.health, entry.state, entry.enabled) == (health, ToolState.DISABLED, False)


@pytest.mark.parametrize("record", [b"garbage", b"{}", b"[]", b'{"grade":"fine","at":1}'])
def test_a_health_that_nobody_can_read_is_none(
    registry: Registry, catalogue: Catalogue, client: Client, keys: Keys, record: bytes
) -> None:
    """Open: the tool is served, and the next probe writes it anew."""
    registry.put(tool("a"))
    client.hset(keys.health, "a", record)
    catalogue.refresh()
    entry = catalogue.get(ToolId("a"))
    assert entry is not None
    assert (entry.health, entry.state) == (None, ToolState.ENABLED)


def test_a_tool_of_which_only_the_definition_is_known_is_unknown(
    registry: Registry, catalogue: Catalogue, client: Client, keys: Keys
) -> None:
    """Without a version nobody could tell its sessions from others: the rest is served."""
    registry.put(tool("a"))
    registry.put(tool("b"))
    client.hdel(keys.registry_versions, "a")
    catalogue.refresh()
    assert [entry.id for entry in catalogue.entries()] == ["b"]


@pytest.mark.parametrize("full", [True, False])
def test_a_newer_definition_is_unreadable_and_not_gone(
    full: bool, registry: Registry, client: Client, keys: Keys
) -> None:
    """Until it is written as this process reads it, or removed."""
    registry.put(tool("a"))
    registry.put(tool("b"))
    catalogue = Catalogue(client, keys)
    catalogue.refresh()

    def refreshed() -> Catalogue:
        found = Catalogue(client, keys) if full else catalogue
        found.refresh()
        return found

    def write(record: bytes | None) -> None:
        version = client.incr(keys.registry_version)
        if record is None:
            client.hdel(keys.registry_tools, "a")
        else:
            client.hset(keys.registry_tools, "a", record)
        client.zadd(keys.registry_changes, {"a": version})

    ours = client.hget(keys.registry_tools, "a")
    assert ours is not None
    newer = orjson.dumps({"v": 2, **orjson.loads(ours)})
    for record, readable, unreadable in (
        (newer, ["b"], {"a"}),
        (ours, ["a", "b"], set()),
        (newer, ["b"], {"a"}),
        (None, ["b"], set()),
    ):
        write(record)
        found = refreshed()
        assert [entry.id for entry in found.entries()] == readable
        assert found.unreadable == unreadable
