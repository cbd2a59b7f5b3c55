"""``requestState``: what a modern client is given for a call that waits for its input, and gives back with it.

Source: 2026-07-28, "Multi round-trip requests": the server must treat what comes back as hostile. So it is sealed
(AES-256-GCM) and bound to its principal, to the tool and to what was asked, and it expires.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common.domain.errors import InvalidRequest
from common.domain.ids import InvocationId, encode_part
from common.domain.invocation import Invocation
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.shared import SharedConnection

PREFIX = "cg1."
"""What ours begin with; those of backends pass through unread."""
READ_AGAIN, READ_ANYHOW = 1.0, 60.0
"""Seconds for which a key is trusted if it opens nothing, and in any case."""
_NONCE = 12
_PASSING = frozenset({"_meta", "inputResponses", "requestState"})
"""Members of the params that may differ between a call and its retry."""
UNUSABLE = (
    "requestState is none of this call's, was answered already or has expired: make the call again without it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingCall:
    """The call that waits, and the ids of what it asked."""

    invocation: InvocationId
    requests: tuple[str, ...]


class RequestStates:
    """Seals and opens. The key is the cluster's, made by the first process that needs it. Fails closed."""

    def __init__(self, connection: SharedConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._cipher: AESGCM | None = None
        self._read_at = float("-inf")

    def seal(self, invocation: Invocation, requests: Sequence[str], *, expires: int) -> str:
        """The state for a call that asked ``requests``; ``expires`` is in ms of Redis time.

        Raises :class:`StoreUnavailable`.
        """
        told = orjson.dumps([invocation.id, list(requests), expires])
        nonce = secrets.token_bytes(_NONCE)
        sealed = nonce + self._key().encrypt(nonce, told, _bound(invocation))
        return PREFIX + base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open(self, state: str, invocation: Invocation, *, now: int) -> WaitingCall:
        """The waiting call that the state is of, for a retry (``invocation``) of it.

        Raises :class:`InvalidRequest` for any other, and :class:`StoreUnavailable`.
        """
        raw, bound = _unpacked(state), _bound(invocation)
        told = self._opened(raw, bound)
        if told is None and time.monotonic() - self._read_at > READ_AGAIN:
            # A Redis that was emptied has another key by now.
            self._cipher = None
            told = self._opened(raw, bound)
        if told is None:
            raise InvalidRequest(UNUSABLE, field="params.requestState")
        name, requests, expires = orjson.loads(told)
        if expires < now:
            raise InvalidRequest(UNUSABLE, field="params.requestState")
        return WaitingCall(invocation=InvocationId(name), requests=tuple(requests))

    def _opened(self, raw: bytes, bound: bytes) -> bytes | None:
        try:
            return self._key().decrypt(raw[:_NONCE], raw[_NONCE:], bound)
        except InvalidTag:
            return None

    def _key(self) -> AESGCM:
        if self._cipher is None or time.monotonic() - self._read_at > READ_ANYHOW:
            with store_errors("reading the key of request states"):
                self._connection.command("SET", self._keys.seal_key, secrets.token_bytes(32), "NX")
                self._cipher = AESGCM(self._connection.command("GET", self._keys.seal_key))
            self._read_at = time.monotonic()
        return self._cipher


def is_ours(state: object) -> bool:
    """Whether a state claims to be one of this gateway's."""
    return isinstance(state, str) and state.startswith(PREFIX)


def _unpacked(state: str) -> bytes:
    text = state.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    if len(raw) <= _NONCE:
        raise InvalidRequest(UNUSABLE, field="params.requestState")
    return raw


def _bound(invocation: Invocation) -> bytes:
    """What the state holds for, and for nothing else."""
    params: Mapping[str, Any] = {
        name: value for name, value in invocation.params.items() if name not in _PASSING
    }
    digest = hashlib.sha256(orjson.dumps(params, option=orjson.OPT_SORT_KEYS)).hexdigest()
    parts = (
        invocation.caller.principal,
        encode_part(invocation.tool),
        encode_part(invocation.method),
        digest,
    )
    return "|".join(parts).encode()
