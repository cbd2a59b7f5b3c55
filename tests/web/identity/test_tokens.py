"""The resolver jwt: which tokens are taken, whose they are, and why all others are not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from common.domain.errors import GatewayError, InternalError, Unauthenticated
from common.settings import IdentitySettings
from gateway_web.identity import tokens
from gateway_web.identity.doorkeeper import Identity
from tests.support.servers.issuer import (
    AUDIENCE,
    HOUR,
    Issuer,
    encoded,
    forged_by_public_key,
    jwk,
    private_key,
)
from tests.web.identity.support import Noted, facts, identity_of, named, settings

LEEWAY = 10
ISSUER = Issuer(
    keys=[
        jwk("ES256", "k1"),
        jwk("RS256", "r1"),
        jwk("ES384", "e3"),
        jwk("EdDSA", "ed"),
        jwk("RS256", "weak"),
    ]
)


@pytest.fixture(scope="module")
def jwks(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("jwks") / "keys.json"
    file.write_bytes(orjson.dumps({"keys": ISSUER.keys}))
    return str(file)


def section(jwks: str, **changes: Any) -> IdentitySettings:
    token = {"issuer": ISSUER.name, "jwks": jwks, "audience": [AUDIENCE], "tenant_claim": "tenant", **changes}
    return settings("jwt", jwt={name: value for name, value in token.items() if value is not None})


@pytest.fixture
def noted() -> Noted:
    return Noted()


@pytest.fixture
def identity(jwks: str, noted: Noted) -> Identity:
    return identity_of(section(jwks, algorithms=["RS256", "ES256", "EdDSA"]), noted=noted)


def ask(identity: Identity, token: str, **changes: Any) -> Any:
    return named(identity, facts({"authorization": f"Bearer {token}"}, **changes))


@pytest.mark.parametrize(
    "make",
    [
        ISSUER.token,
        lambda: ISSUER.token(algorithm="RS256", kid="r1"),
        lambda: ISSUER.token(algorithm="EdDSA", kid="ed"),
        lambda: ISSUER.token(kid=None),
        lambda: ISSUER.token(header={"typ": "at+jwt"}),
        lambda: ISSUER.token(header={"typ": "application/AT+JWT"}),
        lambda: ISSUER.token(
            header={"jku": "https://evil.example/k", "x5u": "https://evil.example", "jwk": {"kty": "oct"}}
        ),
        lambda: ISSUER.token(aud=["https://other.example", AUDIENCE]),
        lambda: ISSUER.token(exp=int(time.time()) - LEEWAY + 5),
        lambda: ISSUER.token(nbf=int(time.time()) + LEEWAY - 5),
        lambda: ISSUER.token(exp=time.time() + 60.5),
    ],
)
def test_a_good_token_is_taken(identity: Identity, make: Callable[[], str], noted: Noted) -> None:
    """By each kind of key; what it says of where its key is to be had is not looked at."""
    token = make()
    assert [ask(identity, token), ask(identity, token)] == [("acme", "bot")] * 2
    assert noted.reasons == []


def later(seconds: float) -> int:
    return int(time.time() + seconds)


REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "expired": (lambda: ISSUER.token(exp=later(-LEEWAY - 2)), "expired"),
    "not yet valid": (lambda: ISSUER.token(nbf=later(LEEWAY + 5)), "not_yet_valid"),
    "issued in the future": (lambda: ISSUER.token(iat=later(HOUR)), "not_yet_valid"),
    "without an end": (lambda: ISSUER.token(exp=None), "claims"),
    "an end that is no time": (lambda: ISSUER.token(exp="soon"), "malformed"),
    "an endless end": (lambda: ISSUER.token(exp=float("inf")), "malformed"),
    "for somebody else": (lambda: ISSUER.token(aud="https://other.example"), "wrong_audience"),
    "for nobody": (lambda: ISSUER.token(aud=None), "claims"),
    "for an empty list": (lambda: ISSUER.token(aud=[]), "claims"),
    "for a part of us": (lambda: ISSUER.token(aud=AUDIENCE[:-1]), "wrong_audience"),
    "for a number": (lambda: ISSUER.token(aud=[7]), "wrong_audience"),
    "of another issuer": (lambda: ISSUER.token(iss="https://evil.example"), "wrong_issuer"),
    "of nobody": (lambda: ISSUER.token(iss=None), "claims"),
    "not signed": (ISSUER.unsigned, "algorithm"),
    "signed by the public key": (lambda: forged_by_public_key(ISSUER), "algorithm"),
    "an algorithm that is not allowed": (lambda: ISSUER.token(algorithm="ES384", kid="e3"), "algorithm"),
    "an unknown key": (lambda: ISSUER.token(kid="k9"), "unknown_kid"),
    "another key's name": (lambda: ISSUER.token(key=private_key("ES256", "k9")), "bad_signature"),
    "a key for another algorithm": (lambda: ISSUER.token(algorithm="RS256", kid="k1"), "unknown_kid"),
    "a weak key": (lambda: ISSUER.token(algorithm="RS256", kid="weak"), "unknown_kid"),
    "no name and several keys": (
        lambda: ISSUER.token(algorithm="RS256", kid=None, key=private_key("RS256", "r1")),
        "unknown_kid",
    ),
    "critical extensions": (lambda: ISSUER.token(header={"crit": ["exp"]}), "malformed"),
    "another type": (lambda: ISSUER.token(header={"typ": "logout+jwt"}), "token_type"),
    "no tenant": (lambda: ISSUER.token(tenant=None), "claims"),
    "a tenant that is no text": (lambda: ISSUER.token(tenant=["acme"]), "claims"),
    "an empty client": (lambda: ISSUER.token(client_id=""), "claims"),
    "a subject that is no text": (lambda: ISSUER.token(sub=7), "malformed"),
    "too long": (lambda: ISSUER.token(filler="x" * tokens.MAX_TOKEN), "malformed"),
    "not JSON": (lambda: f"{encoded(b'{')}.{encoded({})}.AAAA", "malformed"),
    "a header that is a list": (lambda: f"{encoded([])}.{encoded({})}.AAAA", "malformed"),
    "no header": (lambda: "a.b.c", "malformed"),
    "claims that are a list": (lambda: "e30.W10.AAAA", "algorithm"),
    "a signature that is cut": (lambda: ISSUER.token()[:-10], "bad_signature"),
    "other claims": (lambda: _swapped(ISSUER.token(), tenant="other"), "bad_signature"),
    "not a token": ("opaque".lower, "malformed"),
    "encrypted": (lambda: "a.b.c.d.e", "malformed"),
}


def _swapped(token: str, **changes: Any) -> str:
    header, _, signature = token.split(".")
    return f"{header}.{encoded(ISSUER.claims(**changes))}.{signature}"


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_token_is_refused(identity: Identity, noted: Noted, case: str) -> None:
    """With a reason of its own in the journal, and nothing of the token in what is said."""
    make, reason = REFUSED[case]
    token = make()
    with pytest.raises(GatewayError) as caught:
        identity.recognise(facts({"authorization": f"Bearer {token}"}))
    assert isinstance(caught.value, Unauthenticated)
    assert noted.reasons == [reason]
    assert token not in caught.value.message


def remembered(identity: Identity) -> list[float]:
    """For how many seconds more each token is remembered."""
    resolver = identity._resolvers[0]
    assert isinstance(resolver, tokens.JwtResolver)
    return [until - time.monotonic() for _, until, _ in resolver._cache._found.values()]


def test_a_token_is_remembered_no_longer_than_it_is_good(jwks: str) -> None:
    """Whatever the setting says; and not at all where only the leeway lets it pass."""
    identity = identity_of(section(jwks, leeway=LEEWAY))
    assert ask(identity, ISSUER.token(exp=later(-2))) == ("acme", "bot")
    assert remembered(identity) == []
    identity = identity_of(section(jwks).model_copy(update={"cache_ttl": 60.0}))
    assert ask(identity, ISSUER.token(exp=later(20))) == ("acme", "bot")
    (left,) = remembered(identity)
    assert left <= 20


def test_a_remembered_token_is_not_verified_again(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the time that the setting says."""
    token = ISSUER.token()
    assert ask(identity, token) == ("acme", "bot")
    monkeypatch.setattr(tokens.jwt, "decode", lambda *_, **__: {}["verified"])
    assert ask(identity, token) == ("acme", "bot")
    with pytest.raises(InternalError):
        identity.recognise(facts({"authorization": f"Bearer {ISSUER.token(jti='another')}"}))


