"""What ``canalgate doctor`` sees of identity by looking outside: the issuer's keys, and whether any were issued."""

from __future__ import annotations

from collections.abc import Iterator

from common.credentials.subjects import joined_subjects
from common.identity.api_keys import ApiKeys
from common.settings import IdentitySettings, Settings
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.cli.findings import Finding


def jwks_findings(settings: Settings) -> Iterator[Finding]:
    """Whether the keys of the token's issuer can be had from here; nothing for gateways that take no tokens."""
    identity = settings.identity
    if identity.jwt is None or "jwt" not in identity.resolver or "://" not in identity.jwt.jwks:
        return  # a file is looked at with the settings
    from gateway_web.identity.fetching import NotFetched, read_document
    from gateway_web.identity.jwks import parsed

    try:
        found = parsed(read_document(identity.jwt.jwks, identity.jwt.jwks_timeout, settings.egress.rules))
    except NotFetched as error:
        yield Finding(False, f"identity.jwt.jwks: {error}")
        return
    yield Finding(True, f"identity.jwt.jwks: {len(found.keys)} keys")


def subject_findings(settings: Settings) -> Iterator[Finding]:
    """Entries of ``token_exchange`` by which subjects of several tenants could become one."""
    for text in joined_subjects(settings):
        yield Finding(False, text)


def key_findings(identity: IdentitySettings, client: Client, keys: Keys) -> Iterator[Finding]:
    """Whether anybody could have an API key, if the gateway takes any. Raises ``StoreUnavailable``."""
    if "api_key" not in identity.resolver or identity.api_keys:
        return
    count = len(ApiKeys(client, keys).list())
    if count:
        yield Finding(True, f"API keys: {count} issued")
    else:
        yield Finding(
            False, "API keys: none is in the settings, and none was issued: see `canalgate keys issue`"
        )
