"""``Mcp-Param-*`` headers: arguments that a tool's schema wants repeated for intermediaries to route on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.domain.capabilities import Capabilities
from common.domain.ids import ToolId
from common.domain.invocation import Invocation
from common.mcp.headers import Path, invalid_x_mcp_header, mcp_param_headers, x_mcp_header_map
from common.registry.records import Entry
from gateway_worker.egress.link import NO_HEADERS

HeaderMap = Mapping[Path, str]


class ParamHeaders:
    """Looks through a tool's schemas once per discovery: few have the annotation at all."""

    def __init__(self) -> None:
        self._maps: dict[ToolId, tuple[Capabilities, dict[str, HeaderMap]]] = {}

    def of(self, entry: Entry, invocation: Invocation) -> Mapping[str, str]:
        """The headers that go with a call; none for anything but ``tools/call``."""
        known = entry.known
        if known is None or invocation.method != "tools/call":
            return NO_HEADERS
        held = self._maps.get(entry.id)
        if held is None or held[0] is not known:
            held = self._maps[entry.id] = (known, _annotated(known))
        header_map = held[1].get(str(invocation.params.get("name")))
        arguments = invocation.params.get("arguments")
        if header_map is None or not isinstance(arguments, Mapping):
            return NO_HEADERS
        return mcp_param_headers(header_map, arguments)


def _annotated(known: Capabilities) -> dict[str, HeaderMap]:
    found: dict[str, HeaderMap] = {}
    for definition in known.tools:
        schema: Any = definition.get("inputSchema")
        # A schema with a faulty annotation has none: clients send no header for it.
        header_map = x_mcp_header_map(schema) if invalid_x_mcp_header(schema) is None else {}
        if header_map:
            found[str(definition.get("name"))] = header_map
    return found
