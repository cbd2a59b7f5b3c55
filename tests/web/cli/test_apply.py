"""``canalgate apply``: what a file would change, and the change; what others did meanwhile is not lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from common.audit.journal import Journal
from common.control import apply as module
from common.control.apply import Applying
from common.domain.ids import TenantId, ToolId
from common.domain.tool import DEFAULT_IDLE_TIMEOUT, MASK, Origin, StdioTransport, Tool
from common.registry.registry import Registry
from common.settings import Settings, load
from common.store.client import Client
from common.store.keys import Keys
from common.tenants.records import TenantRecords
from gateway_web.cli.output import Exit
from tests.support.egress import ANYTHING
from tests.web.cli.conftest import USER, Canalgate

A, B, OWN = ToolId("a"), ToolId("b"), ToolId("own")
Write = Callable[..., Path]


def tool(name: ToolId, command: str = "cmd", **env: str) -> Tool:
    return Tool(id=name, transport=StdioTransport(command=command, env=env))


@pytest.fixture
def registry(client: Client, keys: Keys) -> Registry:
    return Registry(client, keys, ANYTHING)


@pytest.fixture
def records(client: Client, keys: Keys) -> TenantRecords:
    return TenantRecords(client, keys)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a settings file with these sections."""

    def written(name: str = "wanted.yaml", **sections: Any) -> Path:
        file = tmp_path / name
        file.write_text(yaml.safe_dump(sections))
        return file

    return written


def test_a_difference_is_shown_done_and_then_there_is_none(
    canalgate: Canalgate, registry: Registry, records: TenantRecords, write: Write, client: Client, keys: Keys
) -> None:
    """First with an exit code of its own and without a change; then under the operator's name, and only once."""
    registry.put(tool(A, TOKEN="s3cret-one"))
    registry.put(tool(OWN))
    records.put(TenantId("acme"), {"max_calls": 3, "burst": None}, actor="ann")
    file = write(
        tools={
            "a": {"command": "cmd", "env": {"TOKEN": "s3cret-two"}, "idle_timeout": 77},
            "b": {"command": "x"},
        },
        tenants={"listed": [{"id": "acme", "max_calls": 5}, {"id": "umbra", "enabled": False}]},
        web={"port": 9},
    )
    shown = canalgate("apply", str(file), "--diff")
    assert shown.exit_code == Exit.PENDING
    lines = shown.stdout.splitlines()
    assert "~ tool a" in lines
    assert f'    env.TOKEN: "{MASK}" -> "{MASK}" (another value)' in lines
    assert f"    idle_timeout: {DEFAULT_IDLE_TIMEOUT} -> 77.0" in lines
    assert "+ tool b" in lines
    assert "~ tenant acme" in lines
    assert "    max_calls: 3 -> 5" in lines
    assert "+ tenant umbra" in lines
    assert "own" not in shown.stdout
    assert "s3cret" not in shown.output
    assert "web" in shown.stderr
    assert [entry.id for entry in registry.entries()] == [A, OWN]
    done = canalgate("apply", str(file))
    assert done.exit_code == Exit.OK, done.output
    entries = {entry.id: entry.registered for entry in registry.entries()}
    assert entries[A].tool.transport == StdioTransport(command="cmd", env={"TOKEN": "s3cret-two"})
    assert {entry.origin for entry in entries.values()} == {Origin.RUNTIME}
    assert {name: record.layer for name, record in records.all().items()} == {
        "acme": {"max_calls": 5},
        "umbra": {"enabled": False},
    }
    events = Journal(client, keys).newest(4)
    assert {event.kind for event in events} == {"tool_registered", "tool_updated", "tenant_changed"}
    assert {event.fields["actor"] for event in events} == {f"cli:{USER}"}
    before = registry.get(A).registered.version
    again = canalgate("apply", str(file))
    assert (again.exit_code, "nothing to change" in again.stdout) == (Exit.OK, True)
    assert canalgate("apply", str(file), "--diff").exit_code == Exit.OK
    assert registry.get(A).registered.version == before


def test_json_has_the_same(canalgate: Canalgate, registry: Registry, write: Write) -> None:
    """For scripts."""
    registry.put(tool(A))
    told = canalgate("apply", str(write(tools={"a": {"command": "x"}})), "--diff", "--json")
    assert told.exit_code == Exit.PENDING
    found = orjson.loads(told.stdout)
    assert found["tools"] == [
        {"id": "a", "verb": "change", "changes": [{"field": "command", "before": "cmd", "after": "x"}]}
    ]
    assert (found["tenants"], found["unchanged"], found["refused"]) == ([], 0, {})


def test_what_the_file_does_not_name_goes_only_on_demand(
    canalgate: Canalgate, registry: Registry, records: TenantRecords, write: Write
) -> None:
    """And never the tools of the gateway's own file."""
    registry.put(tool(A))
    registry.put(tool(B))
    registry.publish_file([tool(OWN)])
    records.put(TenantId("acme"), {"max_calls": 3}, actor="ann")
    file = write(tools={"a": {"command": "cmd"}}, tenants={"listed": []})
    assert canalgate("apply", str(file), "--diff").exit_code == Exit.OK
    assert canalgate("apply", str(file), "--prune").exit_code == Exit.OK
    assert [entry.id for entry in registry.entries()] == [A, OWN]
    assert records.all() == {}


