"""Tools that left the settings file: they take no new calls, end those that they have, and go."""

from __future__ import annotations

import pytest

from common.audit.journal import Journal
from common.domain.ids import ToolId, queue_of
from common.domain.tool import Origin, StdioTransport, Tool
from common.registry import retirement as module
from common.registry.catalogue import Catalogue
from common.registry.lifecycle import Lifecycle
from common.registry.registry import Registry
from common.registry.retirement import Retirement
from common.store.client import Client
from common.store.keys import Keys
from tests.support.egress import ANYTHING

GOES, STAYS = ToolId("goes"), ToolId("stays")


def tool(name: ToolId, command: str = "cmd") -> Tool:
    return Tool(id=name, transport=StdioTransport(command=command))


class Process:
    """What a web process has of it."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self.client = client
        self.registry = Registry(client, keys, ANYTHING)
        self.lifecycle = Lifecycle(client, keys)
        self.catalogue = Catalogue(client, keys)
        self.retirement = Retirement(self.registry, self.lifecycle)

    def publish(self, *tools: Tool) -> list[ToolId]:
        return self.registry.publish_file(tools, self.retirement)

    def look(self, *, later: int = module.SETTLED) -> None:
        """One look, so many ms after now."""
        self.catalogue.refresh()
        seconds, micros = self.client.time()
        self.retirement.look(self.catalogue.entries(), seconds * 1000 + micros // 1000 + later)

    def ids(self) -> list[str]:
        return [entry.id for entry in self.registry.entries()]


@pytest.fixture
def process(client: Client, keys: Keys) -> Process:
    made = Process(client, keys)
    made.publish(tool(GOES), tool(STAYS))
    return made


def test_a_tool_goes_when_its_calls_have_ended_and_not_before(
    process: Process, client: Client, keys: Keys
) -> None:
    """Those that wait count, and nobody new is let in meanwhile."""
    client.rpush(queue_of(GOES), "{}")
    assert process.publish(tool(STAYS)) == [GOES]
    entry = process.registry.get(GOES)
    assert (entry.enabled, entry.runs_calls) == (False, True)
    process.look()
    assert process.ids() == [GOES, STAYS]
    client.delete(queue_of(GOES))
    process.look()
    assert process.ids() == [STAYS]
    kinds = [record.kind for record in reversed(Journal(client, keys).newest(100))]
    assert kinds == ["tool_registered", "tool_registered", "tool_retired", "tool_removed"]


def test_it_is_not_removed_before_every_process_knows_that_it_retires(process: Process) -> None:
    """One that does not yet may just have let a call through, which is in no queue yet."""
    process.publish(tool(STAYS))
    process.look(later=module.SETTLED - 1000)
    assert process.ids() == [GOES, STAYS]


def test_a_tool_that_comes_back_is_called_again(process: Process, client: Client, keys: Keys) -> None:
    """Under a new version: whoever was about to remove it finds another one."""
    process.publish(tool(STAYS))
    about_to = Process(client, keys)
    about_to.catalogue.refresh()
    version = process.registry.get(GOES).registered.version
    assert process.publish(tool(GOES), tool(STAYS)) == [GOES]
    entry = process.registry.get(GOES)
    assert entry.enabled
    assert entry.registered.version > version
    seconds, _ = client.time()
    about_to.retirement.look(about_to.catalogue.entries(), seconds * 1000 + 60_000)
    assert process.ids() == [GOES, STAYS]


def test_what_the_operator_said_stays(process: Process) -> None:
    """Of a tool that went and came back."""
    process.lifecycle.disable(GOES, actor="ann")
    process.publish(tool(STAYS))
    assert not process.registry.get(GOES).runs_calls
    process.publish(tool(GOES), tool(STAYS))
    assert not process.registry.get(GOES).enabled


def test_a_tool_registered_at_run_time_meanwhile_stays(process: Process) -> None:
    """Somebody wants it."""
    process.publish(tool(STAYS))
    process.registry.put(tool(GOES, "other"), origin=Origin.RUNTIME, actor="ann")
    process.look()
    entry = process.registry.get(GOES)
    assert entry.enabled
    assert not entry.operator.retiring
    process.look()
    assert process.ids() == [GOES, STAYS]


def test_the_file_leaves_what_was_registered_at_run_time(process: Process) -> None:
    """It is not the file's."""
    process.registry.put(tool(ToolId("own")), actor="ann")
    assert process.publish(tool(GOES), tool(STAYS)) == []
    process.look()
    assert process.ids() == [GOES, "own", STAYS]
