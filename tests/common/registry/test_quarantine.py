"""Pins in Redis: exact under writers that meet, seen by every process, and decided on by operators."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import orjson
import pytest
import structlog

from common.audit.journal import Journal
from common.domain.capabilities import Capabilities, Quarantined
from common.domain.content_rules import ContentRules, Pinning
from common.domain.errors import CapabilityQuarantined, InvalidRequest, ToolNotFound, VersionConflict
from common.domain.ids import ToolId
from common.domain.pins import discovered
from common.domain.tool import StdioTransport, Tool
from common.registry.catalogue import Catalogue
from common.registry.pins import MOST_TOLD, PinStore, discovery_events, pin_arguments
from common.registry.quarantine import Quarantine
from common.registry.records import capabilities_to_json
from common.registry.registry import Registry
from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import run
from gateway_worker.content import offered
from tests.support.egress import ANYTHING

T = ToolId("a tool/ü")
WITHHOLDING = ContentRules(pinning=Pinning.QUARANTINE)


def mcp_tool(name: str, description: str) -> dict[str, Any]:
    """A definition."""
    return {"name": name, "description": description, "inputSchema": {"type": "object"}}


class Desk:
    """A registry with one tool, and discoveries of it that the test makes up."""

    def __init__(self, client: Client, keys: Keys, rules: ContentRules) -> None:
        self.client = client
        self.keys = keys
        self.registry = Registry(client, keys, ANYTHING)
        self.quarantine = Quarantine(client, keys)
        self.pins = PinStore(client, keys)
        self.rules = rules
        self.registry.put(Tool(id=T, transport=StdioTransport(command="x"), content=rules))

    def find(self, *tools: dict[str, Any], **fields: Any) -> int:
        """Store what a discovery found; the script's answer."""
        pins = self.pins.read(T)
        version = self.registry.get(T).registered.version
        found = Capabilities(tool_version=version, discovered_at=1, tools=tools, **fields)
        change = discovered(pins, offered(found), self.rules, now=5)
        told = pin_arguments(pins, change, discovery_events(T, pins, change, self.rules, actor="n"))
        return self.store(found, told)

    def store(self, found: Capabilities, told: list[Any]) -> int:
        keys = self.keys
        names = [
            *(keys.registry_versions, keys.registry_capabilities, keys.registry_version),
            *(
                keys.registry_changes,
                keys.registry_refresh,
                keys.pins(T),
                keys.registry_unapproved,
                keys.audit,
            ),
        ]
        args = [T, capabilities_to_json(found), found.tool_version, 1, keys.registry_channel, *told]
        return int(run(self.client, "capabilities_put", names, args))

    def offers(self) -> list[str]:
        """What clients are given, by a process that has read it now."""
        catalogue = Catalogue(self.client, self.keys)
        catalogue.refresh()
        entry = catalogue.get(T)
        assert entry is not None
        assert entry == self.registry.get(T)
        return [] if entry.known is None else [str(tool["name"]) for tool in entry.known.tools]

    def told(self) -> list[tuple[str, str, str]]:
        """Kind, reason and detail of what the journal says of definitions, the oldest first."""
        found = [record.fields for record in Journal(self.client, self.keys).newest(1000)]
        return [
            (fields["kind"], fields.get("reason", ""), fields.get("detail", ""))
            for fields in reversed(found)
            if not fields["kind"].startswith("tool_reg")
        ]


@pytest.fixture
def desk(client: Client, keys: Keys) -> Desk:
    return Desk(client, keys, WITHHOLDING)


def test_a_changed_definition_is_withheld_and_the_others_go_on(desk: Desk) -> None:
    """From lists and calls, in the step in which it is stored."""
    assert desk.find(mcp_tool("a", "good"), mcp_tool("b", "good")) == 1
    assert desk.find(mcp_tool("a", "evil"), mcp_tool("b", "good")) == 1
    assert desk.offers() == ["b"]
    entry = desk.registry.get(T)
    with pytest.raises(CapabilityQuarantined):
        entry.withheld.check(T, entry.known, "tools/call", {"name": "a"})
    entry.withheld.check(T, entry.known, "tools/call", {"name": "b"})
    [(kind, reason, detail)] = desk.told()
    assert (kind, reason) == ("tool_quarantined", "the definition changed: description")
    [waiting] = desk.quarantine.waiting(T)
    assert f'tools "a": {waiting.approved} -> {waiting.digest}' == detail
    assert "evil" not in reason + detail
    assert waiting.changed == ("description",)
    assert waiting.withheld


def test_with_warn_it_is_given_and_told(client: Client, keys: Keys) -> None:
    """And is on the list of what a quarantine would withhold."""
    desk = Desk(client, keys, ContentRules())
    desk.find(mcp_tool("a", "good"))
    desk.find(mcp_tool("a", "other"))
    desk.find(mcp_tool("a", "other"))
    assert desk.offers() == ["a"]
    assert [kind for kind, *_ in desk.told()] == ["definition_changed"]
    assert [waiting.withheld for waiting in desk.quarantine.waiting()] == [False]
    with pytest.raises(InvalidRequest):
        desk.quarantine.reject(T, "tools", "a", "0" * 64, actor="ann")
    desk.registry.put(Tool(id=T, transport=StdioTransport(command="x"), content=WITHHOLDING))
    desk.find(mcp_tool("a", "other"))
    assert desk.offers() == []


