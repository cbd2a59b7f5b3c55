"""An operator's verbs: what they leave in the registry, in the journal and in every process's view."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from common.audit.journal import Journal
from common.domain.errors import InvalidRequest, StoreUnavailable, ToolDisabled, ToolNotFound
from common.domain.ids import ClientId, NodeId, TenantId, ToolId, queue_of
from common.domain.invocation import Caller
from common.domain.tool import StdioTransport, Tool, ToolState
from common.domain.tool_status import UNTOUCHED, StateChange, Switch
from common.gateway import Gateway
from common.registry.catalogue import Catalogue
from common.registry.lifecycle import POLL_INTERVAL, DrainProgress, Lifecycle
from common.registry.records import Entry
from common.registry.registry import Registry
from common.settings import Settings
from common.store.client import Client, StoreAddress, connect
from common.store.keys import Keys
from tests.support.egress import ANYTHING

T = ToolId("a b/c")
ME = Caller(tenant=TenantId("default"), client=ClientId("default"))
QUEUE = queue_of(T)


@pytest.fixture
def registry(client: Client, keys: Keys) -> Registry:
    registry = Registry(client, keys, ANYTHING)
    registry.put(Tool(id=T, transport=StdioTransport(command="cmd")))
    return registry


@pytest.fixture
def lifecycle(client: Client, keys: Keys, registry: Registry) -> Lifecycle:
    return Lifecycle(client, keys)


@pytest.fixture
def away(keys: Keys) -> Iterator[Lifecycle]:
    """One whose Redis is not there."""
    client = connect(StoreAddress(url="unix:///nonexistent/redis.sock"))
    yield Lifecycle(client, keys)
    client.close()


def verbs(lifecycle: Lifecycle) -> dict[str, Callable[[ToolId], StateChange]]:
    return {name: getattr(lifecycle, name) for name in ("enable", "disable", "drain", "undrain")}


def events(client: Client, keys: Keys) -> list[str]:
    """Kinds of the verbs' events, the oldest first."""
    found = [record.kind for record in reversed(Journal(client, keys).newest(100))]
    return [kind for kind in found if kind not in {"tool_registered", "tool_updated"}]


def seen(catalogue: Catalogue) -> Entry:
    catalogue.refresh()
    entry = catalogue.get(T)
    assert entry is not None
    return entry


@pytest.mark.parametrize("behind", ["all read at once", "only what changed"])
def test_every_process_sees_what_an_operator_says(
    registry: Registry, lifecycle: Lifecycle, client: Client, keys: Keys, behind: str
) -> None:
    """With its next look at the registry, and as a fresh reading does."""
    followed = Catalogue(client, keys)
    seen(followed)
    for verb, enabled, draining in [
        (lifecycle.disable, False, False),
        (lifecycle.drain, False, True),
        (lifecycle.enable, True, True),
        (lifecycle.undrain, True, False),
    ]:
        verb(T, actor="cli:ann")
        entry = seen(Catalogue(client, keys) if behind == "all read at once" else followed)
        assert (entry.enabled, entry.draining, entry.operator.by) == (enabled, draining, "cli:ann")
        assert entry == registry.get(T) == registry.entries()[0]


def test_the_definition_and_its_version_stay(registry: Registry, lifecycle: Lifecycle) -> None:
    """So that no session is closed for a switch."""
    before = registry.get(T).registered
    for verb in verbs(lifecycle).values():
        verb(T)
    assert registry.get(T).registered == before


def test_each_verb_is_audited_with_its_actor(lifecycle: Lifecycle, client: Client, keys: Keys) -> None:
    """Once: what is so already is no event."""
    for name, verb in [*verbs(lifecycle).items(), *verbs(lifecycle).items()]:
        verb(T, actor=f"cli:{name}")  # type: ignore[call-arg]
    told = [
        (record.kind, record.fields["actor"], record.fields["tool"])
        for record in reversed(Journal(client, keys).newest(100))
        if record.kind != "tool_registered"
    ]
    assert told == 2 * [
        ("tool_enabled", "cli:enable", T),
        ("tool_disabled", "cli:disable", T),
        ("tool_drained", "cli:drain", T),
        ("tool_undrained", "cli:undrain", T),
    ]


@pytest.mark.parametrize(
    ("name", "kind"), [("disable", "tool_disabled"), ("drain", "tool_drained"), ("enable", "tool_enabled")]
)
def test_said_twice_it_is_so_already(
    lifecycle: Lifecycle, client: Client, keys: Keys, name: str, kind: str
) -> None:
    """No error, no second event; who was first stays named."""
    verb = getattr(lifecycle, name)
    first, second = verb(T, actor="first"), verb(T, actor="second")
    assert (first.changed, second.changed) == (True, False)
    assert (second.before, second.after.by) == (first.after, "first")
    assert events(client, keys) == [kind]


