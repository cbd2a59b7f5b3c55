"""``/admin/v1/tools/<tool>/quarantine``: definitions of a backend's that nobody has approved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from pydantic import Field

from common.domain.ids import MAX_ID_LENGTH, ToolId
from common.domain.pins import SHORTEST_DIGEST
from common.identity.operators import Role
from common.registry.quarantine import Quarantine, Waiting
from gateway_web.admin.answers import answer
from gateway_web.admin.models import Answer, Asked, ToolPath
from gateway_web.admin.plane import Plane
from gateway_web.admin.session import acting_as
from gateway_web.admin.tools import TAG

LONGEST_NAME = 4096
Kind = Literal["tools", "resources", "resourceTemplates", "prompts", "instructions"]


class Unapproved(Answer):
    """A definition that is not approved."""

    tool: str = Field(max_length=MAX_ID_LENGTH)
    kind: str = Field(description="The list that it stands in, or instructions: those of the backend.")
    name: str = Field(description="Its name, of a resource its URI; empty for instructions.")
    digest: str = Field(description="To be sent back with the decision.")
    approved: str | None = Field(description="Digest of the approved one.")
    at: int = Field(description="Since when, in milliseconds of Redis time.")
    standing: str
    withheld: bool = Field(description="Whether clients are not given it.")
    changed: list[str] = Field(description="In which members it differs from the approved one.")


class UnapprovedList(Answer):
    """All of a tool, or of all tools."""

    items: list[Unapproved]


class PlaceQuery(Asked):
    """Which definition."""

    kind: Kind = "tools"
    name: str = Field(default="", max_length=LONGEST_NAME)


class Difference(Answer):
    """What waits against what was approved, as lines of a unified difference."""

    lines: list[str] = Field(description="Hidden characters are written out.")


class Verdict(PlaceQuery):
    """A decision on the definition that was seen."""

    digest: str = Field(
        min_length=SHORTEST_DIGEST,
        max_length=64,
        pattern="^[0-9a-f]+$",
        description=f"Of the definition that was seen, or its first {SHORTEST_DIGEST} characters or more.",
    )


class Decided(Answer):
    """What was decided on."""

    tool: str
    kind: str
    name: str
    standing: Literal["approved", "rejected"]


def add_quarantine(api: APIBlueprint, gateway: Plane) -> None:
    """Give the API the routes of what waits for approval."""
    quarantine = Quarantine(gateway.client, gateway.keys)

    @api.get("/tools/<path:tool>/quarantine", tags=[TAG], responses={200: UnapprovedList})
    def list_quarantine(path: ToolPath) -> Response:
        """List the definitions of a tool that nobody has approved."""
        acting_as(Role.VIEWER)
        return _listed(quarantine.waiting(ToolId(path.tool)))

    @api.get("/quarantine", tags=[TAG], responses={200: UnapprovedList})
    def list_all_quarantine() -> Response:
        """List the definitions of all tools that nobody has approved."""
        acting_as(Role.VIEWER)
        return _listed(quarantine.waiting())

    @api.get("/tools/<path:tool>/quarantine/diff", tags=[TAG], responses={200: Difference})
    def diff_quarantine(path: ToolPath, query: PlaceQuery) -> Response:
        """See what differs from the approved definition; the first lines name both digests."""
        acting_as(Role.VIEWER)
        return answer(Difference(lines=quarantine.difference(ToolId(path.tool), query.kind, query.name)))

    @api.post("/tools/<path:tool>/quarantine/approve", tags=[TAG], responses={200: Decided})
    def approve_definition(path: ToolPath, body: Verdict) -> Response:
        """Give clients a definition, if it is still the one that was seen."""
        actor = acting_as(Role.ADMIN)
        quarantine.approve(ToolId(path.tool), body.kind, body.name, body.digest, actor=actor.name)
        return answer(Decided(tool=path.tool, kind=body.kind, name=body.name, standing="approved"))

    @api.post("/tools/<path:tool>/quarantine/reject", tags=[TAG], responses={200: Decided})
    def reject_definition(path: ToolPath, body: Verdict) -> Response:
        """Keep a definition from clients for good, if it is still the one that was seen."""
        actor = acting_as(Role.ADMIN)
        quarantine.reject(ToolId(path.tool), body.kind, body.name, body.digest, actor=actor.name)
        return answer(Decided(tool=path.tool, kind=body.kind, name=body.name, standing="rejected"))


def _listed(found: Sequence[Waiting]) -> Response:
    items = [Unapproved.model_validate({**asdict(one), "changed": list(one.changed)}) for one in found]
    return answer(UnapprovedList(items=items))
