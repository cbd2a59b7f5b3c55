"""Writing to the registry: compare and set, and the settings file as one of its writers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from common.audit.journal import Journal
from common.domain.errors import (
    GatewayError,
    InvalidRequest,
    StoreUnavailable,
    ToolNotFound,
    VersionConflict,
)
from common.domain.ids import ToolId
from common.domain.tool import HttpTransport, Origin, StdioTransport, Tool, ToolState
from common.registry.registry import ABSENT, MOST_ATTEMPTS, Registry
from common.store.client import Client, StoreAddress, connect
from common.store.keys import Keys
from tests.support.egress import ANYTHING


def tool(name: str, command: str = "cmd") -> Tool:
    return Tool(id=ToolId(name), transport=StdioTransport(command=command, env={"K": "secret"}))


@pytest.fixture
def registry(client: Client, keys: Keys) -> Registry:
    return Registry(client, keys, ANYTHING)


@pytest.fixture
def away(keys: Keys) -> Iterator[Registry]:
    """A registry whose Redis is not there."""
    client = connect(StoreAddress(url="unix:///nonexistent/redis.sock"))
    yield Registry(client, keys, ANYTHING)
    client.close()


def versions(registry: Registry) -> dict[str, int]:
    return {entry.id: entry.registered.version for entry in registry.entries()}


# -- one tool -------------------------------------------------------------------------------------------


def test_what_was_put_is_found(registry: Registry) -> None:
    """Definition, version and origin."""
    wanted = tool("a b/c").with_state(ToolState.DISABLED)
    version = registry.put(wanted, origin=Origin.FILE)
    entry = registry.get(wanted.id)
    assert (entry.tool, entry.registered.version, entry.registered.origin) == (wanted, version, Origin.FILE)
    assert (entry.capabilities, entry.known) == (None, None)
    assert registry.entries() == [entry]


def test_entries_are_sorted(registry: Registry) -> None:
    """By id, whatever the order of registration."""
    for name in ("b", "ä", "a", "Z"):
        registry.put(tool(name))
    assert [entry.id for entry in registry.entries()] == sorted(("b", "ä", "a", "Z"))


def test_a_writer_who_read_an_old_version_is_told_the_new_one(registry: Registry) -> None:
    """And what to do about it."""
    first = registry.put(tool("a"))
    second = registry.put(tool("a", "new"), expected=first)
    for refused in (
        lambda: registry.put(tool("a", "newer"), expected=first),
        lambda: registry.put(tool("a"), expected=ABSENT),
        lambda: registry.remove(ToolId("a"), expected=first),
    ):
        with pytest.raises(VersionConflict, match=f"at version {second}") as caught:
            refused()
        assert caught.value.data == {"version": second}
    assert registry.get(ToolId("a")).tool.transport == tool("a", "new").transport


def test_what_is_not_there_is_not_found(registry: Registry) -> None:
    """By name, for each way of asking."""

    def update(name: ToolId) -> int:
        return registry.update(name, lambda found: found)

    for asking in (registry.get, registry.remove, registry.refresh, update):
        with pytest.raises(ToolNotFound, match="'nobody'"):
            asking(ToolId("nobody"))
    with pytest.raises(ToolNotFound):
        registry.remove(ToolId("nobody"), expected=7)


def test_without_redis_every_method_fails_closed(away: Registry) -> None:
    """With the one error that says so."""
    for asking in (
        lambda: away.put(tool("a")),
        lambda: away.remove(ToolId("a")),
        lambda: away.get(ToolId("a")),
        lambda: away.refresh(ToolId("a")),
        lambda: away.update(ToolId("a"), lambda found: found),
        lambda: away.publish_file([tool("a")]),
        away.entries,
    ):
        with pytest.raises(StoreUnavailable):
            asking()


def test_errors_hold_no_secret(registry: Registry) -> None:
    """Definitions hold credentials; messages about them do not."""
    registry.put(tool("a"))
    with pytest.raises(GatewayError) as caught:
        registry.put(tool("a"), expected=99)
    assert "secret" not in f"{caught.value!r} {caught.value.data}"


# -- an update ------------------------------------------------------------------------------------------


def audited(client: Client, keys: Keys) -> list[tuple[str, ...]]:
    """Kind, actor, tool and detail of each event, the oldest first."""
    return [
        tuple(record.fields.get(name, "") for name in ("kind", "actor", "tool", "detail"))
        for record in reversed(Journal(client, keys).newest(100))
    ]


def test_an_update_changes_what_it_says_and_keeps_the_rest(registry: Registry) -> None:
    """Id, origin and whether the definition is enabled included, whatever the change makes of them."""
    old = tool("a").with_state(ToolState.DISABLED)
    first = registry.put(old, origin=Origin.FILE)
    version = registry.update(
        ToolId("a"), lambda found: replace(found, id=ToolId("b"), state=ToolState.ENABLED, description="new")
    )
    entry = registry.get(ToolId("a"))
    assert version == entry.registered.version > first
    assert (entry.tool, entry.registered.origin) == (replace(old, description="new"), Origin.FILE)
    assert [entry.id for entry in registry.entries()] == ["a"]


def test_an_update_that_changes_nothing_makes_no_version(
    registry: Registry, client: Client, keys: Keys
) -> None:
    """No session is closed for it, and nothing is told of it."""
    version = registry.put(tool("a"))
    before = client.get(keys.registry_version)
    assert registry.update(ToolId("a"), lambda found: found) == version
    assert client.get(keys.registry_version) == before
    assert len(audited(client, keys)) == 1


def test_a_transport_of_the_other_kind_must_be_asked_for(registry: Registry) -> None:
    """A typing error must not turn a command into a URL; a new command is the same kind."""
    registry.put(tool("a"))
    http = HttpTransport(url="http://h/mcp")
    with pytest.raises(InvalidRequest, match="transport") as caught:
        registry.update(ToolId("a"), lambda found: replace(found, transport=http))
    assert caught.value.data == {"field": "transport"}
    assert registry.get(ToolId("a")).tool == tool("a")
    registry.update(ToolId("a"), lambda found: replace(found, transport=tool("a", "new").transport))
    registry.update(ToolId("a"), lambda found: replace(found, transport=http), change_transport=True)
    assert registry.get(ToolId("a")).tool.transport == http


def test_updates_at_once_lose_nothing(registry: Registry) -> None:
    """Each begins again with what the other has left."""
    registry.put(tool("a"))
    workers = 4
    together = Barrier(workers)

    def add_one(number: int) -> None:
        together.wait()
        registry.update(ToolId("a"), lambda found: replace(found, description=f"{found.description}{number}"))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(add_one, range(workers)))
    assert sorted(registry.get(ToolId("a")).tool.description) == ["0", "1", "2", "3"]


def test_an_update_that_is_always_too_late_gives_up(registry: Registry) -> None:
    """With the error that says so, not in an endless loop."""
    registry.put(tool("a"))
    begun = 0

    def overtaken(found: Tool) -> Tool:
        nonlocal begun
        begun += 1
        registry.put(replace(found, description=str(begun)))
        return replace(found, description="mine")

    with pytest.raises(VersionConflict):
        registry.update(ToolId("a"), overtaken)
    assert begun == MOST_ATTEMPTS


def test_changes_are_audited_without_what_is_in_them(registry: Registry, client: Client, keys: Keys) -> None:
    """Who, what, which fields; a definition holds secrets, and none is told."""
    first = registry.put(tool("a"), actor="cli:ann")
    second = registry.update(
        ToolId("a"), lambda found: replace(tool("a", "new"), description="d"), actor="cli:bob"
    )
    registry.publish_file([replace(tool("a"), idle_timeout=5)])
    third = registry.get(ToolId("a")).registered.version
    registry.publish_file([])
    assert audited(client, keys) == [
        ("tool_registered", "cli:ann", "a", f"version {first}"),
        ("tool_updated", "cli:bob", "a", f"version {second}; changed: transport, description"),
        (
            *("tool_updated", "file", "a"),
            f"version {third}; changed: transport, description, idle_timeout",
        ),
        ("tool_removed", "file", "a", f"version {third}"),
    ]
    assert "secret" not in repr(client.xrange(keys.audit))


# -- the settings file ----------------------------------------------------------------------------------


def test_the_registry_becomes_what_the_file_says(registry: Registry) -> None:
    """New tools come, changed ones change, removed ones go; the ids that changed are returned."""
    assert registry.publish_file([tool("a"), tool("b"), tool("c")]) == ["a", "b", "c"]
    before = versions(registry)
    assert registry.publish_file([tool("a"), tool("b", "new"), tool("d")]) == ["b", "d", "c"]
    after = versions(registry)
    assert set(after) == {"a", "b", "d"}
    assert after["a"] == before["a"]
    assert after["b"] > before["b"]
    assert {entry.registered.origin for entry in registry.entries()} == {Origin.FILE}


def test_an_unchanged_file_changes_nothing(registry: Registry, client: Client, keys: Keys) -> None:
    """Not even the counter: no session is rebuilt because a web process was restarted."""
    registry.publish_file([tool("a"), tool("b")])
    before = client.get(keys.registry_version)
    assert registry.publish_file([tool("b"), tool("a")]) == []
    assert client.get(keys.registry_version) == before


def test_tools_registered_at_run_time_stay(registry: Registry) -> None:
    """Unless the file names the same id; then it is the file's from now on."""
    mine, taken = registry.put(tool("mine")), registry.put(tool("taken"))
    registry.publish_file([tool("taken")])
    assert registry.get(ToolId("mine")).registered.version == mine
    entry = registry.get(ToolId("taken"))
    assert entry.registered.version > taken
    assert entry.registered.origin is Origin.FILE
    registry.publish_file([])
    assert set(versions(registry)) == {"mine"}