def test_an_undrained_tool_need_not_be_undrained(lifecycle: Lifecycle, client: Client, keys: Keys) -> None:
    """Nobody has said anything, and nobody has now."""
    assert lifecycle.undrain(T) == StateChange(before=UNTOUCHED, after=UNTOUCHED)
    assert events(client, keys) == []


def test_a_tool_that_the_definition_switches_off_can_be_switched_on(
    registry: Registry, lifecycle: Lifecycle
) -> None:
    """The operator's word goes before the file's, also after the file was published again."""
    off = Tool(id=T, transport=StdioTransport(command="cmd"), state=ToolState.DISABLED)
    registry.publish_file([off])
    assert not registry.get(T).enabled
    lifecycle.enable(T)
    registry.publish_file([off])
    entry = registry.get(T)
    assert (entry.enabled, entry.state) == (True, ToolState.ENABLED)
    assert entry.operator.switch is Switch.ON


def test_a_new_definition_neither_enables_nor_undrains(registry: Registry, lifecycle: Lifecycle) -> None:
    """Registered again, updated, or published by a file: the operator has the last word."""
    lifecycle.disable(T)
    lifecycle.drain(T)
    said = registry.get(T).operator
    registry.put(Tool(id=T, transport=StdioTransport(command="other")))
    assert registry.get(T).operator == said
    registry.update(T, lambda _: Tool(id=T, transport=StdioTransport(command="third")))
    assert registry.get(T).operator == said
    registry.publish_file([Tool(id=T, transport=StdioTransport(command="fourth"))])
    entry = registry.get(T)
    assert (entry.operator, entry.enabled, entry.draining) == (said, False, True)


def test_a_removed_tool_forgets_it(registry: Registry, lifecycle: Lifecycle) -> None:
    """What comes under its name is another tool."""
    lifecycle.disable(T)
    registry.remove(T)
    registry.put(Tool(id=T, transport=StdioTransport(command="cmd")))
    assert registry.get(T).operator == UNTOUCHED
    assert registry.get(T).enabled


def test_a_tool_that_is_not_there_is_not_found(lifecycle: Lifecycle, client: Client, keys: Keys) -> None:
    """By name, and nothing is written."""
    for verb in verbs(lifecycle).values():
        with pytest.raises(ToolNotFound, match="'nobody'"):
            verb(ToolId("nobody"))
    assert events(client, keys) == []
    assert client.hlen(keys.registry_states) == 0


def test_without_redis_every_verb_fails_closed(away: Lifecycle) -> None:
    """With the one error that says so."""
    circuit = (away.reset_circuit, lambda tool: away.trip_circuit(tool, "why"))
    for verb in (*verbs(away).values(), away.drain_progress, *circuit):
        with pytest.raises(StoreUnavailable):
            verb(T)


@pytest.mark.parametrize("record", [b"garbage", b"{}", b'{"switch":"paused","draining":false}', b"[]"])
def test_a_state_that_nobody_can_read_shuts_the_tool_until_it_is_said_again(
    registry: Registry, lifecycle: Lifecycle, client: Client, keys: Keys, record: bytes
) -> None:
    """Closed: it may have been a no. The other tools are served."""
    registry.put(Tool(id=ToolId("other"), transport=StdioTransport(command="cmd")))
    client.hset(keys.registry_states, T, record)
    catalogue = Catalogue(client, keys)
    catalogue.refresh()
    assert [entry.id for entry in catalogue.entries()] == ["other"]
    assert [entry.id for entry in registry.entries()] == ["other"]
    assert lifecycle.enable(T).changed
    assert seen(catalogue).enabled


def test_what_an_operator_switches_off_is_not_found_for_calls(
    registry: Registry, lifecycle: Lifecycle, address: StoreAddress
) -> None:
    """And what he switches on is, whatever its definition says."""
    registry.put(Tool(id=T, transport=StdioTransport(command="cmd"), state=ToolState.DISABLED))
    gateway = Gateway(Settings.model_validate({"redis": {"key_prefix": "test"}}), address)
    try:
        lifecycle.enable(T)
        gateway.tenants.refresh()
        gateway.catalogue.refresh()
        assert gateway.find(ME, T).enabled
        lifecycle.disable(T)
        gateway.catalogue.refresh()
        with pytest.raises(ToolDisabled):
            gateway.find(ME, T)
    finally:
        gateway.close()


# -- the circuit by hand ------------------------------------------------------------------------------------