def test_an_operator_sees_what_changed_and_approves_it(desk: Desk) -> None:
    """What is hidden is written out; clients have it at once, and the journal says who it was."""
    desk.find(mcp_tool("a", "good"))
    desk.find(mcp_tool("a", "good\u202e<b>"))
    [waiting] = desk.quarantine.waiting()
    shown = desk.quarantine.difference(T, "tools", "a")
    assert '-  "description": "good",' in shown
    assert '+  "description": "good<U+202E RIGHT-TO-LEFT OVERRIDE><b>",' in shown
    desk.quarantine.approve(T, "tools", "a", waiting.digest[:16], actor="cli:ann")
    assert desk.offers() == ["a"]
    assert desk.quarantine.waiting() == []
    assert desk.told()[-1][0] == "definition_approved"
    desk.find(mcp_tool("a", "good"))
    assert desk.offers() == []


def test_what_an_operator_did_not_see_he_does_not_approve(desk: Desk) -> None:
    """Nor what is not there."""
    desk.find(mcp_tool("a", "good"))
    desk.find(mcp_tool("a", "evil"))
    [waiting] = desk.quarantine.waiting()
    desk.find(mcp_tool("a", "worse"))
    with pytest.raises(VersionConflict):
        desk.quarantine.approve(T, "tools", "a", waiting.digest, actor="ann")
    with pytest.raises(InvalidRequest):
        desk.quarantine.approve(T, "tools", "b", waiting.digest, actor="ann")
    with pytest.raises(InvalidRequest):
        desk.quarantine.approve(T, "tool", "a", waiting.digest, actor="ann")
    with pytest.raises(InvalidRequest):
        desk.quarantine.difference(T, "tools", "b")
    with pytest.raises(ToolNotFound):
        desk.quarantine.approve(ToolId("none"), "tools", "a", waiting.digest, actor="ann")
    assert desk.offers() == []


def test_a_rejected_definition_stays_away(desk: Desk) -> None:
    """It is found again and again, and told of no more."""
    desk.find(mcp_tool("a", "good"))
    desk.find(mcp_tool("a", "evil"))
    [waiting] = desk.quarantine.waiting()
    desk.quarantine.reject(T, "tools", "a", waiting.digest, actor="cli:ann")
    desk.find(mcp_tool("a", "evil"))
    assert [found.standing for found in desk.quarantine.waiting()] == ["rejected"]
    assert [kind for kind, *_ in desk.told()] == ["tool_quarantined", "definition_rejected"]
    assert desk.offers() == []


def test_a_judgement_on_pins_that_are_others_by_now_is_not_stored(desk: Desk) -> None:
    """Nothing of it: not the capabilities either."""
    version = desk.registry.get(T).registered.version
    before = desk.pins.read(T)
    stale = Capabilities(tool_version=version, discovered_at=1, tools=(mcp_tool("a", "evil"),))
    desk.find(mcp_tool("a", "good"))
    change = discovered(before, offered(stale), WITHHOLDING, now=5)
    assert desk.store(stale, pin_arguments(before, change, [])) == -1
    assert desk.offers() == ["a"]
    assert desk.registry.get(T).known.tools[0]["description"] == "good"  # type: ignore[union-attr]


def test_of_many_discoveries_at_once_one_is_first(desk: Desk) -> None:
    """Each finds another definition; only one is trusted, and the others wait or were not stored."""
    together = Barrier(8)

    def find(number: int) -> int:
        together.wait()
        return desk.find(mcp_tool("a", f"{number}"))

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(find, range(8)))
    pins = desk.pins.read(T)
    assert 1 <= answers.count(1) == pins.version
    approved = orjson.loads(pins.approved["tools", "a"].text)["description"]
    assert answers[int(approved)] == 1
    assert desk.offers() == ([] if pins.waiting else ["a"])


def test_with_approve_first_nothing_is_used_that_nobody_approved(client: Client, keys: Keys) -> None:
    """Nor what the backend never listed, nor anything before it was asked."""
    desk = Desk(client, keys, ContentRules(pinning=Pinning.QUARANTINE, approve_first=True))
    entry = desk.registry.get(T)
    with pytest.raises(CapabilityQuarantined):
        entry.withheld.check(T, entry.known, "tools/call", {"name": "a"})
    desk.find(
        mcp_tool("a", "x"),
        resource_templates=({"uriTemplate": "file:///{name}", "name": "f"},),
        instructions="use me",
    )
    assert desk.offers() == []
    assert desk.registry.get(T).known.instructions is None  # type: ignore[union-attr]
    for waiting in desk.quarantine.waiting():
        desk.quarantine.approve(T, waiting.kind, waiting.name, waiting.digest, actor="ann")
    entry = desk.registry.get(T)
    assert entry.known is not None
    assert entry.known.instructions == "use me"
    entry.withheld.check(T, entry.known, "tools/call", {"name": "a"})
    entry.withheld.check(T, entry.known, "resources/read", {"uri": "file:///x"})
    for method, params in (
        ("tools/call", {"name": "b"}),
        ("resources/read", {"uri": "x:y"}),
        ("prompts/get", {"name": "p"}),
    ):
        with pytest.raises(CapabilityQuarantined):
            entry.withheld.check(T, entry.known, method, params)


