"""``/admin/v1/tools``: what is registered."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag

from common.control.tools import ToolOverview, overview, overview_of, overview_to_wire
from common.domain.ids import ToolId
from common.identity.operators import Role
from common.settings.definitions import masked_definition
from gateway_web.admin.answers import answer, etag
from gateway_web.admin.models import ToolDetail, ToolPage, ToolPath, ToolSchemas, ToolSummary
from gateway_web.admin.paging import PageQuery, page
from gateway_web.admin.plane import Plane
from gateway_web.admin.session import acting_as

TAG = Tag(name="tools", description="What is registered, and how it stands.")


def add_tools(api: APIBlueprint, gateway: Plane) -> None:
    """Give the API the routes that show tools."""
    client, keys = gateway.client, gateway.keys

    @api.get("/tools", tags=[TAG], responses={200: ToolPage})
    def list_tools(query: PageQuery) -> Response:
        """List all tools, by id."""
        acting_as(Role.VIEWER)
        found, cursor = page(overview(client, keys), query, lambda tool: tool.entry.id)
        return answer(ToolPage(items=[_summary(tool) for tool in found], next_cursor=cursor))

    @api.get("/tools/<path:tool>", tags=[TAG], responses={200: ToolDetail})
    def get_tool(path: ToolPath) -> Response:
        """Get a tool and its definition. The ETag is the version of the definition."""
        acting_as(Role.VIEWER)
        return tool_answer(overview_of(client, keys, ToolId(path.tool)))

    @api.get("/tools/<path:tool>/schemas", tags=[TAG], responses={200: ToolSchemas})
    def get_schemas(path: ToolPath) -> Response:
        """Get what the tool's backend offers, as it said it."""
        acting_as(Role.VIEWER)
        known = gateway.registry.get(ToolId(path.tool)).known
        lists: dict[str, list[dict[str, Any]]] = {
            name: [] if known is None else [dict(item) for item in getattr(known, name)]
            for name in ("tools", "resources", "resource_templates", "prompts")
        }
        return answer(ToolSchemas(**lists, discovered_at=None if known is None else known.discovered_at))


def tool_answer(tool: ToolOverview, *, created: bool = False) -> Response:
    """A tool with its definition, and the version of that as ETag."""
    detail = ToolDetail(**overview_to_wire(tool), definition=masked_definition(tool.entry.tool))
    headers = {"ETag": etag(tool.entry.registered.version)}
    return answer(detail, status=201 if created else 200, headers=headers)


def _summary(tool: ToolOverview) -> ToolSummary:
    return ToolSummary(**overview_to_wire(tool))
