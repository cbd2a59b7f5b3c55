"""``/admin/v1/keys``: API keys that the gateway issues. The secret of one is told once, to whoever asked for it."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag
from pydantic import Field

from common.domain.api_key import MAX_NOTE, MOST_SCOPES, ApiKeyRecord
from common.domain.ids import MAX_ID_LENGTH
from common.identity.api_keys import ApiKeys
from common.identity.operators import Role
from common.identity.use import key_warnings
from gateway_web.admin.answers import answer
from gateway_web.admin.models import Answer, Asked
from gateway_web.admin.paging import PageQuery, page
from gateway_web.admin.plane import Plane
from gateway_web.admin.problems import NotThere
from gateway_web.admin.session import acting_as

TAG = Tag(name="keys", description="API keys that are issued while the gateway runs.")
DAY = 86400.0
LONGEST = 1e9


class KeyPath(Asked):
    """Which key."""

    key: str = Field(pattern="^[0-9a-f]{16}$", description="Its `id`.")


class NewKey(Asked):
    """Whom a key stands for."""

    tenant: str = Field(min_length=1, max_length=MAX_ID_LENGTH)
    client: str = Field(min_length=1, max_length=MAX_ID_LENGTH)
    subject: str = Field(default="", max_length=MAX_ID_LENGTH, description="Who is behind the client.")
    scopes: list[str] = Field(default=[], max_length=MOST_SCOPES)
    note: str = Field(default="", max_length=MAX_NOTE, description="What it is for, for people.")
    expires_in: float | None = Field(
        default=None, gt=0, le=LONGEST, description="Seconds for which it is good; absent: for ever."
    )


class Rotation(Asked):
    """How a key is rotated."""

    grace: float = Field(
        default=DAY, ge=0, le=LONGEST, description="Seconds for which the old secret is good as well."
    )


class RevokeQuery(Asked):
    """Why a key is revoked."""

    reason: str = Field(default="", max_length=500, description="For the audit journal.")


class ApiKey(Answer):
    """What is kept of a key. Times are milliseconds of Redis time."""

    id: str
    tenant: str
    client: str
    subject: str
    scopes: list[str]
    note: str
    created_at: int
    created_by: str
    rotated_at: int | None
    expires_at: int | None = Field(description="null: never.")
    expired: bool
    old_secret_until: int | None = Field(description="Until when the secret before is good as well.")


class IssuedKey(ApiKey):
    """A key with its secret, which is shown this once: only its digest is kept."""

    key: str
    warnings: list[str] = Field(description="What would have it refused as things stand, with the fix.")


class KeyPage(Answer):
    """A page of keys."""

    items: list[ApiKey]
    next_cursor: str | None


def add_api_keys(api: APIBlueprint, gateway: Plane) -> None:
    """Give the API the routes of API keys."""
    service = ApiKeys(gateway.client, gateway.keys)

    def told(record: ApiKeyRecord, key: str, status: int) -> Response:
        warnings = list(key_warnings(gateway.settings, record.tenant))
        return answer(IssuedKey(**_shown(record, service.now()), key=key, warnings=warnings), status=status)

    @api.get("/keys", tags=[TAG], responses={200: KeyPage})
    def list_keys(query: PageQuery) -> Response:
        """List the keys that were issued and not revoked, the oldest first; those of the file are not among them."""
        acting_as(Role.VIEWER)
        now = service.now()
        items, cursor = page(service.list(), query, lambda key: f"{key.created_at:020d} {key.id}")
        return answer(KeyPage(items=[ApiKey(**_shown(key, now)) for key in items], next_cursor=cursor))

    @api.post("/keys", tags=[TAG], responses={201: IssuedKey})
    def issue_key(body: NewKey) -> Response:
        """Issue a key. Its secret is in this answer and nowhere else."""
        actor = acting_as(Role.ADMIN)
        asked = {**body.model_dump(), "scopes": tuple(body.scopes)}
        record, key = service.issue(**asked, actor=actor.name)
        return told(record, key, 201)

    @api.post("/keys/<key>/rotate", tags=[TAG], responses={200: IssuedKey})
    def rotate_key(path: KeyPath, body: Rotation) -> Response:
        """Give a key another secret, which is in this answer and nowhere else."""
        actor = acting_as(Role.ADMIN)
        _there(service, path.key)
        record, key = service.rotate(path.key, grace=body.grace, actor=actor.name)
        return told(record, key, 200)

    @api.delete("/keys/<key>", tags=[TAG], responses={204: None})
    def revoke_key(path: KeyPath, query: RevokeQuery) -> Response:
        """Let a key be good no more. Each web process knows within two seconds."""
        actor = acting_as(Role.ADMIN)
        _there(service, path.key)
        service.revoke(path.key, actor=actor.name, reason=query.reason)
        return Response(status=204)


def _there(service: ApiKeys, key_id: str) -> None:
    if not service.is_there(key_id):
        raise NotThere(f"there is no key {key_id}; take the id from the list", field="path.key")


def _shown(record: ApiKeyRecord, now: int) -> dict[str, Any]:
    """Without the digests: they are nobody's business."""
    same = {name: getattr(record, name) for name in ApiKey.model_fields if hasattr(record, name)}
    return {
        **same,
        "scopes": list(record.scopes),
        "expired": record.expired(now),
        "old_secret_until": record.previous_until if record.previous_until > now else None,
    }
