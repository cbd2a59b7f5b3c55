"""``/admin/v1/tools``: registering, changing and removing. No change of somebody else is lost by any of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from common.control.tool_changes import ToolChanges
from common.control.tools import overview_of
from common.domain.ids import ToolId
from common.identity.operators import Role
from common.registry.registry import ANY_VERSION
from gateway_web.admin.answers import at_version, expected_version, matched
from gateway_web.admin.models import (
    DefinitionHeaders,
    PatchHeaders,
    PatchQuery,
    ToolDefinition,
    ToolDetail,
    ToolPath,
)
from gateway_web.admin.plane import Plane
from gateway_web.admin.session import acting_as
from gateway_web.admin.tools import TAG, tool_answer

WHAT = "the tool"


class VersionedChanges:
    """Changes of definitions, each at the version that its request names."""

    def __init__(self, gateway: Plane) -> None:
        self._registry = gateway.registry
        self._gateway = gateway

    @property
    def _changes(self) -> ToolChanges:
        settings = self._gateway.settings  # a reload changes them
        return ToolChanges(
            self._registry, settings.runtime, allow_credentials=settings.admin.allow_credentials
        )

    def put(self, tool: ToolId, header: DefinitionHeaders, entry: Mapping[str, Any], actor: str) -> bool:
        """Register or replace; the same definition again changes nothing. Returns whether it is a new one."""
        found = self._changes.found(tool)
        expected = expected_version(header, found.version if found else None)
        at_version(WHAT, lambda: self._changes.put(tool, entry, expected=expected, actor=actor))
        return found is None

    def patch(
        self, tool: ToolId, header: PatchHeaders, patch: Mapping[str, Any], actor: str, *, transport: bool
    ) -> None:
        """Change what the patch names, of the present definition or of the one that the header names."""
        expected = self._expected(tool, header)
        at_version(
            WHAT,
            lambda: self._changes.patch(
                tool, patch, actor=actor, change_transport=transport, expected=expected
            ),
        )

    def remove(self, tool: ToolId, header: PatchHeaders, actor: str) -> None:
        """Take it off, at any version or at the one that the header names."""
        expected = self._expected(tool, header)
        at_version(WHAT, lambda: self._registry.remove(tool, expected=expected, actor=actor))

    def _expected(self, tool: ToolId, header: PatchHeaders) -> int:
        if header.if_match is None:
            return ANY_VERSION
        return matched(WHAT, header.if_match, self._registry.get(tool).registered.version)


def add_tool_changes(api: APIBlueprint, gateway: Plane) -> None:
    """Give the API the routes that change what is registered."""
    changes, client, keys = VersionedChanges(gateway), gateway.client, gateway.keys

    @api.put("/tools/<path:tool>", tags=[TAG], responses={200: ToolDetail, 201: ToolDetail})
    def put_tool(path: ToolPath, header: DefinitionHeaders, body: ToolDefinition) -> Response:
        """Register a tool, or replace its definition.

        Needs `If-None-Match: *` (there must be none), `If-Match: "<version>"` (it must be this one) or
        `If-Match: *` (whatever is there). The same definition again changes nothing.
        """
        actor, tool = acting_as(Role.ADMIN), ToolId(path.tool)
        created = changes.put(tool, header, body.root, actor.name)
        return tool_answer(overview_of(client, keys, tool), created=created)

    @api.patch("/tools/<path:tool>", tags=[TAG], responses={200: ToolDetail})
    def patch_tool(path: ToolPath, header: PatchHeaders, query: PatchQuery, body: ToolDefinition) -> Response:
        """Change some keys of a definition: what is not named stays, null gives a default back.

        Made of the present definition, again if others are quicker; with `If-Match` only of that version.
        """
        actor, tool = acting_as(Role.ADMIN), ToolId(path.tool)
        changes.patch(tool, header, body.root, actor.name, transport=query.change_transport)
        return tool_answer(overview_of(client, keys, tool))

    @api.delete("/tools/<path:tool>", tags=[TAG], responses={204: None})
    def remove_tool(path: ToolPath, header: PatchHeaders) -> Response:
        """Take a tool off. With `If-Match` only if it has this version. Calls under way end as they would."""
        actor = acting_as(Role.ADMIN)
        changes.remove(ToolId(path.tool), header, actor.name)
        return Response(status=204)
