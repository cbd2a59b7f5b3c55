"""What this server says of itself: the capabilities of the tools behind an endpoint, as far as they are known."""

from __future__ import annotations

from typing import Any

from common.gateway import Gateway
from common.mcp.naming import exposed_id
from common.mcp.revisions import Era
from common.registry.records import Entry
from gateway_web.ingress.lists import visible_entries
from gateway_web.ingress.requests import SERVER_INFO, McpRequest

LISTED = ("tools", "resources", "prompts")
"""Capabilities that stand for lists."""


def capabilities(gateway: Gateway, mcp: McpRequest) -> dict[str, Any]:
    """The server capabilities for ``initialize`` and ``server/discover``.

    A tool that was not reached yet may turn out to offer anything: until then everything is offered for it, since a
    client that was told otherwise never asks.
    """
    entries = visible_entries(gateway, mcp.caller, mcp.tool)
    told = {} if mcp.stateless else {"listChanged": True}
    offered: dict[str, dict[str, Any]] = {
        name: dict(told) for name in LISTED if name == "tools" or _any(entries, name)
    }
    if mcp.era is Era.LEGACY and not mcp.stateless:
        offered["logging"] = {}
    if told and "resources" in offered and any(_tells_of_updates(entry) for entry in entries):
        offered["resources"]["subscribe"] = True
    if _any(entries, "completions"):
        offered["completions"] = {}
    return offered


def instructions(gateway: Gateway, mcp: McpRequest) -> dict[str, str]:
    """What the backends say of how to use them; nothing where none says anything.

    Where tools share an endpoint, each one's words stand under its id, which its names begin with.
    """
    entries = visible_entries(gateway, mcp.caller, mcp.tool)
    said = {entry.id: entry.known.instructions for entry in entries if entry.known}
    words = {tool: text for tool, text in said.items() if text}
    if not words:
        return {}
    if mcp.tool is not None:
        return {"instructions": words[mcp.tool]}
    return {"instructions": "\n\n".join(f"# {exposed_id(tool)}\n{text}" for tool, text in words.items())}


def server_info(gateway: Gateway, mcp: McpRequest) -> dict[str, Any]:
    """Who answers: at a single tool's endpoint its backend, once it is known; else this gateway."""
    known = None if mcp.tool is None else gateway.find(mcp.caller, mcp.tool).known
    return dict(known.server_info) if known is not None and known.server_info else dict(SERVER_INFO)


def _any(entries: list[Entry], capability: str) -> bool:
    return any(entry.known is None or capability in entry.known.server_capabilities for entry in entries)


def _tells_of_updates(entry: Entry) -> bool:
    resources = None if entry.known is None else entry.known.server_capabilities.get("resources", {})
    return resources is None or (isinstance(resources, dict) and resources.get("subscribe") is True)
