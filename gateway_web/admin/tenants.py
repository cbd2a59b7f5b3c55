"""``/admin/v1/tenants``: what tenants may use, set while the gateway runs, and what they use now."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag
from pydantic import Field, RootModel

from common.domain.ids import MAX_ID_LENGTH, TenantId, checked_id
from common.domain.quota import FIELDS, layer_to_wire
from common.identity.operators import Role
from common.tenants.desk import TenantDesk, TenantView
from common.tenants.usage import RateUsage, TenantUsage
from gateway_web.admin.answers import answer, at_version, etag, expected_version, matched
from gateway_web.admin.models import Answer, Asked, DefinitionHeaders, PatchHeaders
from gateway_web.admin.paging import PageQuery, page
from gateway_web.admin.plane import Plane
from gateway_web.admin.problems import NotThere
from gateway_web.admin.session import acting_as

TAG = Tag(name="tenants", description="What tenants may use.")
WHAT = "what was set"


class TenantPath(Asked):
    """Which tenant."""

    tenant: str = Field(min_length=1, max_length=MAX_ID_LENGTH, description="Name of the tenant.")


class Bounds(RootModel[dict[str, Any]]):
    """Fields of a quota, as in the settings file; null is no bound, and what is not named the file's holds for."""


class Tenant(Answer):
    """A tenant, and what it may use."""

    id: str
    listed: bool = Field(description="Whether the settings file names it.")
    version: int = Field(description="Of what was set at run time, which is its ETag too; 0: nothing was.")
    set: dict[str, Any] = Field(description="What was set at run time.")
    quota: dict[str, Any] = Field(description="What holds.")


class TenantPage(Answer):
    """A page of tenants."""

    items: list[Tenant]
    next_cursor: str | None


class Rate(Answer):
    """Requests that would pass at once now."""

    left: int
    per_minute: int
    burst: int


class CapabilityUse(Rate):
    """The same, of one capability."""

    tool: str
    name: str


class Usage(Answer):
    """What a tenant uses now; null is not counted, since no bound asks for it."""

    tenant: str
    requests: Rate | None
    capabilities: list[CapabilityUse]
    calls: int | None
    max_calls: int | None
    sessions: int
    max_sessions: int | None
    mcp_sessions: int | None
    max_mcp_sessions: int | None


def add_tenants(api: APIBlueprint, gateway: Plane) -> None:
    """Give the API the routes of tenants."""

    def desk() -> TenantDesk:
        return TenantDesk(gateway.client, gateway.keys, gateway.settings)

    @api.get("/tenants", tags=[TAG], responses={200: TenantPage})
    def list_tenants(query: PageQuery) -> Response:
        """List the tenants that the file names, or that something was set for."""
        acting_as(Role.VIEWER)
        items, cursor = page(desk().all(), query, lambda view: view.id)
        return answer(TenantPage(items=[_shown(view) for view in items], next_cursor=cursor))

    @api.get("/tenants/<path:tenant>", tags=[TAG], responses={200: Tenant})
    def get_tenant(path: TenantPath) -> Response:
        """Get what a tenant may use, whether it is listed or not. The ETag is the version of what was set."""
        acting_as(Role.VIEWER)
        return _told(desk().get(_name(path)))

    @api.get("/tenants/<path:tenant>/usage", tags=[TAG], responses={200: Usage})
    def get_usage(path: TenantPath) -> Response:
        """Get what a tenant uses now."""
        acting_as(Role.VIEWER)
        (found,) = desk().usage([_name(path)])
        return answer(_usage(found))

    @api.put("/tenants/<path:tenant>", tags=[TAG], responses={200: Tenant, 201: Tenant})
    def put_tenant(path: TenantPath, header: DefinitionHeaders, body: Bounds) -> Response:
        """Set what a tenant may use, in place of all that was set at run time before; `enabled: false` suspends it.

        Needs `If-None-Match: *` (nothing was set), `If-Match: "<version>"` or `If-Match: *`, as tools do.
        """
        actor, tenant = acting_as(Role.ADMIN), _name(path)
        before = desk().get(tenant)
        expected = expected_version(header, before.version if before.record else None)
        if before.record is None or layer_to_wire(before.record.layer) != body.root:
            unset = [name for name in FIELDS if name not in body.root]
            at_version(
                WHAT,
                lambda: desk().change(tenant, body.root, unset, actor=actor.name, expected=expected),
            )
        return _told(desk().get(tenant), created=before.record is None)

    @api.delete("/tenants/<path:tenant>", tags=[TAG], responses={204: None})
    def remove_tenant(path: TenantPath, header: PatchHeaders) -> Response:
        """Forget what was set at run time: the settings file holds again."""
        actor, tenant = acting_as(Role.ADMIN), _name(path)
        view = desk().get(tenant)
        if view.record is None:
            raise NotThere(f"nothing was set for tenant {tenant!r} at run time", field="path.tenant")
        expected = matched(WHAT, header.if_match, view.version)
        at_version(WHAT, lambda: desk().remove(tenant, actor=actor.name, expected=expected))
        return Response(status=204)


def _name(path: TenantPath) -> TenantId:
    return TenantId(checked_id(path.tenant, field="path.tenant"))


def _told(view: TenantView, *, created: bool = False) -> Response:
    return answer(_shown(view), status=201 if created else 200, headers={"ETag": etag(view.version)})


def _shown(view: TenantView) -> Tenant:
    return Tenant(
        id=view.id,
        listed=view.listed,
        version=view.version,
        set={} if view.record is None else layer_to_wire(view.record.layer),
        quota=layer_to_wire({name: getattr(view.quota, name) for name in FIELDS}),
    )


def _usage(one: TenantUsage) -> Usage:
    quota = one.quota
    limits = zip(quota.capabilities, one.capabilities, strict=True)
    return Usage(
        tenant=one.tenant,
        requests=None if one.requests is None else Rate(**_rate(one.requests)),
        capabilities=[
            CapabilityUse(tool=at.tool, name=at.name, **_rate(used))
            for at, used in limits
            if used is not None
        ],
        calls=one.calls,
        max_calls=quota.max_calls,
        sessions=one.sessions,
        max_sessions=quota.max_sessions,
        mcp_sessions=one.mcp_sessions,
        max_mcp_sessions=quota.max_mcp_sessions,
    )


def _rate(used: RateUsage) -> dict[str, int]:
    return {"left": used.left, "per_minute": used.rate.per_minute, "burst": used.rate.burst}
