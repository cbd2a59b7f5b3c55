"""Keys that were issued, in Redis: one hash for all records, and a number that counts their changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import orjson

from common.audit.journal import audit_command
from common.domain import api_key
from common.domain.api_key import ApiKeyRecord
from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import InvalidRequest, VersionConflict
from common.store.client import Client, WatchError, store_errors
from common.store.keys import Keys
from common.store.shared import SharedConnection

T = TypeVar("T", bound=ApiKeyRecord | None)
_TRIES = 5
_CHANGED_BY_OTHERS = "the keys are being changed by others; try again"


class ApiKeys:
    """What an operator does with keys. Each change is audited with it, or neither happens.

    Fails closed: without Redis each method raises ``StoreUnavailable``.
    """

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def issue(
        self,
        *,
        tenant: str,
        client: str,
        subject: str = "",
        scopes: tuple[str, ...] = (),
        note: str = "",
        expires_in: float | None = None,
        actor: str,
    ) -> tuple[ApiKeyRecord, str]:
        """Make a key, and tell it this once. ``expires_in`` is in seconds. Raises :class:`InvalidRequest`."""
        record, key = api_key.issue(
            tenant=tenant,
            client=client,
            subject=subject,
            scopes=scopes,
            note=note,
            expires_in=expires_in,
            now=self.now(),
            actor=actor,
        )
        self._write(record.id, lambda _: record, EventKind.API_KEY_ISSUED, actor)
        return record, key

    def list(self) -> list[ApiKeyRecord]:
        """All that were issued and not revoked, the oldest first."""
        with store_errors("reading the API keys"):
            found: Any = self._client.hgetall(self._keys.api_keys)
        records = [_record(raw) for raw in found.values()]
        return sorted(records, key=lambda record: (record.created_at, record.id))

    def get(self, key_id: str) -> ApiKeyRecord:
        """One of them. Raises :class:`InvalidRequest` if there is none of that id."""
        api_key.checked_key_id(key_id)
        with store_errors("reading the API keys"):
            raw: Any = self._client.hget(self._keys.api_keys, key_id)
        if raw is None:
            raise _unknown(key_id)
        return _record(raw)

    def rotate(self, key_id: str, *, grace: float, actor: str) -> tuple[ApiKeyRecord, str]:
        """Give a key another secret; the old one is good for ``grace`` seconds more. Raises :class:`InvalidRequest`."""
        made: list[str] = []

        def change(before: ApiKeyRecord | None) -> ApiKeyRecord:
            if before is None:
                raise _unknown(key_id)
            record, key = api_key.rotate(before, grace=grace, now=self.now())
            made[:] = [key]
            return record

        record = self._write(key_id, change, EventKind.API_KEY_ROTATED, actor, reason=f"grace {grace:g} s")
        return record, made[0]

    def revoke(self, key_id: str, *, actor: str, reason: str = "") -> ApiKeyRecord:
        """Let a key be good no more, and forget it; what it was. Raises :class:`InvalidRequest`."""
        found: list[ApiKeyRecord] = []

        def change(before: ApiKeyRecord | None) -> None:
            if before is None:
                raise _unknown(key_id)
            found[:] = [before]

        self._write(key_id, change, EventKind.API_KEY_REVOKED, actor, reason=reason)
        return found[0]

    def now(self) -> int:
        """Redis' time, in milliseconds."""
        with store_errors("reading the time"):
            seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def _write(
        self,
        key_id: str,
        change: Callable[[ApiKeyRecord | None], T],
        kind: EventKind,
        actor: str,
        *,
        reason: str = "",
    ) -> T:
        """Put ``change`` of the record in its place, unless somebody else changes one at the same time: then again."""
        api_key.checked_key_id(key_id)
        keys = self._keys
        for _ in range(_TRIES):
            with store_errors("writing an API key"), self._client.pipeline(transaction=True) as pipe:
                pipe.watch(keys.api_keys)  # type: ignore[no-untyped-call]
                raw: Any = pipe.hget(keys.api_keys, key_id)
                before = None if raw is None else _record(raw)
                after = change(before)
                told = after or before
                pipe.multi()
                if after is None:
                    pipe.hdel(keys.api_keys, key_id)
                else:
                    pipe.hset(keys.api_keys, key_id, orjson.dumps(api_key.record_to_wire(after)))
                pipe.incr(keys.api_keys_version)
                pipe.publish(keys.registry_channel, "api-keys")
                pipe.execute_command(*audit_command(keys, _event(kind, key_id, told, actor, reason)))  # type: ignore[no-untyped-call]
                try:
                    pipe.execute()
                except WatchError:
                    continue
                return after
        raise VersionConflict(_CHANGED_BY_OTHERS)


class IssuedKeys:
    """What a web process looks keys up in. ``version`` says which state of them it has seen: what was good under
    another one is to be looked up again.
    """

    def __init__(self, connection: SharedConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self.version = -1

    def refresh(self) -> bool:
        """See whether there were changes. Raises :class:`StoreUnavailable`."""
        with store_errors("reading the version of the API keys"):
            raw = self._connection.command("GET", self._keys.api_keys_version)
        version, self.version = self.version, int(raw or 0)
        return version != self.version

    def find(self, key_id: str) -> ApiKeyRecord | None:
        """The record of a key. Raises :class:`StoreUnavailable`: without Redis an issued key is good for nothing."""
        with store_errors("looking up an API key"):
            raw = self._connection.command("HGET", self._keys.api_keys, key_id)
        return None if raw is None else _record(raw)


def _record(raw: bytes) -> ApiKeyRecord:
    return api_key.record_from_wire(orjson.loads(raw))


def _event(kind: EventKind, key_id: str, record: ApiKeyRecord | None, actor: str, reason: str) -> AuditEvent:
    return AuditEvent(
        kind=kind,
        actor=actor,
        tenant="" if record is None else record.tenant,
        client="" if record is None else record.client,
        reason=reason,
        detail=f"key {key_id}",
    )


def _unknown(key_id: str) -> InvalidRequest:
    return InvalidRequest(
        f"there is no key {key_id}; `canalgate keys list` shows those there are", field="id"
    )
