"""What operators see and change of tenants: of the command line, and of every other way to say it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from common.domain.errors import InvalidRequest, VersionConflict
from common.domain.ids import TenantId
from common.domain.quota import FIELDS, Layer, Quota, values_from_wire
from common.settings import Settings
from common.store.client import Client
from common.store.keys import Keys
from common.tenants.records import ABSENT, ANY_VERSION, TenantRecord, TenantRecords
from common.tenants.usage import TenantUsage, usage_of
from common.tenants.view import file_quotas, quotas_with

MOST_ATTEMPTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantView:
    """A tenant as it holds now. ``record`` is what was set at run time, None if nothing was; ``listed`` whether the
    file names it.
    """

    id: TenantId
    quota: Quota
    listed: bool
    record: TenantRecord | None

    @property
    def version(self) -> int:
        """Of what was set at run time; 0 for nothing."""
        return ABSENT if self.record is None else self.record.version


class TenantDesk:
    """Fails closed: without Redis every method raises ``StoreUnavailable``."""

    def __init__(self, client: Client, keys: Keys, settings: Settings) -> None:
        self._client = client
        self._keys = keys
        self._records = TenantRecords(client, keys)
        self._file = file_quotas(settings)
        self._unlisted = settings.tenants.quota

    def all(self) -> list[TenantView]:
        """Those that the file lists or that something was set for, sorted."""
        records = self._records.all()
        names = sorted({*map(TenantId, self._file), *records})
        return [self._view(name, records.get(name)) for name in names]

    def get(self, tenant: TenantId) -> TenantView:
        """One tenant, listed or not."""
        return self._view(tenant, self._records.get(tenant))

    def change(
        self,
        tenant: TenantId,
        sets: Mapping[str, Any],
        unset: Collection[str] = (),
        *,
        actor: str,
        expected: int = ANY_VERSION,
    ) -> TenantView:
        """Set some fields (plain JSON; None is no bound), and have others again from the file; the rest stays.

        Raises :class:`InvalidRequest` that names the field, and :class:`VersionConflict` if the version is not the
        ``expected`` one, or others are always first.
        """
        for name in (*sets, *unset):
            if name not in FIELDS:
                raise InvalidRequest(
                    f"unknown field {name!r} of a quota; there are {', '.join(FIELDS)}", field=name
                )
        for attempt in range(MOST_ATTEMPTS):
            record = self._records.get(tenant)
            version = ABSENT if record is None else record.version
            layer = _changed({} if record is None else record.layer, values_from_wire(sets), unset)
            wanted = version if expected == ANY_VERSION else expected
            try:
                self._records.put(tenant, layer, actor=actor, expected=wanted)
            except VersionConflict:
                if expected != ANY_VERSION or attempt + 1 == MOST_ATTEMPTS:
                    raise
            else:
                return self.get(tenant)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def remove(self, tenant: TenantId, *, actor: str, expected: int = ANY_VERSION) -> None:
        """Forget what was set at run time. Raises :class:`InvalidRequest` if nothing was, :class:`VersionConflict`."""
        self._records.remove(tenant, actor=actor, expected=expected)

    def usage(self, tenants: Collection[TenantId] = ()) -> list[TenantUsage]:
        """What these tenants use now; all that :meth:`all` knows if none is named."""
        views = [self.get(tenant) for tenant in tenants] if tenants else self.all()
        return usage_of(self._client, self._keys, {view.id: view.quota for view in views})

    def _view(self, tenant: TenantId, record: TenantRecord | None) -> TenantView:
        quotas = quotas_with(self._file, self._unlisted, () if record is None else (record,))
        return TenantView(
            id=tenant,
            quota=quotas.get(tenant, self._unlisted),
            listed=tenant in self._file,
            record=record,
        )


def _changed(layer: Layer, sets: Layer, unset: Collection[str]) -> Layer:
    """A layer with some fields set and others taken out. A rate that is set anew has its own burst, or none."""
    kept = {name: value for name, value in layer.items() if name not in unset}
    for rate, burst in (
        ("requests_per_minute", "burst"),
        ("client_requests_per_minute", "client_burst"),
    ):
        if rate in sets or rate in unset:
            kept.pop(burst, None)
        elif burst in sets and rate in kept:
            sets = {rate: kept[rate], **sets}
    return {**kept, **sets}
