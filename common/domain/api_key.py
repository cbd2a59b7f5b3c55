"""API keys that the gateway issues: their form, and what is kept of them. The secret itself is not.

A key reads ``cgk_<id>_<secret>``: the prefix for whoever searches texts for leaked keys, the id by which its record is
found with one look, and 256 random bits. So many bits cannot be guessed from a digest: a plain SHA-256 is enough.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from common.domain.errors import InvalidRequest
from common.domain.formats import check_format
from common.domain.ids import ClientId, TenantId, checked_id
from common.domain.invocation import Caller

PREFIX = "cgk_"
_KEY = re.compile(r"cgk_([0-9a-f]{16})_[A-Za-z0-9_-]{43}", re.ASCII)
_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,512}")
MOST_SCOPES = 100
MAX_NOTE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeyRecord:
    """What is kept of a key. Times are milliseconds of Redis time; None: never.

    ``digest`` is of the key that is good now; ``previous`` of the one before it, good until ``previous_until``.
    """

    id: str
    tenant: str
    client: str
    subject: str = ""
    scopes: tuple[str, ...] = ()
    note: str = ""
    digest: str
    previous: str = ""
    previous_until: int = 0
    created_at: int
    created_by: str
    rotated_at: int | None = None
    expires_at: int | None = None

    @property
    def caller(self) -> Caller:
        """Whom the key stands for."""
        return Caller(
            tenant=TenantId(self.tenant),
            client=ClientId(self.client),
            subject=self.subject,
            scopes=frozenset(self.scopes),
        )

    def good_until(self, key: str, now: int) -> int | None:
        """Until when the key is one of this record, or 0 if it is none at ``now``; None: for ever.

        The time it takes does not depend on how much of the key is right.
        """
        found = digest(key)
        current = hmac.compare_digest(found, self.digest)
        before = hmac.compare_digest(found, self.previous or "-" * len(found))
        if self.expires_at is not None and self.expires_at <= now:
            return 0
        if current:
            return self.expires_at
        if before and self.previous_until > now:
            return min(self.previous_until, self.expires_at or self.previous_until)
        return 0

    def expired(self, now: int) -> bool:
        """Whether it is good for nobody any more."""
        return self.expires_at is not None and self.expires_at <= now


def new_key() -> tuple[str, str]:
    """An id, and the key with it."""
    key_id = secrets.token_hex(8)
    return key_id, _key(key_id)


def _key(key_id: str) -> str:
    return f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}"


def key_id_of(key: str) -> str | None:
    """The id in a key; None for what has not the form of one."""
    found = _KEY.fullmatch(key)
    return None if found is None else found[1]


def digest(key: str) -> str:
    """What is kept instead of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def issue(
    *,
    tenant: str,
    client: str,
    subject: str = "",
    scopes: tuple[str, ...] = (),
    note: str = "",
    expires_in: float | None = None,
    now: int,
    actor: str,
) -> tuple[ApiKeyRecord, str]:
    """A new record, and its key, which is told this once. ``expires_in`` is in seconds.

    Raises :class:`InvalidRequest` that names the field.
    """
    checked_id(tenant, field="tenant")
    checked_id(client, field="client")
    if subject:
        checked_id(subject, field="subject")
    if len(scopes) > MOST_SCOPES or not all(map(_SCOPE.fullmatch, scopes)):
        raise InvalidRequest(
            f"scopes must be at most {MOST_SCOPES}, of visible ASCII without spaces, quotes and backslashes",
            field="scopes",
        )
    if len(note) > MAX_NOTE or not note.isprintable():
        raise InvalidRequest(f"note must be at most {MAX_NOTE} printable characters", field="note")
    if expires_in is not None and not 0 < expires_in < 10**10:
        raise InvalidRequest("expires must be above 0", field="expires")
    key_id, key = new_key()
    record = ApiKeyRecord(
        id=key_id,
        tenant=tenant,
        client=client,
        subject=subject,
        scopes=tuple(sorted(set(scopes))),
        note=note,
        digest=digest(key),
        created_at=now,
        created_by=actor,
        expires_at=None if expires_in is None else now + int(expires_in * 1000),
    )
    return record, key


def rotate(record: ApiKeyRecord, *, grace: float, now: int) -> tuple[ApiKeyRecord, str]:
    """The record with another key, and that key. The one before is good for ``grace`` seconds more.

    Raises :class:`InvalidRequest` for a key that has expired: nobody could use the new one either.
    """
    if not 0 <= grace < 10**10:
        raise InvalidRequest("grace must be 0 or more", field="grace")
    if record.expired(now):
        raise InvalidRequest(f"key {record.id} has expired: issue another one", field="id")
    key = _key(record.id)
    return replace(
        record,
        digest=digest(key),
        previous=record.digest if grace else "",
        previous_until=now + int(grace * 1000) if grace else 0,
        rotated_at=now,
    ), key


def checked_key_id(value: str) -> str:
    """The id as it stands in a key. Raises :class:`InvalidRequest`; a whole key is not repeated."""
    if not _ID.fullmatch(value):
        raise InvalidRequest(
            "the id of a key is the 16 characters between cgk_ and the second underscore", field="id"
        )
    return value


def record_to_wire(record: ApiKeyRecord) -> dict[str, Any]:
    """The record as plain JSON."""
    return {"v": 1, **asdict(record)}


def record_from_wire(wire: Mapping[str, Any]) -> ApiKeyRecord:
    """Inverse of :func:`record_to_wire`. What a newer writer has added is left out.

    Raises GatewayError, LookupError, TypeError or ValueError for what cannot be read.
    """
    check_format(wire, what="what is kept of an API key")
    known = {field.name: wire[field.name] for field in fields(ApiKeyRecord) if field.name in wire}
    record = ApiKeyRecord(**{**known, "scopes": tuple(wire["scopes"])})
    _check_types(record)
    return record


def _check_types(record: ApiKeyRecord) -> None:
    texts = (record.id, record.tenant, record.client, record.subject, record.note, record.created_by)
    digests = (record.digest, record.previous)
    times = (record.created_at, record.previous_until)
    maybe = [time for time in (record.rotated_at, record.expires_at) if time is not None]
    if not all(isinstance(text, str) for text in (*texts, *digests, *record.scopes)):
        raise TypeError("a text in what is kept of an API key is none")
    if not all(isinstance(time, int) for time in (*times, *maybe)):
        raise TypeError("a time in what is kept of an API key is none")