def test_a_tool_of_the_gateway_s_file_is_not_changed_by_another_file(
    canalgate: Canalgate, registry: Registry, write: Write
) -> None:
    """It would come back at the next start. The rest of the file is done."""
    registry.publish_file([tool(OWN), tool(B)])
    file = write(tools={"own": {"command": "x"}, "b": {"command": "cmd"}, "a": {"command": "cmd"}})
    done = canalgate("apply", str(file))
    assert done.exit_code == Exit.REFUSED
    assert "tool own is not changed" in done.stderr
    assert registry.get(OWN).tool == tool(OWN)
    assert registry.get(B).registered.origin is Origin.FILE
    assert registry.get(A).registered.origin is Origin.RUNTIME


def test_the_gateway_s_own_file_is_the_operator_s(
    canalgate: Canalgate, registry: Registry, write: Write, client: Client, keys: Keys
) -> None:
    """Its commands need no leave, its tools stay the file's, and those that it has no more end their calls first."""
    registry.publish_file([tool(A), tool(B)])
    registry.put(tool(OWN))
    file = write(
        "canalgate.yaml",
        tools={"a": {"command": "nobody-allowed-this"}},
        tenants={"listed": [{"id": "acme", "max_calls": 3}]},
    )
    shown = canalgate("apply", str(file), "--diff")
    assert (shown.exit_code, "- tool b" in shown.stdout) == (Exit.PENDING, True)
    done = canalgate("apply", str(file))
    assert done.exit_code == Exit.OK, done.output
    entry = registry.get(A)
    assert (entry.registered.origin, entry.tool.transport) == (
        Origin.FILE,
        StdioTransport(command="nobody-allowed-this"),
    )
    assert registry.get(B).operator.retiring
    assert registry.get(OWN).enabled
    assert TenantRecords(client, keys).all() == {}  # the file says it, each process reads it
    assert canalgate("apply", str(file), "--diff").exit_code == Exit.OK
    write("canalgate.yaml", tools={"a": {"command": "nobody-allowed-this"}, "b": {"command": "cmd"}})
    assert canalgate("apply", str(file)).exit_code == Exit.OK
    assert registry.get(B).enabled


def test_a_command_that_nobody_allowed_refuses_the_whole_file(
    canalgate: Canalgate, registry: Registry, write: Write
) -> None:
    """As with any other way to register at run time."""
    file = write(tools={"a": {"command": "cmd"}, "b": {"command": "rm"}})
    done = canalgate("apply", str(file))
    assert done.exit_code == Exit.USAGE
    assert "tools.b.command" in done.stderr
    assert registry.entries() == []


@pytest.mark.parametrize(
    "text", ["tools: {a: {comand: x}}", "tools: [", "wbe: {}", "tools: {a: {command: x, cwd: '${NOT_SET}'}}"]
)
def test_a_file_that_is_not_good_changes_nothing(
    text: str, canalgate: Canalgate, registry: Registry, tmp_path: Path
) -> None:
    """To the last tool."""
    file = tmp_path / "wanted.yaml"
    file.write_text(text)
    for further in ((), ("--diff",)):
        assert canalgate("apply", str(file), *further).exit_code == Exit.USAGE
    assert registry.entries() == []


def test_defaults_of_tools_are_the_gateway_s(
    canalgate: Canalgate, registry: Registry, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it were registered by ``tools add``; unless the file has its own."""
    monkeypatch.setenv("CANALGATE_RUNTIME__IDLE_TIMEOUT", "33")
    canalgate("apply", str(write(tools={"a": {"command": "cmd"}})))
    assert registry.get(A).tool.idle_timeout == 33
    canalgate("apply", str(write(tools={"a": {"command": "cmd"}}, runtime={"idle_timeout": 44})))
    assert registry.get(A).tool.idle_timeout == 44


@pytest.fixture
def applying(client: Client, keys: Keys) -> Applying:
    return Applying(
        client, keys, Settings.model_validate({"egress": {"allowed_commands": ["cmd", "x", "y"]}})
    )


def wanted_of(file: Path) -> Settings:
    return load(file, {})


def test_what_others_change_meanwhile_stays_and_is_named(
    applying: Applying, registry: Registry, records: TenantRecords, write: Write
) -> None:
    """Between the plan and the change: a tool changed, one removed, one created, a tenant changed. The rest is done."""
    gone, new, calm = ToolId("gone"), ToolId("new"), ToolId("calm")
    for name in (A, gone, calm):
        registry.put(tool(name))
    records.put(TenantId("acme"), {"max_calls": 3}, actor="ann")
    file = write(
        tools={name: {"command": "x"} for name in ("a", "gone", "new", "calm")},
        tenants={"listed": [{"id": "acme", "max_calls": 5}]},
    )
    plan = applying.plan(wanted_of(file), own=False)
    registry.put(tool(A, "y"))
    registry.remove(gone)
    registry.put(tool(new, "y"))
    records.put(TenantId("acme"), {"max_calls": 4}, actor="eve")
    with pytest.raises(module.VersionConflict) as raised:
        applying.apply(plan, actor="ann")
    assert raised.value.data["conflicts"] == ["tool a", "tool gone", "tool new", "tenant acme"]
    commands = {entry.id: entry.tool.transport.command for entry in registry.entries()}  # type: ignore[union-attr]
    assert commands == {A: "y", calm: "x", new: "y"}
    assert records.all()[TenantId("acme")].layer == {"max_calls": 4}


def test_a_tool_that_was_changed_meanwhile_does_not_retire(
    applying: Applying, registry: Registry, write: Write
) -> None:
    """Whoever changed it wants it."""
    registry.publish_file([tool(A)])
    plan = applying.plan(wanted_of(write(tools={})), own=True)
    registry.update(A, lambda _: tool(A, "y"))
    with pytest.raises(module.VersionConflict):
        applying.apply(plan, actor="ann")
    assert registry.get(A).enabled
