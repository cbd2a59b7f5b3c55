"""``canalgate doctor`` says what keeps callers from being recognised."""

from __future__ import annotations

from typing import Any

import pytest

from common.identity.api_keys import ApiKeys
from common.settings import Settings
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.cli.doctor_identity import jwks_findings, key_findings
from gateway_web.identity import identity_problems
from tests.support.servers.issuer import jwk, running_issuer


def settings(**identity: Any) -> Settings:
    return Settings.model_validate({"identity": identity})


@pytest.mark.parametrize(
    ("behave", "good", "said"),
    [("well", True, "2 keys"), ("rubbish", False, "not JSON"), ("fails", False, "500")],
)
def test_the_issuers_keys_are_fetched(behave: str, good: bool, said: str) -> None:
    """As the web processes would."""
    with running_issuer() as issuer:
        issuer.keys = [jwk("ES256", "k1"), jwk("ES256", "k2")]
        issuer.behave = behave
        token = {"issuer": issuer.name, "jwks": issuer.jwks, "audience": "a", "tenant": "t"}
        (found,) = jwks_findings(settings(resolver="jwt", jwt=token))
        assert found.good is good
        assert said in found.text
        assert not list(jwks_findings(settings(jwt=token)))


def test_whether_there_is_any_key(client: Client, keys: Keys) -> None:
    """For gateways that take some, and have none in their file."""

    def found(**identity: Any) -> list[tuple[bool, str]]:
        section = settings(**identity).identity
        return [(finding.good, finding.text) for finding in key_findings(section, client, keys)]

    ((good, text),) = found(resolver="api_key")
    assert not good
    assert "canalgate keys issue" in text
    ApiKeys(client, keys).issue(tenant="t", client="c", actor="a")
    assert found(resolver="api_key") == [(True, "API keys: 1 issued")]
    assert found(resolver="none") == []
    assert found(resolver="api_key", api_keys=[{"key": "k", "tenant": "t", "client": "c"}]) == []


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (
            {"resolver": "api_key", "api_keys": [{"key": "k", "tenant": "t", "client": "c"}]},
            "add it to tenants.listed",
        ),
        ({"resolver": "mtls", "mtls": {"tenant": "t"}}, "identity.mtls gives its callers tenant 't'"),
        ({"resolver": "header"}, "no tenant may call"),
        ({"mtls": {"tenant": "default"}}, "mtls is not in identity.resolver"),
        (
            {"resolver": "mtls", "mtls": {"tenant": "default", "form": "listener"}},
            "set web.tls_client_auth to optional or required",
        ),
        ({"required_scopes": ["a"]}, "no resolver gives any"),
        ({"resolver": "no.such:Thing"}, "cannot be loaded"),
        (
            {
                "resolver": "jwt",
                "jwt": {"issuer": "i", "jwks": "/nonexistent", "audience": "a", "tenant": "t"},
            },
            "identity.jwt.jwks: /nonexistent: No such file",
        ),
    ],
)
def test_what_could_never_work_is_named(identity: dict[str, Any], words: str) -> None:
    """With its fix."""
    assert words in " ".join(identity_problems(settings(**identity)))
