"""What sources name becomes the registry's, and nothing else of it is touched; faults of sources stay theirs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import pytest

from common.audit.journal import Journal
from common.discovery import running
from common.discovery.partial import Partial
from common.discovery.running import Discoverer
from common.discovery.tools import DiscoveredTools
from common.discovery.unfit import Unfit
from common.domain.egress import EgressRules
from common.domain.errors import ConfigurationError, ToolNotFound
from common.domain.ids import ToolId
from common.domain.tool import HttpTransport, Origin, StdioTransport, Tool
from common.registry import retirement
from common.registry.lifecycle import Lifecycle
from common.registry.registry import Registry
from common.registry.retirement import Retirement
from common.settings import RuntimeSettings
from common.settings.egress import EgressSettings
from common.settings.sources import SourceSettings
from common.store.client import Client
from common.store.keys import Keys
from tests.support.wait import wait_until

A, B = {"url": "https://a.example/mcp"}, {"url": "https://b.example/mcp"}


class Scripted:
    """Names what it is told to; what it is told may be an exception, or nonsense."""

    def __init__(self, first: Any) -> None:
        self.now = first
        self.made = 0

    def watch(self, wanted: Callable[[], bool]) -> Iterator[Any]:
        self.made += 1
        last = object()
        while wanted():
            now = self.now
            if isinstance(now, BaseException):
                raise now
            if now is not last:
                last = now
                yield now
            threading.Event().wait(0.01)


class Running:
    """A discoverer in a thread, on scripted sources."""

    def __init__(
        self,
        client: Client,
        keys: Keys,
        rules: EgressRules,
        trusted: Collection[str] = (),
        **sources: Scripted,
    ) -> None:
        self.wanted = True
        self.counts: list[tuple[str, str]] = []
        self.registry = Registry(client, keys, rules)
        self.lifecycle = Lifecycle(client, keys)
        self.journal = Journal(client, keys)
        settings = [
            SourceSettings.model_validate({"name": name, "type": "m:C", "timeout": 0.2}) for name in sources
        ]
        retiring = Retirement(self.registry, self.lifecycle)
        tools = DiscoveredTools(self.registry, retiring, RuntimeSettings(), trusted)
        self.discoverer = Discoverer(
            client,
            self.journal,
            tools,
            settings,
            lambda: self.wanted,
            count=lambda *told: self.counts.append(told),
            make=lambda source: sources[source.name],
        )
        self.thread = threading.Thread(target=self.discoverer.run)
        self.thread.start()

    def end(self) -> None:
        self.wanted = False
        self.thread.join()

    def tool(self, name: str) -> Tool | None:
        try:
            return self.registry.get(ToolId(name)).tool
        except ToolNotFound:
            return None

    def told(self, kind: str) -> list[Mapping[str, Any]]:
        return [record.fields for record in self.journal.newest(100, chosen=lambda found: found.kind == kind)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LOOK", 0.05)
    monkeypatch.setattr(running, "AGAIN_FIRST", 0.05)
    monkeypatch.setattr(running, "AGAIN_MAX", 0.05)
    monkeypatch.setattr(retirement, "SETTLED", 0)


@pytest.fixture
def start(client: Client, keys: Keys) -> Iterator[Callable[..., Running]]:
    """Starts discoverers; ends them."""
    started = []

    def start_one(
        rules: EgressRules = EgressRules(),  # noqa: B008
        trusted: Collection[str] = (),
        **sources: Scripted,
    ) -> Running:
        found = Running(client, keys, rules, trusted, **sources)
        started.append(found)
        return found

    yield start_one
    for found in started:
        found.end()


def test_tools_come_change_and_go(start: Callable[..., Running]) -> None:
    """Marked with their source; one that leaves takes no new calls, and is removed when it has none."""
    source = Scripted({"a": A})
    running = start(team=source)
    wait_until(lambda: running.tool("a"), description="it is registered")
    registered = running.registry.get(ToolId("a")).registered
    assert (registered.origin, registered.source) == (Origin.DISCOVERED, "team")
    source.now = {"a": B, "b": {**B, "enabled": False}}
    wait_until(lambda: running.tool("b"), description="the other one comes")
    changed = running.tool("a")
    assert changed is not None
    assert isinstance(changed.transport, HttpTransport)
    assert changed.transport.url == B["url"]
    source.now = {"a": B}
    wait_until(lambda: not running.tool("b"), description="it goes")
    assert len(running.told("tool_retired")) == 1
    assert running.told("tool_removed")[0]["actor"] == "discovery:team"
    assert running.told("discovery_refused") == []


def test_an_unchanged_tool_keeps_its_version(start: Callable[..., Running]) -> None:
    """Its sessions go on."""
    source = Scripted({"a": A})
    running = start(team=source)
    wait_until(lambda: running.tool("a"), description="it is registered")
    version = running.registry.get(ToolId("a")).registered.version
    source.now = {"a": dict(A), "b": B}
    wait_until(lambda: running.tool("b"), description="the other one comes")
    assert running.registry.get(ToolId("a")).registered.version == version


def test_a_tool_that_its_source_cannot_describe_stays_as_it_is(start: Callable[..., Running]) -> None:
    """It is told why, by the source's words; the others go on."""
    source = Scripted({"a": A})
    running = start(team=source)
    wait_until(lambda: running.tool("a"), description="it is registered")
    source.now = {"a": Unfit("its path is odd"), "b": B}
    wait_until(lambda: running.tool("b"), description="the other one comes")
    wait_until(lambda: running.told("discovery_refused"), description="it is told")
    assert running.told("discovery_refused")[0]["detail"] == "its path is odd"
    assert running.tool("a") is not None
    assert running.told("tool_retired") == []


