"""The lists: what the caller may use of the tools at an endpoint, from the catalogue.

No backend is asked, so none delays or empties a list. The order is that of the tools' ids, then the backend's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from common.domain.ids import ToolId
from common.domain.invocation import Caller
from common.gateway import Gateway
from common.mcp import naming, resource_uris
from common.mcp.listings import LISTINGS, RESOURCES, Listing
from common.mcp.paging import page_of
from common.mcp.revisions import Era
from common.mcp.translate import to_legacy_result, to_modern_result
from common.registry.records import Entry
from gateway_web.ingress.requests import SERVER_INFO, McpRequest

Result = dict[str, Any]
Item = Mapping[str, Any]

BY_METHOD: Mapping[str, Listing] = {listing.method: listing for listing in LISTINGS}


def list_items(gateway: Gateway, mcp: McpRequest) -> Result:
    """One page of the list that the request's method names."""
    listing = BY_METHOD[mcp.request.method]
    items = visible_items(gateway, mcp.caller, mcp.tool, listing)
    page, cursor = page_of(items, mcp.params.get("cursor"), gateway.settings.web.list_page_size)
    result: Result = {listing.member: [dict(item) for item in page]}
    if cursor is not None:
        result["nextCursor"] = cursor
    if mcp.era is Era.MODERN:
        return to_modern_result(listing.method, result, server_info=SERVER_INFO)
    return to_legacy_result(listing.method, result, mcp.version)


def visible_entries(gateway: Gateway, caller: Caller, tool: ToolId | None) -> list[Entry]:
    """The tools of an endpoint (None: that of all) that the caller may use, each with what may be used of it."""
    if tool is not None:
        return [gateway.find(caller, tool)]
    return [entry for entry in gateway.tools(caller).entries() if entry.enabled]


def visible_items(gateway: Gateway, caller: Caller, tool: ToolId | None, listing: Listing) -> list[Item]:
    """The whole list as the caller sees it, under the names that it has at this endpoint."""
    entries = visible_entries(gateway, caller, tool)
    if tool is not None:
        return list(items_of(entries[0], listing))
    if listing is RESOURCES:
        return list(_resources(entries))
    if listing.key != "name":
        return [item for entry in entries for item in items_of(entry, listing)]
    return [
        {**item, "name": naming.prefixed(entry.id, item["name"])}
        for entry in entries
        for item in items_of(entry, listing)
    ]


def items_of(entry: Entry, listing: Listing) -> tuple[Item, ...]:
    """The items of one tool; none while it is not known what it offers."""
    return () if entry.known is None else entry.known.lists[listing.member]


def _resources(entries: list[Entry]) -> Iterator[Item]:
    """Resources of several tools; a URI that an earlier one gives already stands behind its tool's id."""
    given: set[str] = set()
    for entry in entries:
        for item in items_of(entry, RESOURCES):
            uri = item["uri"]
            yield {**item, "uri": resource_uris.qualified(entry.id, uri)} if uri in given else item
            given.add(uri)
