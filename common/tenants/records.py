"""What operators have set for tenants while the gateway runs: read, written, removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from common.domain.audit import EventKind, clipped
from common.domain.errors import GatewayError, InvalidRequest, VersionConflict
from common.domain.formats import check_format
from common.domain.ids import TenantId, checked_id
from common.domain.quota import Layer, layer_from_wire, layer_to_wire
from common.store.client import Client, store_errors
from common.store.keys import Keys
from common.store.scripts import run

log = structlog.get_logger(__name__)

ANY_VERSION = -1
ABSENT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRecord:
    """What was set for one tenant. ``version`` grows with each change, and is never given twice."""

    id: TenantId
    version: int
    layer: Layer


class TenantRecords:
    """Fails closed: without Redis every method raises ``StoreUnavailable``."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def all(self) -> dict[TenantId, TenantRecord]:
        """All records that can be read, by tenant."""
        with store_errors("reading the tenants"):
            found: Any = self._client.hgetall(self._keys.tenants_records)
        return {record.id: record for record in map(readable, found.keys(), found.values())}

    def get(self, tenant: TenantId) -> TenantRecord | None:
        """That of one tenant; None if nothing was set."""
        with store_errors("reading a tenant"):
            raw: Any = self._client.hget(self._keys.tenants_records, tenant)
        return None if raw is None else readable(tenant.encode(), raw)

    def put(self, tenant: TenantId, layer: Layer, *, actor: str, expected: int = ANY_VERSION) -> int:
        """Set what a tenant may use, in place of all that was set before; return the new version.

        ``expected`` is the version that the writer has read, ``ABSENT`` if there must be none. Raises
        :class:`VersionConflict` if it is another, :class:`InvalidRequest` that names the field.
        """
        checked_id(tenant, field="tenant")
        wire = layer_to_wire(layer)
        layer_from_wire(wire)
        text = orjson.dumps(wire).decode()
        done, version = self._change(tenant, text, expected, actor, EventKind.TENANT_CHANGED)
        if not done:
            raise _conflict(tenant, version, expected)
        return version

    def remove(self, tenant: TenantId, *, actor: str, expected: int = ANY_VERSION) -> None:
        """Forget what was set: the file holds again. Raises :class:`InvalidRequest` if nothing was, or
        :class:`VersionConflict`.
        """
        done, version = self._change(tenant, "", expected, actor, EventKind.TENANT_REMOVED)
        if not done and version == ABSENT:
            raise InvalidRequest(f"nothing was set for tenant {tenant!r} at run time", field="tenant")
        if not done:
            raise _conflict(tenant, version, expected)

    def _change(
        self, tenant: TenantId, text: str, expected: int, actor: str, kind: EventKind
    ) -> tuple[bool, int]:
        keys = self._keys
        with store_errors("changing a tenant"):
            done, version = run(
                self._client,
                "tenant_put",
                [keys.tenants_records, keys.tenants_version, keys.tenants_changes, keys.audit],
                [tenant, text, expected, keys.registry_channel, actor, kind, clipped(text)],
            )
        return bool(done), int(version)


def readable(name: bytes, raw: bytes) -> TenantRecord:
    """A record as Redis holds it. Fails closed: one that cannot be read keeps its tenant out until it is set anew."""
    tenant = TenantId(name.decode(errors="replace"))
    version, _, text = raw.partition(b" ")
    try:
        wire = orjson.loads(text)
        check_format(wire, what="what was set for a tenant")
        return TenantRecord(id=tenant, version=int(version), layer=layer_from_wire(wire))
    except (ValueError, TypeError, AttributeError, GatewayError) as error:
        log.error("tenant_unreadable", tenant=tenant, error=str(error))
        return TenantRecord(
            id=tenant, version=int(version) if version.isdigit() else ABSENT, layer={"enabled": False}
        )


def _conflict(tenant: TenantId, version: int, expected: int) -> VersionConflict:
    return VersionConflict(
        f"tenant {tenant!r} is at version {version}, not {expected}; read it again", version=version
    )
