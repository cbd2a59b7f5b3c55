"""Which tool a request is for, and what the things in it are called there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from common.domain.errors import GatewayError, InvalidRequest, ToolNotFound
from common.domain.ids import ToolId
from common.domain.invocation import Caller
from common.domain.policy import record_as_hidden
from common.gateway import Gateway
from common.gateway.refused import note_refusal
from common.mcp import naming, resource_uris
from common.mcp.jsonrpc import INVALID_PARAMS, JsonRpcError
from common.mcp.listings import RESOURCE_TEMPLATES, RESOURCES
from common.mcp.revisions import Era
from common.mcp.translate import RESOURCE_NOT_FOUND
from common.registry.records import Entry
from gateway_web.ingress.lists import items_of, visible_entries
from gateway_web.ingress.requests import McpRequest

MOST_COMPARED = 100
"""Templates that a URI is held against at most, among those that begin like it."""
Target = tuple[ToolId, dict[str, Any]]
"""The tool, and the params as it is to have them."""

_REFERENCES: Mapping[str, str] = {"ref/prompt": "name", "ref/resource": "uri"}
"""What a completion may refer to -> the member of the reference that names it."""


def of_name(gateway: Gateway, mcp: McpRequest) -> Target:
    """By ``params.name``: an MCP tool or a prompt."""
    name = text(mcp.params, "name")
    tool, own = _named(gateway, mcp, name)
    return tool, {**mcp.params, "name": own}


def of_uri(gateway: Gateway, mcp: McpRequest) -> Target:
    """By ``params.uri``: a resource."""
    tool, own = _located(gateway, mcp, text(mcp.params, "uri"))
    return tool, {**mcp.params, "uri": own}


def of_reference(gateway: Gateway, mcp: McpRequest) -> Target:
    """By ``params.ref``: the prompt or the template whose argument is to be completed."""
    reference = mcp.params.get("ref")
    kind = reference.get("type") if isinstance(reference, dict) else None
    member = _REFERENCES.get(kind) if isinstance(kind, str) else None
    if not isinstance(reference, dict) or member is None:
        raise InvalidRequest(f"params.ref must be one of {', '.join(_REFERENCES)}", field="params.ref")
    find: Callable[[Gateway, McpRequest, str], tuple[ToolId, str]] = _named if member == "name" else _located
    tool, own = find(gateway, mcp, text(reference, member, "params.ref"))
    return tool, {**mcp.params, "ref": {**reference, member: own}}


def text(params: Mapping[str, Any], member: str, of: str = "params") -> str:
    """A text that must be there. Raises :class:`InvalidRequest` that names it."""
    value = params.get(member)
    if not isinstance(value, str):
        raise InvalidRequest(f"{of}.{member} must be a string", field=f"{of}.{member}")
    return value


def _named(gateway: Gateway, mcp: McpRequest, name: str) -> tuple[ToolId, str]:
    if mcp.tool is not None:
        return mcp.tool, name
    found = naming.split(name, gateway.tools(mcp.caller).ids())
    if found is None:
        error = ToolNotFound(
            f"Unknown {_WORDS.get(mcp.request.method, 'tool')}: {name[:200]}; "
            f"names here are <tool>{naming.SEPARATOR}<name>"
        )
        _note(gateway, mcp, naming.split(name, gateway.catalogue.ids()), name, error)
        raise error
    return ToolId(found[0]), found[1]


def _note(
    gateway: Gateway, mcp: McpRequest, hidden: tuple[str, str] | None, name: str, error: GatewayError
) -> None:
    """Record a call that names nothing the caller has; ``hidden`` is what it names for others.

    Both are recorded, in the same steps: else the time of an answer would tell them apart.
    """
    tool, own = hidden or ("", name)
    params = {**mcp.params, **{member: own for member in ("name", "uri") if mcp.params.get(member) == name}}
    if hidden is not None:
        record_as_hidden(error)
    note_refusal(gateway, mcp.caller, tool, mcp.request.method, params, error, request_id=mcp.request.id)


def _located(gateway: Gateway, mcp: McpRequest, uri: str) -> tuple[ToolId, str]:
    """The tool of a URI: by name, by the lists, by the templates; or the only one that has resources at all."""
    if mcp.tool is not None:
        return mcp.tool, uri
    found = _owner(gateway, mcp.caller, uri)
    if found is not None:
        return found
    hidden = _owner_among(_with_resources(gateway.catalogue.entries()), uri)
    _note(gateway, mcp, hidden, uri, ToolNotFound("Resource not found: no tool here lists it"))
    code = INVALID_PARAMS if mcp.era is Era.MODERN else RESOURCE_NOT_FOUND
    raise JsonRpcError(code, "Resource not found: no tool here lists it", {"uri": uri[:2000]})


def uri_at_aggregate(gateway: Gateway, caller: Caller, tool: ToolId, uri: str) -> str:
    """The URI by which a caller asks for a tool's resource where tools share an endpoint."""
    return uri if _owner(gateway, caller, uri) == (tool, uri) else resource_uris.qualified(tool, uri)


def _owner(gateway: Gateway, caller: Caller, uri: str) -> tuple[ToolId, str] | None:
    return _owner_among(_with_resources(visible_entries(gateway, caller, None)), uri)


def _owner_among(entries: Sequence[Entry], uri: str) -> tuple[ToolId, str] | None:
    if (found := resource_uris.split(uri)) is not None and any(entry.id == found[0] for entry in entries):
        return ToolId(found[0]), found[1]
    for entry in entries:
        if _lists(entry, uri):
            return entry.id, uri
    left = MOST_COMPARED
    for entry in entries:
        for template in _templates_like(entry, uri):
            left -= 1
            if template == uri or (left >= 0 and resource_uris.matches(template, uri)):
                return entry.id, uri
    return (entries[0].id, uri) if len(entries) == 1 else None


def _with_resources(entries: Iterable[Entry]) -> list[Entry]:
    return [
        entry
        for entry in entries
        if entry.enabled
        and entry.known is not None
        and RESOURCES.capability in entry.known.server_capabilities
    ]


def _lists(entry: Entry, uri: str) -> bool:
    return any(item["uri"] == uri for item in items_of(entry, RESOURCES))


def _templates_like(entry: Entry, uri: str) -> Iterator[str]:
    """Templates that may be a URI's, or the very one (a completion names the template itself).

    One without a scheme of its own would claim whatever it likes.
    """
    for item in items_of(entry, RESOURCE_TEMPLATES):
        beginning = item["uriTemplate"].partition("{")[0]
        if ":" in beginning and uri.startswith(beginning):
            yield item["uriTemplate"]


_WORDS = {"prompts/get": "prompt", "completion/complete": "prompt"}