def test_what_others_named_is_theirs(start: Callable[..., Running], client: Client, keys: Keys) -> None:
    """The file's, an operator's, and another source's; told once. Whoever lets go of a name leaves it to the source."""
    registry = Registry(client, keys)
    ours = [Tool(id=ToolId("file"), transport=StdioTransport(command="x"))]
    registry.publish_file(ours)
    registry.put(Tool(id=ToolId("mine"), transport=HttpTransport(url="https://mine.example")))
    first = Scripted({"x": A})
    running = start(first=first)
    wait_until(lambda: running.tool("x"), description="the first is quicker")
    running.end()
    running = start(first=first, second=Scripted({"file": A, "mine": A, "x": B, "y": B}))
    wait_until(lambda: running.tool("y"), description="the second is heard")
    wait_until(lambda: len(running.told("discovery_refused")) == 3, description="each is told")
    for name, kind in (("file", Origin.FILE), ("mine", Origin.RUNTIME), ("x", Origin.DISCOVERED)):
        assert running.registry.get(ToolId(name)).registered.origin is kind
    assert running.registry.get(ToolId("x")).registered.source == "first"
    assert running.counts == [("second", "tool_refused")] * 3
    registry.publish_file(ours)
    assert running.tool("y") is not None
    registry.remove(ToolId("mine"))
    wait_until(lambda: running.tool("mine"), description="the name is free")


def test_the_rules_hold_for_what_is_discovered(start: Callable[..., Running]) -> None:
    """Commands that nobody allowed, and places that are allowed to nobody else."""
    rules = EgressSettings.model_validate(
        {"allowed_commands": ["uvx good"], "discovered_networks": ["10.0.0.0/8"]}
    ).rules
    named = {
        "bad": {"command": "sh", "args": ["-c", "id"]},
        "good": {"command": "uvx", "args": ["good"]},
        "inner": {"url": "http://10.1.2.3/mcp"},
        "meta": {"url": "http://169.254.169.254/"},
        "env": {"command": "uvx", "args": ["good"], "env": {"LD_PRELOAD": "/x"}},
    }
    running = start(rules, team=Scripted(named))
    wait_until(lambda: len(running.told("discovery_refused")) == 3, description="each is told")
    assert {found["tool"] for found in running.told("discovery_refused")} == {"bad", "meta", "env"}
    assert running.tool("good") is not None
    inner = running.registry.get(ToolId("inner")).tool.transport
    assert isinstance(inner, HttpTransport)
    assert (inner.local, inner.discovered) == (False, True)
    with pytest.raises(Exception, match="may not"):
        running.registry.put(Tool(id=ToolId("other"), transport=HttpTransport(url="http://10.1.2.3/mcp")))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (RuntimeError("secret"), "RuntimeError"),
        (SystemExit(1), "SystemExit"),
        (ConfigurationError("mend x"), "mend x"),
        (5, "not a mapping"),
        ({"a": 5}, "no mapping"),
        ({5: {}}, "no mapping"),
    ],
)
def test_a_source_that_breaks_leaves_its_tools(start: Callable[..., Running], fault: Any, words: str) -> None:
    """It is told once, counted, and asked again; others go on, and so does it when it is mended."""
    source, other = Scripted({"a": A}), Scripted({"o": B})
    running = start(team=source, other=other)
    wait_until(lambda: running.tool("a") and running.tool("o"), description="both are heard")
    made = source.made
    source.now = fault
    wait_until(lambda: source.made > made + 2, description="it is asked again")
    (told,) = running.told("discovery_refused")
    assert words in told["detail"]
    assert "secret" not in told["detail"]
    assert running.counts == [("team", "source_failed")]
    other.now = {"o": B, "p": B}
    wait_until(lambda: running.tool("p"), description="the other one goes on")
    assert running.tool("a") is not None
    source.now = {"b": A}
    wait_until(lambda: running.tool("b") and not running.tool("a"), description="it is mended")


