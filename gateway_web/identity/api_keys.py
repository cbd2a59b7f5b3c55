"""The resolver api_key: keys of the settings file, and keys that were issued while the gateway runs."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Protocol

from common.domain import api_key
from common.domain.api_key import ApiKeyRecord
from common.domain.ids import ClientId, TenantId
from common.domain.invocation import Caller
from common.ports import RequestFacts
from common.settings import IdentitySettings
from gateway_web.identity.cache import CredentialCache
from gateway_web.identity.credentials import api_key_header, bearer, looks_like_jwt
from gateway_web.identity.refusals import Reason, Unrecognised


class KeyLookup(Protocol):
    """Where issued keys are found: :class:`common.identity.api_keys.IssuedKeys`."""

    version: int

    def find(self, key_id: str) -> ApiKeyRecord | None:
        """The record of a key. Raises :class:`StoreUnavailable`."""


class ApiKeyResolver:
    """Keys sent as ``Authorization: Bearer <key>`` or ``X-API-Key: <key>``.

    A key of another form that stands behind ``Bearer`` is another resolver's only if it looks like a signed token.
    """

    def __init__(self, settings: IdentitySettings, issued: KeyLookup, now: Callable[[], int]) -> None:
        """``now`` tells Redis' time in milliseconds."""
        self._of_the_file = {
            _digest(entry.key.get_secret_value()): Caller(
                tenant=TenantId(entry.tenant),
                client=ClientId(entry.client),
                subject=entry.subject or "",
                scopes=frozenset(entry.scopes),
            )
            for entry in settings.api_keys
        }
        self._issued = issued
        self._now = now
        self._cache = CredentialCache(settings.cache_ttl)

    def resolve(self, request: RequestFacts) -> Caller | None:
        """The caller a key stands for."""
        token, key = bearer(request), api_key_header(request)
        given = key or token
        if not given:
            return None
        if given.startswith(api_key.PREFIX):
            return self._find(given)
        found = self._of_the_file.get(_digest(given))
        if found is not None:
            return found
        if not key and looks_like_jwt(token):
            return None
        raise _unknown()

    def _find(self, key: str) -> Caller:
        version = self._issued.version
        known = self._cache.get(key, version)
        if known is not None:
            return known
        if (of_the_file := self._of_the_file.get(_digest(key))) is not None:
            return of_the_file
        key_id = api_key.key_id_of(key)
        record = None if key_id is None else self._issued.find(key_id)
        if record is None:
            raise _unknown()
        now = self._now()
        until = record.good_until(key, now)
        if until == 0:
            raise (
                Unrecognised(Reason.EXPIRED, "this API key has expired")
                if record.expired(now)
                else _unknown()
            )
        left = None if until is None else (until - now) / 1000
        caller = record.caller
        self._cache.put(key, caller, generation=version, longest=left)
        return caller


def _unknown() -> Unrecognised:
    return Unrecognised(Reason.UNKNOWN_KEY, "this API key is not known")


def _digest(key: str) -> bytes:
    """Keys are compared by digest, so that the time of a comparison tells nothing about a key."""
    return hmac.digest(b"canalgate-api-key", key.encode("utf-8", "surrogatepass"), hashlib.sha256)