def test_an_empty_file_empties_only_what_a_file_put_there(registry: Registry) -> None:
    """The last tool of a file can be removed, too."""
    registry.publish_file([tool("a")])
    assert registry.publish_file([]) == ["a"]
    assert registry.entries() == []


def test_processes_that_start_together_publish_once(registry: Registry, client: Client, keys: Keys) -> None:
    """Each web process publishes the file: none fails over another's removal, no version is counted twice."""
    processes = 8
    for attempt in range(5):
        registry.publish_file([tool("old"), tool("kept"), tool("changed")])
        kept = versions(registry)["kept"]
        before = int(client.get(keys.registry_version) or 0)
        together = Barrier(processes)

        def start(attempt: int = attempt, together: Barrier = together) -> list[ToolId]:
            together.wait()
            return registry.publish_file([tool("kept"), tool("changed", f"new {attempt}"), tool("new")])

        with ThreadPoolExecutor(processes) as pool:
            reports = [started.result() for started in [pool.submit(start) for _ in range(processes)]]
        assert set(versions(registry)) == {"kept", "changed", "new"}
        assert versions(registry)["kept"] == kept
        assert int(client.get(keys.registry_version) or 0) == before + 3
        assert sorted(name for report in reports for name in report) == ["changed", "new", "old"]
        registry.remove(ToolId("new"))


def test_a_removal_by_the_file_spares_what_an_operator_has_just_put_there(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading and removing, the id became somebody else's."""
    registry.publish_file([tool("a")])
    read = registry.entries

    def read_and_be_overtaken() -> list[object]:
        found = read()
        registry.put(replace(tool("a"), description="an operator's"))
        return list(found)

    monkeypatch.setattr(registry, "entries", read_and_be_overtaken)
    registry.publish_file([])
    assert registry.get(ToolId("a")).tool.description == "an operator's"


@pytest.mark.parametrize(("first", "second"), [("a", "a__b"), ("a__b", "a"), ("a", "a_")])
def test_tools_whose_names_could_be_confused_are_refused(
    first: str, second: str, client: Client, keys: Keys
) -> None:
    """``a__b__c`` would be ``b__c`` of one and ``c`` of the other."""
    registry = Registry(client, keys, ANYTHING)
    registry.put(Tool(id=ToolId(first), transport=HttpTransport(url="http://h")))
    with pytest.raises(InvalidRequest) as caught:
        registry.put(Tool(id=ToolId(second), transport=HttpTransport(url="http://h")))
    assert caught.value.data == {"field": "id"}
    registry.put(Tool(id=ToolId(first), transport=HttpTransport(url="http://g")))
