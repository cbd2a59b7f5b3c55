"""``/admin/v1/config/export`` and ``/import``: all tools at once, in the shape of the settings file."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from pydantic import Field

from common.control.tool_import import ToolImport
from common.identity.operators import Role
from common.settings.definitions import masked_definition
from gateway_web.admin.answers import answer
from gateway_web.admin.cluster import TAG
from gateway_web.admin.models import Answer, Asked
from gateway_web.admin.plane import Plane
from gateway_web.admin.session import acting_as


class Exported(Answer):
    """Tools as they are registered, by id, as in the settings file; secrets are masked."""

    tools: dict[str, dict[str, Any]]


class Document(Asked):
    """Tools by id, as in the settings file. A masked value stands for the one that the tool of this id has."""

    tools: dict[str, dict[str, Any]]


class ImportQuery(Asked):
    """How far an import goes."""

    dry_run: bool = Field(default=False, description="Only say what would be done.")
    prune: bool = Field(default=False, description="Remove the tools that the document does not name.")


class Imported(Answer):
    """What was done, or would be: ids of tools."""

    dry_run: bool
    created: list[str]
    changed: list[str]
    unchanged: list[str]
    removed: list[str]


def add_interchange(api: APIBlueprint, gateway: Plane) -> None:
    """Give the API the routes by which tools leave and enter all at once."""

    @api.get("/config/export", tags=[TAG], responses={200: Exported})
    def export_tools() -> Response:
        """Get all tools as they are registered, in the shape of the settings file."""
        acting_as(Role.VIEWER)
        found = gateway.registry.entries()
        return answer(Exported(tools={entry.id: masked_definition(entry.tool) for entry in found}))

    @api.post("/config/import", tags=[TAG], responses={200: Imported})
    def import_tools(query: ImportQuery, body: Document) -> Response:
        """Register the tools of a document, and change those that it has otherwise; nothing if an entry is at fault.

        Each is written at the version that was read: tools that others change meanwhile are left as they are, and named
        by the answer, which is 409 then.
        """
        actor = acting_as(Role.ADMIN)
        settings = gateway.settings
        service = ToolImport(gateway.registry, settings, allow_credentials=settings.admin.allow_credentials)
        if query.dry_run:
            plan = service.plan(body.tools, prune=query.prune)
        else:
            with gateway.registry.refusals_noted("", actor.name):
                plan = service.plan(body.tools, prune=query.prune)
            service.apply(plan, actor=actor.name)
        return answer(Imported(dry_run=query.dry_run, **plan.told()))
