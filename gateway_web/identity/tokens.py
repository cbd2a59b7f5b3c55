"""The resolver jwt: tokens signed by an authorization server (RFC 7519, RFC 8725, RFC 9068)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jwt
from jwt import exceptions as faults

from common.domain.errors import InvalidRequest
from common.domain.ids import ClientId, TenantId, checked_id
from common.domain.invocation import Caller
from common.ports import RequestFacts
from common.settings import IdentitySettings, JwtSettings
from gateway_web.identity.cache import CredentialCache
from gateway_web.identity.credentials import bearer, looks_like_jwt
from gateway_web.identity.jwks import Jwks
from gateway_web.identity.oauth import resource_of
from gateway_web.identity.refusals import Reason, Unrecognised

MAX_TOKEN = 16 * 1024
MOST_SCOPES = 200
_FAULTS: tuple[tuple[type[Exception], Reason, str], ...] = (
    (faults.ExpiredSignatureError, Reason.EXPIRED, "this token has expired"),
    (faults.ImmatureSignatureError, Reason.NOT_YET_VALID, "this token is not valid yet"),
    (faults.InvalidAudienceError, Reason.AUDIENCE, "this token is not for this gateway"),
    (faults.InvalidIssuerError, Reason.ISSUER, "this token is of an issuer that is not trusted here"),
    (
        faults.MissingRequiredClaimError,
        Reason.CLAIMS,
        "this token lacks a claim that is needed: exp, iss or aud",
    ),
    (faults.InvalidAlgorithmError, Reason.ALGORITHM, "this token is signed in a way that is not taken here"),
    (faults.InvalidSignatureError, Reason.SIGNATURE, "the signature of this token is wrong"),
)
_OPTIONS: Any = {"require": ["exp", "iss", "aud"]}


class JwtResolver:
    """Tokens sent as ``Authorization: Bearer <token>``."""

    def __init__(
        self,
        settings: IdentitySettings,
        token: JwtSettings,
        keys: Jwks,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._token = token
        self._keys = keys
        self._resource = None if settings.oauth is None else settings.oauth.resource
        self._types = frozenset(_plain_type(name) for name in token.types)
        self._cache = CredentialCache(settings.cache_ttl)
        self._wall = wall

    def resolve(self, request: RequestFacts) -> Caller | None:
        """The caller a token speaks for."""
        token = bearer(request)
        if not token or not looks_like_jwt(token):
            return None
        # A token may be for one endpoint, so what was found out at another says nothing here.
        place = "" if self._resource is None else resource_of(self._resource, request.path)
        remembered = f"{place}\n{token}"
        known = self._cache.get(remembered)
        if known is not None:
            return known
        claims = self._verified(token, place)
        caller = self._caller(claims)
        self._cache.put(remembered, caller, longest=int(claims["exp"]) - self._wall())
        return caller

    def _verified(self, token: str, place: str) -> Mapping[str, Any]:
        if len(token) > MAX_TOKEN:
            raise Unrecognised(Reason.MALFORMED, f"this token is longer than {MAX_TOKEN} characters")
        audience = [*self._token.audience, *({place, str(self._resource)} if place else ())]
        try:
            header = jwt.get_unverified_header(token)
            algorithm = self._checked(header)
            found: Mapping[str, Any] = jwt.decode(
                token,
                self._keys.find(header.get("kid"), algorithm),
                algorithms=[algorithm],
                audience=audience,
                issuer=self._token.issuer,
                leeway=self._token.leeway,
                options=_OPTIONS,
            )
        except faults.PyJWTError as error:
            raise _refusal(error) from None
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise Unrecognised(Reason.MALFORMED, "this token is malformed") from None
        return found

    def _checked(self, header: Mapping[str, Any]) -> str:
        """The algorithm in a header that we take."""
        algorithm = header.get("alg")
        if algorithm not in self._token.algorithms or "crit" in header or "b64" in header:
            raise Unrecognised(Reason.ALGORITHM, "this token is signed in a way that is not taken here")
        kind = header.get("typ", "JWT")
        if not isinstance(kind, str) or _plain_type(kind) not in self._types:
            raise Unrecognised(Reason.TOKEN_TYPE, "this is not a kind of token that is taken here")
        return str(algorithm)

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        token = self._token
        tenant = token.tenant or self._text(claims, str(token.tenant_claim))
        return Caller(
            tenant=TenantId(tenant),
            client=ClientId(self._text(claims, token.client_claim)),
            subject=self._text(claims, token.subject_claim),
            scopes=_scopes(_claim(claims, token.scopes_claim)),
        )

    @staticmethod
    def _text(claims: Mapping[str, Any], name: str) -> str:
        try:
            return checked_id(_claim(claims, name), field=name)
        except InvalidRequest:
            raise Unrecognised(
                Reason.CLAIMS, f"the claim {name} of this token is missing, or cannot name anybody"
            ) from None


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its whole name (which may be a URL), else by a path of names with dots between them."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _scopes(claim: Any) -> frozenset[str]:
    """The scopes in a claim. What cannot be one gives no right, so it is left out."""
    words = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return frozenset(
        word
        for word in words[:MOST_SCOPES]
        if isinstance(word, str) and 0 < len(word) <= 512 and word.isascii()
    )


def _plain_type(name: str) -> str:
    """``typ`` may leave out ``application/`` and has no case (RFC 7515, section 4.1.9)."""
    return name.lower().removeprefix("application/")


def _refusal(error: faults.PyJWTError) -> Unrecognised:
    for kind, reason, message in _FAULTS:
        if isinstance(error, kind):
            return Unrecognised(reason, message)
    return Unrecognised(Reason.MALFORMED, "this token is malformed")
