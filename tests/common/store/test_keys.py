"""The catalogue: every key and channel stands in it, and is spelled nowhere else."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import common
import gateway_web
import gateway_worker
from common.domain.ids import ClientId, InvocationId, McpSessionId, NodeId, TenantId, ToolId, queue_of
from common.store import keys as module
from common.store.keys import Keys
from tests.support.redis import documented, pattern

TABLE = documented()
CHANNELS = set(re.findall(r"``(\{p\}:[^`]+)``", module.__doc__ or ""))
SAMPLES: dict[str, tuple[Any, ...]] = {
    "figures": ("web-1@host",),
    "discovery_lease": (ToolId("a:b/c"),),
    "drain": ("tool.a",),
    "head": ("tool.a",),
    "mcp_session": (McpSessionId("a:b/c"),),
    "unacked": (NodeId("celery@host:1:2"),),
    "result": (InvocationId("i-1"),),
    "probe_lease": (ToolId("a:b/c"),),
    "pins": (ToolId("a:b/c"),),
    "circuit": (ToolId("a:b/c"),),
    "circuit_permits": (ToolId("a:b/c"),),
    "unsent": (NodeId("celery@host:1:2"),),
    "fenced": (NodeId("celery@host:1:2"),),
    "direct": (NodeId("celery@host:1:2"), "tool.a"),
    "direct_queues": (NodeId("celery@host:1:2"),),
    "sessions": (ToolId("a:b/c"),),
    "node_sessions": (NodeId("celery@host:1:2"),),
    "session_facts": (NodeId("celery@host:1:2"),),
    "tenant_sessions": (TenantId("a:b/c"),),
    "mcp_sessions_of": (TenantId("a:b/c"),),
    "tenant_calls": (TenantId("a:b/c"),),
    "client_calls": (TenantId("a:b/c"), ClientId("d:e")),
    "tenant_rate": (TenantId("a:b/c"),),
    "client_rate": (TenantId("a:b/c"), ClientId("d:e")),
    "capability_rate": (TenantId("a:b/c"), "a:b", "x*:y"),
    "tool_rate": (ToolId("a:b/c"),),
    "session_calls": (ToolId("a:b/c"),),
    "direct_head": (NodeId("celery@host:1:2"), "tool.a"),
    "began": (InvocationId("i-1"),),
    "calls": ("tool.a",),
    "held_back": ("tool.a",),
    "node_wake_channel": (NodeId("celery@host:1:2"),),
    "server_request": ("a:b/c",),
    "watches": (ToolId("a:b/c"), "t:c"),
    "session_stream": (McpSessionId("a:b/c"),),
    "session_holder": (McpSessionId("a:b/c"),),
    "session_lists": (McpSessionId("a:b/c"),),
    "call_stream": (InvocationId("i-1"),),
    "call_holder": (InvocationId("i-1"),),
    "client_answer": ("a:b/c",),
    "connection": ("a:b/c",),
    "connection_inbox": ("a:b/c",),
    "connection_bytes": ("a:b/c",),
    "answer_channel": (NodeId("celery@host:1:2"),),
}
SOURCES = [
    file
    for package in (common, gateway_web, gateway_worker)
    for file in Path(inspect.getfile(package)).parent.rglob("*.py")
]


def spelled() -> dict[str, str]:
    """Every key and channel that ``Keys`` spells, by the name of its attribute."""
    keys = Keys("pre")
    found = {}
    for name in vars(Keys):
        if name.startswith("_") or name in ("prefix", "begin", "seals", "sealed", "opened"):
            continue
        value = getattr(keys, name)
        found[name] = value(*SAMPLES[name]) if callable(value) else value
    found["reply_prefix"] += "process"
    found["queue_of"] = queue_of(ToolId("a:b/c"))
    return found


def test_the_tables_are_read() -> None:
    """So that the tests below test something."""
    assert len(TABLE) >= 13
    assert len(CHANNELS) == 10


@pytest.mark.parametrize(("name", "key"), spelled().items())
def test_each_stands_in_the_catalogue_once(name: str, key: str) -> None:
    """With type, lifetime and owner, or among the channels."""
    entries = [entry for entry in (*TABLE, *CHANNELS) if pattern(entry).fullmatch(key)]
    assert len(entries) == 1, entries


@pytest.mark.parametrize("entry", sorted({*TABLE, *CHANNELS}))
def test_each_entry_is_in_use(entry: str) -> None:
    """The catalogue holds no ghosts."""
    assert [key for key in spelled().values() if pattern(entry).fullmatch(key)]


def test_keys_of_one_gateway_are_not_another_ones() -> None:
    """All but the names that Celery fixes carry the prefix."""
    free = {"queue_of", "result"}
    assert {name for name, key in spelled().items() if not key.startswith("pre:")} == free


@pytest.mark.parametrize("name", ["discovery_lease", "mcp_session", "unacked"])
def test_an_id_cannot_reach_beyond_its_place(name: str) -> None:
    """Whatever an id holds, the key has as many parts as the catalogue says."""
    spell = getattr(Keys("pre"), name)
    assert len({spell(value) for value in ("a:b", "a%3Ab", "a", "a:", ":a")}) == 5
    assert spell("x:y").count(":") == spell("x").count(":")


def test_no_other_module_spells_a_key() -> None:
    """A key that is spelled elsewhere is missing from the catalogue sooner or later."""
    spelling = re.compile(r"celery-task-meta|\{[^{}]*prefix\}:|[\"']canalgate:[a-z{]")
    elsewhere = [
        f"{file.name}:{number}"
        for file in SOURCES
        if file != Path(inspect.getfile(module))
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if spelling.search(line) and not line.lstrip().startswith(("#", '"""'))
    ]
    assert elsewhere == []
