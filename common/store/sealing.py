"""Payloads in Redis, sealed: what callers send and backends answer is ciphertext wherever it lies.

AES-256-GCM. Each process seals under a key of its own, derived (HKDF-SHA256) from the first secret of the ring and a
salt that the process chose; its nonces count from 0. So no nonce is ever used twice, however many payloads a cluster
seals, which random ones could not promise beyond some 2^32. A sealed text names the secret and carries the salt: any
process with that secret opens it. It is bound to its place (what it is, and of which call or session), so it cannot be
moved to another.
"""

from __future__ import annotations

import binascii
import itertools
import os
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.domain.errors import PayloadUnreadable
from common.domain.ids import encode_part

MARK = "cgs1"
BEGINNING = b'{"sealed":"'
"""What every sealed payload begins with: JSON, since some lie inside of messages that are."""
_END = b'"}'
_SALT, _COUNT = 16, 8
_MOST_SENDERS = 4096


class SealingKey(NamedTuple):
    """A secret of the ring; ``id`` stands in what was sealed with it."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        """Without the secret."""
        return f"SealingKey(id={self.id!r})"


class Seals:
    """Seals with the first key of a ring, opens with any. Safe from any thread, and after a fork."""

    def __init__(self, ring: Sequence[SealingKey], *, prefix: str, accept_plain: bool = False) -> None:
        """``prefix`` is the gateway's; ``accept_plain`` takes payloads that nobody sealed."""
        self.accept_plain = accept_plain
        self.ids = tuple(key.id for key in ring)
        self._ring = {key.id: key.secret for key in ring}
        self._prefix = prefix
        self._derived = lru_cache(maxsize=_MOST_SENDERS)(self._derive)
        self._begin()
        _after_fork(self)

    def _begin(self) -> None:
        """A salt of this process's own: two that count the same nonces must not share a key."""
        self._salt = secrets.token_bytes(_SALT)
        self._counter = itertools.count()
        self._own = self._derived(self.ids[0], self._salt)

    def _derive(self, name: str, salt: bytes) -> AESGCM:
        info = f"canalgate payload|{name}".encode()
        return AESGCM(HKDF(hashes.SHA256(), 32, salt, info).derive(self._ring[name]))

    def text(self, data: bytes, *place: str) -> str:
        """The sealed text: ASCII without quotes."""
        count = next(self._counter).to_bytes(_COUNT, "big")
        sealed = self._own.encrypt(bytes(4) + count, data, self._bound(place))
        raw = binascii.b2a_base64(self._salt + count + sealed, newline=False)
        return f"{MARK}.{self.ids[0]}.{raw.decode()}"

    def seal(self, data: bytes, *place: str) -> bytes:
        """The payload as it may lie in Redis."""
        return b"%b%b%b" % (BEGINNING, self.text(data, *place).encode(), _END)

    def open_text(self, text: str, *place: str) -> bytes:
        """Inverse of :meth:`text`. Raises :class:`PayloadUnreadable`."""
        mark, _, rest = text.partition(".")
        name, _, encoded = rest.partition(".")
        if mark != MARK or name not in self._ring:
            known = ", ".join(self.ids)
            raise PayloadUnreadable(
                f"a payload is sealed with the key {name[:32]!r}, which is not one of this process's ({known}); "
                "give every process the same redis.encryption_keys"
            )
        try:
            raw = binascii.a2b_base64(encoded.encode("ascii"))
            salt, count, sealed = raw[:_SALT], raw[_SALT : _SALT + _COUNT], raw[_SALT + _COUNT :]
            return self._derived(name, salt).decrypt(bytes(4) + count, sealed, self._bound(place))
        except (InvalidTag, ValueError):
            raise PayloadUnreadable(
                f"a payload does not open with the key {name!r}: another process has another secret under that id, "
                "or the payload was changed or moved"
            ) from None

    def open(self, data: bytes, *place: str) -> bytes:
        """Inverse of :meth:`seal`; a plain payload is taken only with ``accept_plain``.

        Raises :class:`PayloadUnreadable`.
        """
        if data.startswith(BEGINNING):
            return self.open_text(data[len(BEGINNING) : -len(_END)].decode("ascii", "replace"), *place)
        if not self.accept_plain:
            raise unsealed()
        return data

    def _bound(self, place: tuple[str, ...]) -> bytes:
        return "|".join(map(encode_part, (self._prefix, *place))).encode()


def sealed_by(data: bytes) -> str | None:
    """The id of the key that a payload says it was sealed with; None for one that nobody sealed."""
    if not data.startswith(BEGINNING):
        return None
    _, _, rest = data[len(BEGINNING) :].partition(b".")
    return rest.partition(b".")[0].decode("ascii", "replace")


def unsealed() -> PayloadUnreadable:
    """The error for a payload that nobody sealed."""
    return PayloadUnreadable(
        "a payload was not sealed, and this process has redis.encryption_keys; give its sender the same keys, or set "
        "redis.accept_plain"
    )


def without_keys(data: bytes) -> bytes:
    """The payload for a process that has no keys. Raises :class:`PayloadUnreadable` for a sealed one."""
    if data.startswith(BEGINNING):
        raise no_keys()
    return data


def no_keys() -> PayloadUnreadable:
    """The error of a process without keys for a sealed payload."""
    return PayloadUnreadable(
        "a payload is sealed, and this process has no redis.encryption_keys; give it those of the others"
    )


def _after_fork(seals: Seals) -> None:
    """A child that went on counting with its parent's key would use nonces twice."""
    import weakref

    found = weakref.ref(seals)

    def begin_again() -> None:
        if (alive := found()) is not None:
            alive._begin()  # noqa: SLF001 - its own module

    os.register_at_fork(after_in_child=begin_again)
