"""The public keys of a token's issuer (RFC 7517): fetched, kept, and fetched again when they change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from common.domain.errors import IdentityUnavailable
from common.mcp.jsonrpc import JsonRpcError, strict_json
from common.settings import JwtSettings
from gateway_web.identity.fetching import NotFetched
from gateway_web.identity.refusals import Reason, Unrecognised

log = structlog.get_logger(__name__)

MOST_KEYS = 100
LEAST_RSA_BITS = 2048
FIRST_AGAIN = 1.0
"""Seconds between two attempts while there are no keys at all."""
_KINDS: Mapping[str, tuple[str, str | None]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""The kind and curve of key that an algorithm goes with."""


@dataclass(slots=True)
class KeySet:
    """One state of the issuer's keys."""

    keys: list[dict[str, Any]]
    made: dict[tuple[str, str], PyJWK] = field(default_factory=dict)

    def find(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """The key of that id for that algorithm. A token without an id fits where there is only one such key."""
        if kid is not None and (made := self.made.get((kid, algorithm))) is not None:
            return made
        fitting = [key for key in self.keys if _fits(key, algorithm) and kid in (None, key.get("kid"))]
        if len(fitting) != 1:
            return None
        try:
            found = PyJWK(fitting[0], algorithm=algorithm)
        except (PyJWTError, ValueError, TypeError, KeyError):
            return None
        if getattr(found.key, "key_size", LEAST_RSA_BITS) < LEAST_RSA_BITS and fitting[0]["kty"] == "RSA":
            return None
        if kid is not None:
            self.made[kid, algorithm] = found
        return found


def parsed(raw: bytes) -> KeySet:
    """The keys of a document that we can use. Raises :class:`NotFetched` if it is no JWK set, or has none."""
    try:
        document = strict_json(raw)
    except JsonRpcError:
        raise NotFetched("it is not JSON") from None
    found = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise NotFetched("it is no JWK set: it has no list 'keys'")
    # A symmetric key in a public document is no secret: whoever reads it could sign.
    usable = [key for key in found[:MOST_KEYS] if isinstance(key, dict) and _public(key)]
    if not usable:
        raise NotFetched("it has no public key for signatures")
    return KeySet(usable)


def _public(key: Mapping[str, Any]) -> bool:
    operations = key.get("key_ops", ["verify"])
    return (
        key.get("kty") in ("RSA", "EC", "OKP")
        and key.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
    )


def _fits(key: Mapping[str, Any], algorithm: str) -> bool:
    kind, curve = _KINDS[algorithm]
    return (
        key["kty"] == kind
        and key.get("alg", algorithm) == algorithm
        and (curve is None or key.get("crv") == curve)
    )


class Jwks:
    """The keys, as they are now.

    Up to ``jwks_ttl`` they are used as they are. Beyond it they are fetched in the background, and used meanwhile; when
    that fails for ``jwks_max_stale`` more, nobody is let in by token (fails closed). A key that is not among them has
    them fetched at once, at most every ``jwks_cooldown`` seconds: so a new key is known within that time, and tokens
    with invented ones do not make us ask. What a token itself says of where its key is to be had is not looked at.
    ``read`` is what gets the document: its place and seconds go in, it raises :class:`NotFetched`.
    """

    def __init__(
        self,
        settings: JwtSettings,
        read: Callable[[str, float], bytes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._set: KeySet | None = None
        self._got_at = self._tried_at = float("-inf")
        self._in_background = False

    def find(self, kid: str | None, algorithm: str) -> PyJWK:
        """The key of a token. Raises :class:`Unrecognised` if there is none, :class:`IdentityUnavailable`."""
        found = self._current().find(kid, algorithm)
        if found is None and self._fetch(self._settings.jwks_cooldown):
            found = self._current().find(kid, algorithm)
        if found is None:
            raise Unrecognised(
                Reason.UNKNOWN_KID, "this token is signed by a key that its issuer does not publish"
            )
        return found

    def begin(self) -> None:
        """Fetch the keys in the background, so that the first request does not wait for them."""
        if self._in_background:
            return
        self._in_background = True
        try:
            threading.Thread(target=self._refresh, name="jwks", daemon=True).start()
        except RuntimeError as error:  # no thread to be had; whoever needs the keys next tries again
            self._in_background = False
            log.warning("jwks_not_fetched", reason=str(error))

    def _current(self) -> KeySet:
        found, age = self._set, self._clock() - self._got_at
        if found is not None and age <= self._settings.jwks_ttl:
            return found
        if found is not None and age <= self._settings.jwks_ttl + self._settings.jwks_max_stale:
            if self._clock() - self._tried_at >= min(self._settings.jwks_cooldown, self._settings.jwks_ttl):
                self.begin()
            return found
        self._fetch(min(FIRST_AGAIN, self._settings.jwks_cooldown))
        if self._set is None or self._clock() - self._got_at > self._settings.jwks_ttl:
            raise IdentityUnavailable(
                "the keys of the token's issuer cannot be had now; try again", retry_after=1
            )
        return self._set

    def _refresh(self) -> None:
        try:
            self._fetch(0.0)
        finally:
            self._in_background = False

    def _fetch(self, apart: float) -> bool:
        """Fetch, unless the last attempt was less than ``apart`` seconds ago; whether the keys are others since.

        Who comes while somebody fetches waits for that.
        """
        seen = self._set
        with self._lock:
            if self._set is not seen:
                return True
            if self._clock() - self._tried_at < apart:
                return False
            self._tried_at = self._clock()
            try:
                self._set = parsed(self._read(self._settings.jwks, self._settings.jwks_timeout))
            except NotFetched as error:
                log.warning("jwks_not_fetched", reason=str(error))
                return False
            self._got_at = self._clock()
            return True
