"""What ``canalgate doctor`` finds of the keys of payloads: whether they are secrets, and open what lies in Redis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from common.calls.dead_letters import LETTER
from common.domain.errors import PayloadUnreadable
from common.registry.records import DEFINITION
from common.settings import RedisSettings
from common.store.client import Client, store_errors
from common.store.keys import Keys
from common.store.sealing import sealed_by
from gateway_web.cli.findings import Finding

MOST_TOOLS, MOST_LETTERS = 1000, 50
"""How many payloads that stay are looked at; those that pass are opened by whom they are for, or are gone."""
LEAST_DISTINCT = 10
"""Different characters in a secret. 32 random bytes have more, in hexadecimal and in base64."""


class _Payload(NamedTuple):
    what: str
    data: bytes
    place: tuple[str, ...]


def ring_findings(redis: RedisSettings) -> Iterator[Finding]:
    """Of the settings alone. That a secret is long enough they see to themselves."""
    ring = redis.encryption_keys
    if not ring:
        if redis.url is not None:
            yield Finding(True, "payloads lie in Redis in the clear: redis.encryption_keys is not set")
        return
    first: dict[str, str] = {}
    for key in ring:
        secret = key.secret.get_secret_value()
        if len(set(secret)) < LEAST_DISTINCT:
            yield Finding(
                False,
                f"encryption key {key.id}: its secret can be guessed: take one of `openssl rand -base64 32`",
            )
        other = first.setdefault(secret, key.id)
        if other != key.id:
            yield Finding(
                False, f"encryption key {key.id}: has the secret of {other}: a new key needs a new secret"
            )
    opens = ", ".join(key.id for key in ring[1:])
    yield Finding(
        True, f"encryption keys: {ring[0].id} seals" + (f", and these open as well: {opens}" if opens else "")
    )
    if redis.accept_plain:
        text = "redis.accept_plain: what nobody sealed is taken, from whoever can write to Redis"
        yield Finding(True, f"{text}; leave it out once everything is sealed")


def payload_findings(client: Client, keys: Keys) -> Iterator[Finding]:
    """Whether this process' keys open what stays in Redis: definitions of tools, and the newest dead letters.

    Reads only. Raises :class:`StoreUnavailable`.
    """
    unreadable: dict[str, list[str]] = defaultdict(list)
    older: dict[str, list[str]] = defaultdict(list)
    count = 0
    for payload in _sample(client, keys):
        count += 1
        try:
            keys.opened(payload.data, *payload.place)
        except PayloadUnreadable as error:
            unreadable[error.message].append(payload.what)
            continue
        sealer = sealed_by(payload.data)
        if keys.seals is not None and sealer != keys.seals.ids[0]:
            older[sealer or ""].append(payload.what)
    for message, whats in unreadable.items():
        yield Finding(False, f"payloads in Redis: {_named(whats)}: {message}")
    for sealer, whats in older.items():
        yield Finding(True, f"payloads in Redis: {_named(whats)}: {_advice(sealer)}")
    if count and not unreadable and keys.seals is not None:
        yield Finding(True, f"payloads in Redis: {count} were looked at, all of them can be opened")


def _sample(client: Client, keys: Keys) -> Iterator[_Payload]:
    with store_errors("looking at payloads"):
        scanned: Any = client.hscan(keys.registry_tools, count=MOST_TOOLS)
        letters: Any = client.xrevrange(keys.dead_letters, count=MOST_LETTERS)
    tools: dict[bytes, bytes] = scanned[1]
    for raw, data in sorted(tools.items()):
        name = raw.decode(errors="replace")
        yield _Payload(f"tool {name}", data, (DEFINITION, name))
    for letter, fields in letters:
        message = fields.get(b"message", b"")
        if sealed_by(message) is not None:  # others were never sealed: they came from strangers
            queue = fields.get(b"queue", b"").decode(errors="replace")
            yield _Payload(f"dead letter {letter.decode()}", message, (LETTER, queue))


def _named(whats: list[str]) -> str:
    return whats[0] if len(whats) == 1 else f"{whats[0]} and {len(whats) - 1} more"


def _advice(sealer: str) -> str:
    anew = "tools of run time are sealed anew by `canalgate tools update`, those of the file by a restart"
    if not sealer:
        return f"in the clear: {anew}"
    return f"sealed with the key {sealer}, which must stay until nothing is: {anew}"
