"""A tool as its entry in the file: the inverse of :func:`common.settings.tools.read_tool`, secrets included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from common.domain.content_rules import content_rules_to_wire
from common.domain.credential_rules import credentials_to_wire
from common.domain.custom import CustomTransport
from common.domain.rules import Routing
from common.domain.tool import HttpTransport, Tool
from common.settings.entry import KINDS, ToolEntry

_PLAIN = (
    *("description", "request_timeout", "startup_timeout", "idle_timeout"),
    *("queue_max_length", "queue_max_age", "trust_annotations", "required_scopes"),
    *("max_sessions", "max_in_flight", "max_in_flight_per_session", "max_session_age", "input_timeout"),
    *("requests_per_minute", "burst"),
)


def entry_of(tool: Tool) -> dict[str, Any]:
    """The entry that makes this tool, whatever the `runtime` section says: each key that it may have is given."""
    entry = _transport(tool) | {name: getattr(tool, name) for name in _PLAIN}
    entry |= {"routing": tool.routing.value, "affinity": tool.affinity.value, "retry": tool.retry.value}
    if tool.routing is Routing.LEAST_LOADED:
        entry["pool_size"] = tool.pool_size
    entry |= {f"circuit_{name}": value for name, value in asdict(tool.circuit).items()}
    entry |= {f"health_{name}": value for name, value in asdict(tool.health).items()}
    entry |= content_rules_to_wire(tool.content)
    return entry | {"credentials": credentials_to_wire(tool.credentials), "enabled": tool.enabled}


def changed_entry(tool: Tool, change: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of ``tool`` with the keys of ``change`` in place of its own; a key that is null has its default again.

    What belongs to another kind of transport, or to a pool, goes with it.
    """
    entry = entry_of(tool)
    if set(KINDS) & set(change) - set(entry):
        entry = {key: value for key, value in entry.items() if key in ToolEntry.model_fields}
    entry = {key: value for key, value in {**entry, **change}.items() if change.get(key, "") is not None}
    if entry.get("routing") != Routing.LEAST_LOADED and "pool_size" not in change:
        entry.pop("pool_size", None)
    return entry


def _transport(tool: Tool) -> dict[str, Any]:
    """The keys that only a tool of this kind may have."""
    transport = tool.transport
    if isinstance(transport, CustomTransport):
        return {"factory": transport.factory, "options": dict(transport.options)}
    if isinstance(transport, HttpTransport):
        tls = {f"tls_{name}": value for name, value in asdict(transport.tls).items()}
        return {"url": transport.url, "headers": dict(transport.headers), **tls}
    return {
        "command": transport.command,
        "args": list(transport.args),
        "env": dict(transport.env),
        "cwd": transport.cwd,
        **{f"limit_{name}": value for name, value in asdict(tool.limits).items()},
    }