SECRET = {**A, "credentials": {"inject": {"headers": {"Authorization": "Bearer {token}"}}}}


def test_credentials_are_for_sources_that_may_ask_for_them(start: Callable[..., Running]) -> None:
    """Else whoever writes a watched file has the operator's secrets sent to where he likes."""
    running = start(team=Scripted({"a": SECRET, "b": B}), own=Scripted({"o": SECRET}), trusted=["own"])
    wait_until(lambda: running.tool("b") and running.tool("o"), description="the others are registered")
    wait_until(lambda: running.told("discovery_refused"), description="it is told")
    (told,) = running.told("discovery_refused")
    assert told["tool"] == "a"
    assert told["detail"].startswith("credentials: tools of the source 'team' may carry none")
    assert "allow_credentials" in told["detail"]
    assert running.tool("a") is None


def test_a_tool_loses_credentials_that_its_source_may_ask_for_no_more(start: Callable[..., Running]) -> None:
    """It is not kept as others that are refused are."""
    running = start(team=Scripted({"a": SECRET}), trusted=["team"])
    wait_until(lambda: running.tool("a"), description="it is registered")
    running.end()
    running = start(team=Scripted({"a": SECRET}))
    wait_until(lambda: not running.tool("a"), description="it goes")


def test_a_source_that_sees_a_part_keeps_the_rest(start: Callable[..., Running]) -> None:
    """What is gone in the part that is seen goes; that there is more is told until it is over."""
    source = Scripted({"a": A, "b": B, "c": A})
    running = start(team=source)
    wait_until(lambda: running.tool("c"), description="they are registered")
    source.now = Partial({"c": A}, "half of it is dark", lambda tool: tool.id == "a")
    wait_until(lambda: not running.tool("b"), description="what is gone goes")
    wait_until(lambda: running.told("discovery_refused"), description="it is told")
    assert running.told("discovery_refused")[0]["detail"] == "half of it is dark"
    assert running.counts == [("team", "source_failed")]
    assert running.tool("a") is not None
    source.now = {"c": A}
    wait_until(lambda: not running.tool("a"), description="it is seen again")


def test_a_source_that_hangs_is_told(start: Callable[..., Running]) -> None:
    """It holds up nobody."""

    class Hanging(Scripted):
        def watch(self, wanted: Callable[[], bool]) -> Iterator[Any]:
            while wanted():
                threading.Event().wait(0.05)
            yield {}

    running = start(team=Hanging({}), other=Scripted({"o": B}))
    wait_until(lambda: running.tool("o"), description="the other one is heard")
    wait_until(lambda: running.told("discovery_refused"), description="it is told")
    assert "named nothing within" in running.told("discovery_refused")[0]["detail"]


def test_tools_of_a_source_that_is_listed_no_more_go(start: Callable[..., Running]) -> None:
    """Also without the source."""
    running = start(team=Scripted({"a": A}))
    wait_until(lambda: running.tool("a"), description="it is registered")
    running.end()
    running = start(other=Scripted({}))
    wait_until(lambda: not running.tool("a"), description="it goes")


def test_who_has_lost_the_lease_changes_nothing(start: Callable[..., Running]) -> None:
    """Another worker does it now."""
    source = Scripted({"a": A})
    running = start(team=source)
    wait_until(lambda: running.tool("a"), description="it is registered")
    running.end()
    source.now = {"b": B}
    assert not running.thread.is_alive()
    assert running.tool("b") is None