@pytest.mark.parametrize(
    ("changes", "claims", "expected"),
    [
        ({"tenant_claim": None, "tenant": "fixed"}, {}, ("fixed", "bot", "ann", {"mcp"})),
        (
            {"client_claim": "azp", "subject_claim": "email"},
            {"azp": "app", "email": "a@b"},
            ("acme", "app", "a@b", {"mcp"}),
        ),
        (
            {"tenant_claim": "https://corp.example/org"},
            {"https://corp.example/org": "o"},
            ("o", "bot", "ann", {"mcp"}),
        ),
        ({"tenant_claim": "org.name"}, {"org": {"name": "o"}}, ("o", "bot", "ann", {"mcp"})),
        ({"scopes_claim": "scp"}, {"scp": ["a", "b", 7, "", "x" * 600]}, ("acme", "bot", "ann", {"a", "b"})),
        ({"scopes_claim": "realm.roles"}, {"realm": {"roles": ["r"]}}, ("acme", "bot", "ann", {"r"})),
        ({}, {"scope": None}, ("acme", "bot", "ann", set())),
        ({}, {"scope": "  a   b "}, ("acme", "bot", "ann", {"a", "b"})),
        ({}, {"scope": {"a": 1}}, ("acme", "bot", "ann", set())),
    ],
)
def test_what_the_claims_mean_is_set(
    jwks: str, changes: dict[str, Any], claims: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    """A claim by its name, or by a path of names; scopes as text or as a list."""
    token = ISSUER.token(**claims)
    caller = identity_of(section(jwks, **changes)).recognise(facts({"authorization": f"Bearer {token}"}))
    assert (caller.tenant, caller.client, caller.subject, caller.scopes) == expected


@pytest.mark.parametrize(
    ("path", "audience", "good"),
    [
        ("/mcp", AUDIENCE, True),
        ("/mcp", f"{AUDIENCE}/mcp", True),
        ("/mcp/", f"{AUDIENCE}/mcp", True),
        ("/servers/a b/mcp", f"{AUDIENCE}/servers/a%20b/mcp", True),
        ("/servers/a/mcp", AUDIENCE, True),
        ("/messages", f"{AUDIENCE}/sse", True),
        ("/mcp", f"{AUDIENCE}/servers/a/mcp", False),
        ("/servers/a/mcp", f"{AUDIENCE}/mcp", False),
        ("/servers/b/mcp", f"{AUDIENCE}/servers/a/mcp", False),
        ("/sse", f"{AUDIENCE}/mcp", False),
        ("/mcp", f"{AUDIENCE}/", False),
        ("/mcp", "https://other.example/mcp", False),
    ],
)
def test_a_token_may_be_for_one_endpoint(jwks: str, path: str, audience: str, good: bool) -> None:
    """By the URI that the settings give the gateway; and what is remembered of it counts there only."""
    token = {"issuer": ISSUER.name, "jwks": jwks, "tenant_claim": "tenant"}
    identity = identity_of(settings("jwt", jwt=token, oauth={"resource": AUDIENCE}))
    sent = ISSUER.token(aud=audience)
    ask(identity, sent, path="/servers/a/mcp")
    assert (ask(identity, sent, path=path) == ("acme", "bot")) is good


def test_keys_and_tokens_share_the_header(jwks: str) -> None:
    """Each resolver takes what has its form; what is refused is not another one's."""
    keys = [{"key": "plain", "tenant": "acme", "client": "key"}]
    for order in (("api_key", "jwt"), ("jwt", "api_key")):
        base = section(jwks)
        chain = settings(*order, api_keys=keys, jwt=base.jwt)
        identity = identity_of(chain)
        assert ask(identity, ISSUER.token()) == ("acme", "bot")
        assert ask(identity, "plain") == ("acme", "key")
        for wrong in (ISSUER.token(aud="x"), ISSUER.unsigned(), "wrong", "cgk_wrong"):
            assert ask(identity, wrong) is Unauthenticated