@pytest.mark.parametrize(
    ("method", "params", "refused"),
    [
        ("resources/read", {"uri": "file:///etc/x"}, True),
        ("resources/subscribe", {"uri": "file:///etc/x"}, True),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "file:///etc/{name}"}}, True),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}}, True),
        ("prompts/get", {"name": "p"}, True),
        ("resources/read", {"uri": "other:x"}, False),
        ("tools/call", {"name": "p"}, False),
        ("ping", {}, False),
        ("completion/complete", {"ref": 5}, False),
    ],
)
def test_every_way_to_use_what_is_withheld_is_refused(
    method: str, params: dict[str, Any], refused: bool, desk: Desk
) -> None:
    """A resource also by the template that it comes from."""
    for words in ("good", "evil"):
        desk.find(
            resource_templates=({"uriTemplate": "file:///etc/{name}", "name": words},),
            prompts=({"name": "p", "description": words},),
        )
    entry = desk.registry.get(T)
    if refused:
        with pytest.raises(CapabilityQuarantined):
            entry.withheld.check(T, entry.known, method, params)
    else:
        entry.withheld.check(T, entry.known, method, params)


def test_a_resource_may_grow(desk: Desk) -> None:
    """Its size and what it is annotated with change with its contents, which nobody pins."""
    base = {"uri": "file:///x", "name": "x"}
    desk.find(resources=({**base, "size": 1, "annotations": {"lastModified": "2026-01-01T00:00:00Z"}},))
    desk.find(resources=({**base, "size": 2, "annotations": {"lastModified": "2026-01-02T00:00:00Z"}},))
    assert desk.quarantine.waiting() == []
    desk.find(resources=({**base, "name": "y"},))
    assert [waiting.kind for waiting in desk.quarantine.waiting()] == ["resources"]


def test_what_hides_something_is_refused_whatever_the_pinning(client: Client, keys: Keys) -> None:
    """It is in no list; a client that knows its name cannot call it either."""
    desk = Desk(client, keys, ContentRules(pinning=Pinning.OFF))
    bad = Quarantined(list="tools", name="a\u200b", reason="hidden", refused=True)
    version = desk.registry.get(T).registered.version
    desk.store(Capabilities(tool_version=version, discovered_at=1, quarantined=(bad,)), [])
    entry = desk.registry.get(T)
    with pytest.raises(CapabilityQuarantined):
        entry.withheld.check(T, entry.known, "tools/call", {"name": "a\u200b"})


def test_pins_that_cannot_be_read_withhold_everything(desk: Desk) -> None:
    """Fails closed."""
    desk.find(mcp_tool("a", "good"))
    desk.client.hset(desk.keys.registry_unapproved, T, "nonsense")
    assert desk.registry.get(T).known.tools == ()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ('w["tools","x"]', "nonsense"),
        ('w["tools","x"]', '["d"]\n{}'),
        ('w["tools","x"]', '[5,"x",null]\n{}'),
        ("wnonsense", '["d",1,"changed"]\n{}'),
        ('w["tools",5]', '["d",1,"changed"]\n{}'),
    ],
)
def test_pins_of_one_tool_that_cannot_be_read_hide_no_others(desk: Desk, field: str, text: str) -> None:
    """The log names the tool; whoever asks for it alone is not told that nothing waits."""
    desk.find(mcp_tool("a", "good"))
    desk.find(mcp_tool("a", "evil"))
    other = ToolId("other")
    desk.registry.put(Tool(id=other, transport=StdioTransport(command="x")))
    desk.client.hset(desk.keys.pins(other), field, text)
    with structlog.testing.capture_logs() as lines:
        assert [waiting.tool for waiting in desk.quarantine.waiting()] == [T]
    assert [(line["event"], line["tool"]) for line in lines] == [("pins_unreadable", other)]
    with pytest.raises((TypeError, ValueError)):
        desk.quarantine.waiting(other)


def test_pins_go_with_the_tool(desk: Desk) -> None:
    """Whoever registers it again trusts it anew."""
    desk.find(mcp_tool("a", "good"))
    desk.find(mcp_tool("a", "evil"))
    desk.registry.remove(T)
    assert desk.client.exists(desk.keys.pins(T), desk.keys.registry_unapproved) == 0


def test_a_backend_cannot_flood_the_journal(desk: Desk) -> None:
    """Of very many changes the first are told, and how many more there were."""
    names = [f"t{number}" for number in range(MOST_TOLD + 7)]
    desk.find(*(mcp_tool(name, "good") for name in names))
    desk.find(*(mcp_tool(name, "evil") for name in names))
    told = desk.told()
    assert len(told) == MOST_TOLD + 1
    assert told[-1][1] == "7 more definitions"
    assert desk.offers() == []
