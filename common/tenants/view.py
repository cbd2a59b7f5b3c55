"""A process's own view of the tenants: read without a round trip, refreshed by version.

What an operator set at run time lies over the file's entry for the tenant, and that over the file's bounds of all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from common.domain.errors import Forbidden
from common.domain.ids import TenantId
from common.domain.quota import Layer, Quota, layered
from common.settings import Settings
from common.store.client import Client, store_errors
from common.store.keys import Keys
from common.tenants.records import TenantRecord, TenantRecords, readable

FULL_RELOAD_BEHIND = 500


class Tenants:
    """The view. ``refresh`` is called by one thread at a time; reading is safe from any.

    It is behind Redis by the time of one notice, and by a second at most where that is lost. While Redis is away the
    last view holds.
    """

    def __init__(self, client: Client, keys: Keys, settings: Settings) -> None:
        self._client = client
        self._keys = keys
        self._lock = threading.Lock()
        self._records: Mapping[TenantId, TenantRecord] = {}
        self.take_over(settings)
        self.version = -1
        """Of the records; below 0 while they were not read."""

    def take_over(self, settings: Settings) -> None:
        """Let other settings hold from now on, below what was set at run time."""
        with self._lock:
            self._unlisted = settings.tenants.quota
            self._allow_unlisted = settings.tenants.allow_unlisted
            self._file = file_quotas(settings)
            self._put(self._records)

    def quota_of(self, tenant: str) -> Quota:
        """What a tenant may use, listed or not."""
        return self._quotas.get(tenant, self._unlisted)

    def bounded(self, most: int = 200) -> dict[TenantId, Quota]:
        """The quotas of tenants with a bound on calls at a time or a rate, of the first ``most`` of these by name."""
        found = sorted(name for name, quota in self._quotas.items() if quota.max_calls or quota.rate)
        return {TenantId(name): self._quotas[name] for name in found[:most]}

    def authorise(self, tenant: TenantId) -> Quota:
        """What a tenant may use. Raises :class:`Forbidden` for one that is suspended, or that nobody listed."""
        quota = self._quotas.get(tenant)
        if quota is None:
            if not self._allow_unlisted:
                raise Forbidden(
                    f"tenant {tenant!r} is not listed; add it to tenants.listed or set tenants.allow_unlisted"
                )
            quota = self._unlisted
        if not quota.enabled:
            raise Forbidden(f"tenant {tenant!r} is suspended")
        return quota

    def refresh(self) -> bool:
        """Catch up with the records; True if anything changed. Raises ``StoreUnavailable``."""
        with self._lock, store_errors("reading the tenants"):
            version = int(self._client.get(self._keys.tenants_version) or 0)
            behind = version - self.version
            if not behind:
                return False
            # A counter that went back means another or an emptied Redis.
            full = self.version < 0 or behind < 0 or behind > FULL_RELOAD_BEHIND
            records = TenantRecords(self._client, self._keys).all() if full else self._changed()
            self._put(records)
            # What changed behind the reading of the version is read once more.
            self.version = version
            return True

    def _changed(self) -> dict[TenantId, TenantRecord]:
        names: list[Any] = self._client.zrangebyscore(self._keys.tenants_changes, f"({self.version}", "+inf")
        records = dict(self._records)
        if not names:
            return records
        found: list[Any] = self._client.hmget(self._keys.tenants_records, names)
        for name, raw in zip(names, found, strict=True):
            if raw is None:
                records.pop(TenantId(name.decode()), None)
            else:
                records[TenantId(name.decode())] = readable(name, raw)
        return records

    def _put(self, records: Mapping[TenantId, TenantRecord]) -> None:
        self._records = records
        self._quotas: Mapping[str, Quota] = quotas_with(self._file, self._unlisted, records.values())


def file_quotas(settings: Settings) -> dict[str, Quota]:
    """The quotas of all tenants that the settings list."""
    below, layers = settings.tenants.quota, settings.tenants.layers
    return {tenant: layered(below, layers.get(tenant, _NOTHING)) for tenant in settings.listed_tenants}


def quotas_with(
    file: Mapping[str, Quota], unlisted: Quota, records: Iterable[TenantRecord]
) -> dict[str, Quota]:
    """Those of the file with what was set at run time over them."""
    return dict(file) | {
        record.id: layered(file.get(record.id, unlisted), record.layer) for record in records
    }


_NOTHING: Layer = {}
