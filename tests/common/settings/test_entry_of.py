"""A tool as the entry that makes it, and that entry changed in some of its keys."""

from __future__ import annotations

from typing import Any

import pytest

from common.domain.tool import Tool
from common.settings import RuntimeSettings
from common.settings.entry import HttpEntry, StdioEntry
from common.settings.entry_of import changed_entry, entry_of
from common.settings.tools import read_tool

RUNTIME = RuntimeSettings()
OTHER = RuntimeSettings(
    request_timeout=1,
    startup_timeout=2,
    idle_timeout=3,
    queue_max_length=4,
    queue_max_age=5,
    circuit_failures=6,
)
STDIO = {
    "command": "x",
    "args": ["${A}", "$$"],
    "env": {"K": "v"},
    "cwd": "/d",
    "description": "d",
    "affinity": "mcp_session",
    "retry": "never",
    "max_sessions": 5,
    "limit_open_files": 64,
}
HTTP = {
    "url": "http://h",
    "headers": {"X": "y"},
    "routing": "least_loaded",
    "pool_size": 7,
    "enabled": False,
    "health_interval": 0,
    "circuit_open_for": 2,
    "max_session_age": 400,
    "input_timeout": 77,
    "trust_annotations": True,
}


def tool_of(entry: Any, runtime: RuntimeSettings = RUNTIME) -> Tool:
    found = read_tool("echo", entry, runtime)
    assert isinstance(found, Tool), found
    return found


@pytest.mark.parametrize("entry", [{"command": "x"}, {"url": "http://h"}, STDIO, HTTP])
def test_the_entry_of_a_tool_makes_the_tool(entry: dict[str, Any]) -> None:
    """Whatever the runtime section says there."""
    tool = tool_of(entry)
    assert tool_of(entry_of(tool), OTHER) == tool


def test_the_entry_has_every_key_of_its_kind() -> None:
    """``type`` is said by the others, and only a pool has a size."""
    assert set(entry_of(tool_of(STDIO))) == set(StdioEntry.model_fields) - {"type", "pool_size"}
    assert set(entry_of(tool_of(HTTP))) == set(HttpEntry.model_fields) - {"type"}


@pytest.mark.parametrize(
    ("entry", "change", "wanted"),
    [
        (STDIO, {}, STDIO),
        (STDIO, {"max_sessions": 6}, {**STDIO, "max_sessions": 6}),
        (STDIO, {"env": {"L": "w"}}, {**STDIO, "env": {"L": "w"}}),
        (
            STDIO,
            {"cwd": None, "args": None},
            {key: STDIO[key] for key in STDIO if key not in {"cwd", "args"}},
        ),
        (
            HTTP,
            {"routing": "sticky"},
            {key: HTTP[key] for key in HTTP if key not in {"routing", "pool_size"}},
        ),
        (HTTP, {"routing": None}, {key: HTTP[key] for key in HTTP if key not in {"routing", "pool_size"}}),
        (HTTP, {"pool_size": None}, {key: HTTP[key] for key in HTTP if key != "pool_size"}),
        (
            HTTP,
            {"command": "c"},
            {"command": "c", **{key: HTTP[key] for key in HTTP if key not in {"url", "headers"}}},
        ),
        (
            {"command": "x", "limit_open_files": 64, "cwd": "/d", "retry": "safe"},
            {"url": "http://n", "type": "http"},
            {"url": "http://n", "retry": "safe"},
        ),
    ],
)
def test_a_change_replaces_what_it_names(
    entry: dict[str, Any], change: dict[str, Any], wanted: dict[str, Any]
) -> None:
    """Null gives a default back; what goes with another transport or with a pool goes with it."""
    assert tool_of(changed_entry(tool_of(entry), change)) == tool_of(wanted)


@pytest.mark.parametrize(
    "change", [{"command": None}, {"url": "http://h", "command": "x"}, {"pool_size": 3}, {"qqq": 1}]
)
def test_a_change_that_cannot_be_is_a_problem(change: dict[str, Any]) -> None:
    """As in the file."""
    assert isinstance(read_tool("echo", changed_entry(tool_of(STDIO), change), RUNTIME), list)
