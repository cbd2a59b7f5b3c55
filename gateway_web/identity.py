"""Who calls: the built-in resolvers, and how a custom one is loaded."""

from __future__ import annotations

import hashlib
import hmac
from importlib import import_module

import structlog

from common.domain.errors import (
    ConfigurationError,
    GatewayError,
    InternalError,
    InvalidRequest,
    Unauthenticated,
)
from common.domain.ids import ClientId, TenantId, checked_id
from common.domain.invocation import Caller
from common.ports import IdentityResolver, RequestFacts
from common.settings import IdentitySettings, Settings

log = structlog.get_logger(__name__)


class NobodyResolver:
    """Everybody is the same caller. The settings admit it on a loopback address only."""

    def __init__(self, settings: IdentitySettings) -> None:
        self._caller = Caller(
            tenant=TenantId(settings.default_tenant), client=ClientId(settings.default_client)
        )

    def resolve(self, request: RequestFacts) -> Caller:  # noqa: ARG002 - the port's signature
        """The one caller."""
        return self._caller


class HeaderResolver:
    """Trusts two headers: for a gateway behind a proxy that sets them and strips the client's own."""

    def __init__(self, settings: IdentitySettings) -> None:
        self._tenant = settings.tenant_header
        self._client = settings.client_header

    def resolve(self, request: RequestFacts) -> Caller:
        """The caller in the headers."""
        tenant, client = self._value(request, self._tenant), self._value(request, self._client)
        return Caller(tenant=TenantId(tenant), client=ClientId(client))

    @staticmethod
    def _value(request: RequestFacts, name: str) -> str:
        value = request.headers.get(name.lower(), "").strip()
        if not value:
            raise Unauthenticated(f"the header {name} is missing")
        # WSGI joins repeated headers by a comma: two of them must not read as one strange id.
        if "," in value:
            raise InvalidRequest(f"the header {name} was given twice, or holds a comma", field=name)
        return checked_id(value, field=name)


class ApiKeyResolver:
    """Static keys, sent as ``Authorization: Bearer <key>`` or ``X-API-Key: <key>``."""

    def __init__(self, settings: IdentitySettings) -> None:
        self._callers = {
            _digest(entry.key.get_secret_value()): Caller(
                tenant=TenantId(entry.tenant), client=ClientId(entry.client)
            )
            for entry in settings.api_keys
        }

    def resolve(self, request: RequestFacts) -> Caller:
        """The caller a key stands for."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "").strip()
        if not key:
            raise Unauthenticated("send an API key as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'")
        found = self._callers.get(_digest(key))
        if found is None:
            raise Unauthenticated("this API key is not known")
        return found


def _digest(key: str) -> bytes:
    """Keys are compared by digest, so that the time of a comparison tells nothing about a key."""
    return hmac.digest(b"canalgate-api-key", key.encode("utf-8", "surrogatepass"), hashlib.sha256)


BUILT_IN: dict[str, type[IdentityResolver]] = {
    "none": NobodyResolver,
    "header": HeaderResolver,
    "api_key": ApiKeyResolver,
}


def load_resolver(settings: IdentitySettings) -> IdentityResolver:
    """The resolver the settings name. Raises :class:`ConfigurationError`."""
    if settings.resolver in BUILT_IN:
        return BUILT_IN[settings.resolver](settings)  # type: ignore[call-arg]
    module, _, name = settings.resolver.partition(":")
    try:
        kind = getattr(import_module(module), name)
        resolver: IdentityResolver = kind(settings)
    except Exception as error:
        raise ConfigurationError(
            f"identity.resolver {settings.resolver!r} cannot be loaded: {error!r}", field="identity.resolver"
        ) from error
    if not callable(getattr(resolver, "resolve", None)):
        raise ConfigurationError(
            f"identity.resolver {settings.resolver!r} has no method resolve(request)",
            field="identity.resolver",
        )
    return resolver


def identity_problems(settings: Settings) -> list[str]:
    """What of the identity could never work, in words that name the fix. Empty: nothing found."""
    try:
        load_resolver(settings.identity)
    except ConfigurationError as error:
        return [error.message]
    if settings.tenants.allow_unlisted:
        return []
    listed = settings.listed_tenants
    if settings.identity.resolver == "api_key":
        unlisted = sorted({key.tenant for key in settings.identity.api_keys} - listed)
        return [
            f"an API key belongs to tenant {tenant!r}, which may not call: add it to tenants.listed"
            for tenant in unlisted
        ]
    if settings.identity.resolver == "header" and not listed:
        return ["no tenant may call: add them to tenants.listed, or set tenants.allow_unlisted"]
    return []


def identify(resolver: IdentityResolver, request: RequestFacts) -> Caller:
    """Ask the resolver. Fails closed: whatever else it raises, the request is refused."""
    try:
        caller = resolver.resolve(request)
    except GatewayError:
        raise
    except Exception as error:
        log.exception("identity_resolver_broke")
        raise InternalError("the caller could not be recognised") from error
    problem = _problem(caller)
    if problem is not None:
        log.error("identity_resolver_broke", problem=problem)
        raise InternalError("the caller could not be recognised")
    return caller


def _problem(caller: object) -> str | None:
    """Why what a resolver returned is no caller that can be sent on; None if it is one."""
    if not isinstance(caller, Caller):
        return f"it returned {type(caller).__name__}, not Caller"
    if not isinstance(caller.scopes, frozenset):
        return "scopes must be a frozenset"
    try:
        checked_id(caller.tenant, field="tenant")
        checked_id(caller.client, field="client")
        if caller.subject != "":
            checked_id(caller.subject, field="subject")
        for scope in caller.scopes:
            checked_id(scope, field="scopes")
    except InvalidRequest as error:
        return error.message
    return None
