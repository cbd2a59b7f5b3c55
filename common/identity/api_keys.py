"""Keys that were issued, in Redis: one hash for all records, and a number that counts their changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import structlog

from common.audit.journal import audit_command
from common.domain import api_key
from common.domain.api_key import ApiKeyRecord
from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import GatewayError, InvalidRequest, VersionConflict
from common.store.client import Client, WatchError, store_errors
from common.store.keys import Keys
from common.store.shared import SharedConnection

log = structlog.get_logger(__name__)

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
        """All that were issued and not revoked, the oldest first. The log names those that cannot be read."""
        with store_errors("reading the API keys"):
            found: Any = self._client.hgetall(self._keys.api_keys)
        records = [_readable(name.decode(errors="replace"), raw) for name, raw in found.items()]
        return sorted(filter(None, records), key=lambda record: (record.created_at, record.id))

    def get(self, key_id: str) -> ApiKeyRecord:
        """One of them. Raises :class:`InvalidRequest` if there is none of that id."""
        api_key.checked_key_id(key_id)
        with store_errors("reading the API keys"):
            raw: Any = self._client.hget(self._keys.api_keys, key_id)
        if raw is None:
            raise _unknown(key_id)
        return _record(raw)

    def is_there(self, key_id: str) -> bool:
        """Whether there is one of that id, be it one that cannot be read."""
        with store_errors("reading the API keys"):
            return bool(self._client.hexists(self._keys.api_keys, key_id))

    def rotate(self, key_id: str, *, grace: float, actor: str) -> tuple[ApiKeyRecord, str]:
        """Give a key another secret; the old one is good for ``grace`` seconds more. Raises :class:`InvalidRequest`."""
        made: list[tuple[ApiKeyRecord, str]] = []

        def change(raw: bytes | None) -> ApiKeyRecord:
            if raw is None:
                raise _unknown(key_id)
            made[:] = [api_key.rotate(_record(raw), grace=grace, now=self.now())]
            return made[0][0]

        self._write(key_id, change, EventKind.API_KEY_ROTATED, actor, reason=f"grace {grace:g} s")
        return made[0]

    def revoke(self, key_id: str, *, actor: str, reason: str = "") -> ApiKeyRecord | None:
        """Let a key be good no more, and forget it; what it was, None if that cannot be read.

        Raises :class:`InvalidRequest`.
        """

        def change(raw: bytes | None) -> None:
            if raw is None:
                raise _unknown(key_id)

        return self._write(key_id, change, EventKind.API_KEY_REVOKED, actor, reason=reason)

    def now(self) -> int:
        """Redis' time, in milliseconds."""
        with store_errors("reading the time"):
            seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def _write(
        self,
        key_id: str,
        change: Callable[[bytes | None], ApiKeyRecord | None],
        kind: EventKind,
        actor: str,
        *,
        reason: str = "",
    ) -> ApiKeyRecord | None:
        """Put ``change`` of the record in its place, unless somebody else changes one at the same time: then again.

        Returns what is there now, or what was if nothing is.
        """
        api_key.checked_key_id(key_id)
        keys = self._keys
        for _ in range(_TRIES):
            with store_errors("writing an API key"), self._client.pipeline(transaction=True) as pipe:
                pipe.watch(keys.api_keys)  # type: ignore[no-untyped-call]
                raw: Any = pipe.hget(keys.api_keys, key_id)
                after = change(raw)
                told = after or _readable(key_id, raw)
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
                return told
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


def _readable(key_id: str, raw: bytes) -> ApiKeyRecord | None:
    """The same, or None for what this reader cannot read: it must hide no other key, nor be kept from revocation."""
    try:
        return _record(raw)
    except (GatewayError, LookupError, TypeError, ValueError, AttributeError) as error:
        log.error("api_key_unreadable", id=key_id, error=repr(error))
        return None


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
