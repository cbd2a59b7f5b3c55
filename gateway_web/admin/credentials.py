"""``/admin/v1/credentials``: have all workers forget the secrets of tools that they keep, or take up new ones."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag
from pydantic import Field

from common.credentials.orders import CredentialOrders
from common.domain.ids import MAX_ID_LENGTH, TenantId, ToolId, checked_id
from common.identity.operators import Role
from gateway_web.admin.answers import answer
from gateway_web.admin.models import Answer, Asked
from gateway_web.admin.plane import Plane
from gateway_web.admin.session import acting_as

TAG = Tag(name="credentials", description="The secrets of tools that workers keep.")


class Which(Asked):
    """Whose credentials; with neither all."""

    tool: str | None = Field(default=None, min_length=1, max_length=MAX_ID_LENGTH)
    tenant: str | None = Field(default=None, min_length=1, max_length=MAX_ID_LENGTH)


class Ordered(Answer):
    """Each worker does it within a second."""

    tool: str | None
    tenant: str | None
    accepted: bool = True


def add_credentials(api: APIBlueprint, gateway: Plane) -> None:
    """Give the API the routes of credentials."""
    orders = CredentialOrders(gateway.client, gateway.keys)

    @api.post("/credentials/flush", tags=[TAG], responses={202: Ordered})
    def flush_credentials(body: Which) -> Response:
        """Ask the providers anew; sessions whose secrets turn out to be others are built anew."""
        return _give(orders.flush, body)

    @api.post("/credentials/rotate", tags=[TAG], responses={202: Ordered})
    def rotate_credentials(body: Which) -> Response:
        """Ask the providers anew and build new sessions; calls under way end on the old ones."""
        return _give(orders.rotate, body)


def _give(order: Callable[..., None], which: Which) -> Response:
    actor = acting_as(Role.OPERATOR)
    tool = None if which.tool is None else ToolId(checked_id(which.tool, field="body.tool"))
    tenant = None if which.tenant is None else TenantId(checked_id(which.tenant, field="body.tenant"))
    order(tool=tool, tenant=tenant, actor=actor.name)
    return answer(Ordered(tool=tool, tenant=tenant), status=202)
