"""From settings to the resolvers they name, and what of them could never work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from common.control.reload import Commit
from common.domain.api_key import ApiKeyRecord
from common.domain.egress import EgressRules
from common.domain.errors import ConfigurationError
from common.gateway import Gateway
from common.ports import IdentityResolver
from common.settings import IdentitySettings, Settings
from common.settings.changes import SettingsChanges
from gateway_web.identity.api_keys import ApiKeyResolver, KeyLookup
from gateway_web.identity.custom import load_custom
from gateway_web.identity.doorkeeper import Identity
from gateway_web.identity.failures import Failures
from gateway_web.identity.proxies import TrustedProxies
from gateway_web.identity.static import HeaderResolver, NobodyResolver


class NoKeys:
    """No issued keys: for whoever only asks whether the settings would do."""

    version = 0

    def find(self, key_id: str) -> ApiKeyRecord | None:  # noqa: ARG002 - the port's signature
        """None."""
        return None


def load_identity(gateway: Gateway) -> Identity:
    """The identity of a web process. Raises :class:`ConfigurationError` for resolvers that cannot be loaded."""
    settings = gateway.settings.identity
    egress = gateway.settings.egress.rules
    resolvers = load_resolvers(settings, egress, gateway.issued_keys, gateway.clock.now, begin=True)
    failures = Failures(gateway.client, gateway.keys, gateway.figures)
    identity = Identity(resolvers, settings, TrustedProxies(gateway.settings.web), failures)
    gateway.follow(failures.flush)
    gateway.reloading(lambda changes: _prepared(gateway, identity, changes))
    if "api_key" in settings.resolver:

        def look() -> None:
            if gateway.issued_keys.refresh():
                identity.watches.call()

        gateway.follow(look)
    return identity


def _prepared(gateway: Gateway, identity: Identity, changes: SettingsChanges) -> Commit | None:
    """The resolvers of other settings. Raises :class:`ConfigurationError`."""
    if "identity" not in changes.sections:
        return None
    settings, egress = changes.settings.identity, changes.settings.egress.rules
    resolvers = load_resolvers(settings, egress, gateway.issued_keys, gateway.clock.now, begin=True)
    return lambda: identity.take_over(resolvers, settings)


def load_resolvers(
    settings: IdentitySettings,
    egress: EgressRules,
    issued: KeyLookup,
    now: Callable[[], int],
    *,
    begin: bool = False,
) -> list[IdentityResolver]:
    """The resolvers in their order. ``now`` is Redis' time in ms; ``begin`` lets them fetch what they need beforehand,
    from where ``egress`` lets them.

    Raises :class:`ConfigurationError`.
    """
    return [_load(name, settings, egress, issued, now, begin=begin) for name in settings.resolver]


def _load(
    name: str,
    settings: IdentitySettings,
    egress: EgressRules,
    issued: KeyLookup,
    now: Callable[[], int],
    *,
    begin: bool,
) -> IdentityResolver:
    if name == "none":
        return NobodyResolver(settings)
    if name == "header":
        return HeaderResolver(settings)
    if name == "api_key":
        return ApiKeyResolver(settings, issued, now)
    if name == "mtls" and settings.mtls is not None:
        from gateway_web.identity.certificates import CertificateResolver

        return CertificateResolver(settings.mtls)
    if name == "jwt" and settings.jwt is not None:
        # The cryptography library takes its time to load: for those who use it.
        from gateway_web.identity.fetching import read_document
        from gateway_web.identity.jwks import Jwks
        from gateway_web.identity.tokens import JwtResolver

        keys = Jwks(settings.jwt, partial(read_document, egress=egress))
        if begin:
            keys.begin()
        return JwtResolver(settings, settings.jwt, keys)
    return load_custom(name, settings)


def identity_problems(settings: Settings) -> list[str]:
    """What of the identity could never work, in words that name the fix. Empty: nothing found."""
    try:
        load_resolvers(settings.identity, settings.egress.rules, NoKeys(), lambda: int(time.time() * 1000))
    except ConfigurationError as error:
        return [error.message]
    return list(_problems(settings))


def _problems(settings: Settings) -> Iterator[str]:
    identity, listed = settings.identity, settings.listed_tenants
    if not settings.tenants.allow_unlisted:
        named = {"an API key belongs to": {key.tenant for key in identity.api_keys}}
        if identity.jwt is not None and identity.jwt.tenant is not None:
            named["identity.jwt gives its callers"] = {identity.jwt.tenant}
        if identity.mtls is not None and identity.mtls.tenant is not None:
            named["identity.mtls gives its callers"] = {identity.mtls.tenant}
        for who, tenants in named.items():
            for tenant in sorted(tenants - listed):
                yield f"{who} tenant {tenant!r}, which may not call: add it to tenants.listed"
        if not listed:
            yield "no tenant may call: add them to tenants.listed, or set tenants.allow_unlisted"
    for name in ("jwt", "mtls"):
        if getattr(identity, name) is not None and name not in identity.resolver:
            yield f"identity.{name} is set, but {name} is not in identity.resolver: it has no effect"
    certificates = identity.mtls if "mtls" in identity.resolver else None
    if (
        certificates is not None
        and certificates.form == "listener"
        and settings.web.tls_client_auth == "none"
    ):
        yield (
            "identity.mtls.form is listener, but nobody is asked for a certificate: set web.tls_client_auth to "
            "optional or required"
        )
    if (
        identity.required_scopes
        and {"none", "header"} >= set(identity.resolver)
        and not identity.scopes_header
    ):
        yield "nobody could have the scopes in identity.required_scopes: no resolver gives any"
    if identity.jwt is not None and "jwt" in identity.resolver:
        yield from _jwks_problems(settings)


def _jwks_problems(settings: Settings) -> Iterator[str]:
    """A file is looked at; what a URL holds only shows when it is fetched."""
    from gateway_web.identity.fetching import NotFetched, read_document
    from gateway_web.identity.jwks import parsed

    token = settings.identity.jwt
    if token is None or "://" in token.jwks:
        return
    try:
        parsed(read_document(token.jwks, token.jwks_timeout, settings.egress.rules))
    except NotFetched as error:
        yield f"identity.jwt.jwks: {error}"