def test_a_circuit_set_by_hand_is_audited(lifecycle: Lifecycle, client: Client, keys: Keys) -> None:
    """Also when a tripped one gets another reason; a reset of a closed one is no event."""
    assert lifecycle.reset_circuit(T) is None
    assert lifecycle.trip_circuit(T, "why", actor="cli:ann") is not None
    assert lifecycle.trip_circuit(T, "why else", actor="cli:bob") is None
    assert lifecycle.reset_circuit(T, actor="cli:cid") is not None
    told = [
        tuple(record.fields.get(name, "") for name in ("kind", "actor", "reason", "detail"))
        for record in reversed(Journal(client, keys).newest(9)[:-1])
    ]
    assert told == [
        ("circuit_tripped", "cli:ann", "why", "closed -> open"),
        ("circuit_tripped", "cli:bob", "why else", ""),
        ("circuit_reset", "cli:cid", "", "open -> closed"),
    ]


def test_a_circuit_of_nobody_s_is_not_set(lifecycle: Lifecycle, client: Client, keys: Keys) -> None:
    """Or it would wait for a tool that is registered some day."""
    for setting in (lifecycle.reset_circuit, lambda tool: lifecycle.trip_circuit(tool, "why")):
        with pytest.raises(ToolNotFound, match="'nobody'"):
            setting(ToolId("nobody"))
    assert not client.exists(keys.circuit(ToolId("nobody")))


# -- drained ----------------------------------------------------------------------------------------------


def test_progress_counts_sessions_waiting_calls_and_calls_in_flight(
    lifecycle: Lifecycle, client: Client, keys: Keys
) -> None:
    """Of this tool, whoever holds them and wherever they wait."""
    assert lifecycle.drain_progress(T) == DrainProgress(sessions=0, waiting=0, in_flight=0)
    client.hset(keys.sessions(T), mapping={"a:b": "n1 1 1", "a:c": "n2 2 1"})
    client.lpush(QUEUE, "message", "message", "message")
    client.zadd(keys.nodes, {"n1": 1, "n2": 1})
    for node, queue in (("n1", QUEUE), ("n2", QUEUE), ("n2", "tool.other")):
        client.lpush(keys.direct(NodeId(node), queue), "message", "message")
    client.hset(keys.calls(QUEUE), mapping={f"call{n}": f"n1 {n}" for n in range(5)})
    client.hset(keys.sessions(ToolId("other")), "a:b", "n1 3 1")
    progress = lifecycle.drain_progress(T)
    assert progress == DrainProgress(sessions=2, waiting=7, in_flight=5)
    assert not progress.done
    client.delete(*client.keys(f"{keys.prefix}:direct:*"))


@pytest.mark.parametrize("left", ["sessions", "waiting", "in_flight"])
def test_nothing_may_be_left(left: str) -> None:
    """Each of the three alone keeps the tool from being drained."""
    assert not DrainProgress(**{"sessions": 0, "waiting": 0, "in_flight": 0, left: 1}).done


def test_whoever_waits_is_told_each_step(lifecycle: Lifecycle, client: Client, keys: Keys) -> None:
    """And comes back when nothing is left, long before the time is over."""
    client.hset(keys.sessions(T), mapping={"a:b": "n1 1 1", "a:c": "n2 2 1"})
    told: list[int] = []

    def watch(progress: DrainProgress) -> None:
        told.append(progress.sessions)
        if progress.sessions:
            client.hdel(keys.sessions(T), *client.hkeys(keys.sessions(T))[:1])

    assert lifecycle.wait_drained(T, 3600, watch=watch).done
    assert told == [2, 1, 0]


def test_whoever_waits_long_enough_is_told_what_is_left(
    lifecycle: Lifecycle, client: Client, keys: Keys
) -> None:
    """Not drained is no error: the caller decides."""
    client.hset(keys.sessions(T), "a:b", "n1 1 1")
    for timeout in (0, POLL_INTERVAL / 10):
        assert lifecycle.wait_drained(T, timeout) == DrainProgress(sessions=1, waiting=0, in_flight=0)


def test_a_session_that_ends_meanwhile_ends_the_wait(
    lifecycle: Lifecycle, client: Client, keys: Keys
) -> None:
    """Freed by another process."""
    client.hset(keys.sessions(T), "a:b", "n1 1 1")
    looked = threading.Event()

    def free() -> None:
        looked.wait(30)
        client.hdel(keys.sessions(T), "a:b")

    other = threading.Thread(target=free)
    other.start()
    assert lifecycle.wait_drained(T, 60, watch=lambda _: looked.set()).done
    other.join()


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused_by_name(lifecycle: Lifecycle, timeout: float) -> None:
    """Instead of waiting for ever."""
    with pytest.raises(InvalidRequest) as caught:
        lifecycle.wait_drained(T, timeout)
    assert caught.value.data == {"field": "timeout"}
