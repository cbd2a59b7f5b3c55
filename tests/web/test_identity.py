"""Who calls: each resolver's table, and what becomes of a resolver that breaks."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.domain.errors import (
    ConfigurationError,
    Forbidden,
    GatewayError,
    InternalError,
    InvalidRequest,
    Unauthenticated,
)
from common.domain.ids import ClientId, TenantId
from common.domain.invocation import Caller
from common.ports import RequestFacts
from common.settings import IdentitySettings
from gateway_web.identity import identify, load_resolver

KEY, OTHER_KEY = "key-0123456789", "key-abcdefghij"


def facts(headers: dict[str, str]) -> RequestFacts:
    return RequestFacts(headers=headers, remote_address="127.0.0.1", path="/mcp")


def settings(resolver: str, **changes: Any) -> IdentitySettings:
    return IdentitySettings.model_validate({"resolver": resolver, **changes})


def who(identity: IdentitySettings, headers: dict[str, str]) -> tuple[str, str] | type[GatewayError]:
    """Tenant and client, or the refusal."""
    try:
        caller = identify(load_resolver(identity), facts(headers))
    except GatewayError as error:
        return type(error)
    return caller.tenant, caller.client


# -- none -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"x-tenant-id": "evil", "authorization": "Bearer x"}])
def test_without_identity_everybody_is_the_same(headers: dict[str, str]) -> None:
    """Whatever they say they are."""
    nobody = settings("none", default_tenant="home", default_client="me")
    assert who(nobody, headers) == ("home", "me")


# -- header ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-tenant-id": "acme", "x-client-id": "bot"}, ("acme", "bot")),
        ({"x-tenant-id": " acme\t", "x-client-id": "a b"}, ("acme", "a b")),
        ({"x-tenant-id": "auth0|1@x:y", "x-client-id": "https://c/?q#f"}, ("auth0|1@x:y", "https://c/?q#f")),
        ({}, Unauthenticated),
        ({"x-tenant-id": "acme"}, Unauthenticated),
        ({"x-client-id": "bot"}, Unauthenticated),
        ({"x-tenant-id": "", "x-client-id": "bot"}, Unauthenticated),
        ({"x-tenant-id": "acme", "x-client-id": "  "}, Unauthenticated),
        ({"x-tenant-id": "good,evil", "x-client-id": "bot"}, InvalidRequest),
        ({"x-tenant-id": "good, evil", "x-client-id": "bot"}, InvalidRequest),
        ({"x-tenant-id": "acme", "x-client-id": "bot,bot"}, InvalidRequest),
        ({"x-tenant-id": ",", "x-client-id": "bot"}, InvalidRequest),
        ({"x-tenant-id": "a" * 513, "x-client-id": "bot"}, InvalidRequest),
        ({"x-tenant": "acme", "x-client": "bot"}, Unauthenticated),
    ],
)
def test_trusted_headers(headers: dict[str, str], expected: object) -> None:
    """Both are needed, each once: WSGI joins two by a comma, and that is nobody's id."""
    assert who(settings("header"), headers) == expected


def test_the_headers_may_have_other_names() -> None:
    """In any case of letters."""
    renamed = settings("header", tenant_header="X-Org", client_header="X-App")
    assert who(renamed, {"x-org": "acme", "x-app": "bot"}) == ("acme", "bot")
    assert who(renamed, {"x-tenant-id": "acme", "x-client-id": "bot"}) is Unauthenticated


# -- api_key --------------------------------------------------------------------------------------------

KEYS = settings(
    "api_key",
    api_keys=[
        {"key": KEY, "tenant": "acme", "client": "bot"},
        {"key": OTHER_KEY, "tenant": "other", "client": "bot"},
    ],
)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"authorization": f"Bearer {KEY}"}, ("acme", "bot")),
        ({"authorization": f"bearer {KEY}"}, ("acme", "bot")),
        ({"authorization": f"BEARER   {KEY} "}, ("acme", "bot")),
        ({"authorization": f"Bearer {OTHER_KEY}"}, ("other", "bot")),
        ({"x-api-key": KEY}, ("acme", "bot")),
        ({"x-api-key": f" {KEY} "}, ("acme", "bot")),
        ({"authorization": "Basic eDp5", "x-api-key": KEY}, ("acme", "bot")),
        ({"authorization": f"Bearer {KEY}", "x-api-key": KEY}, ("acme", "bot")),
        ({}, Unauthenticated),
        ({"authorization": ""}, Unauthenticated),
        ({"authorization": "Bearer"}, Unauthenticated),
        ({"authorization": "Bearer "}, Unauthenticated),
        ({"authorization": KEY}, Unauthenticated),
        ({"authorization": f"Basic {KEY}"}, Unauthenticated),
        ({"authorization": f"Bearer {KEY}x"}, Unauthenticated),
        ({"authorization": f"Bearer {KEY[:-1]}"}, Unauthenticated),
        ({"authorization": f"Bearer {KEY.upper()}"}, Unauthenticated),
        ({"authorization": f"Bearer {KEY},Bearer {KEY}"}, Unauthenticated),
        ({"x-api-key": f"{KEY},{OTHER_KEY}"}, Unauthenticated),
        ({"x-api-key": "kéy"}, Unauthenticated),
        ({"x-api-key": "\udcff"}, Unauthenticated),
        ({"authorization": "Bearer wrong", "x-api-key": KEY}, Unauthenticated),
        ({"authorization": f"Bearer {KEY}", "x-api-key": OTHER_KEY}, ("acme", "bot")),
    ],
)
def test_api_keys(headers: dict[str, str], expected: object) -> None:
    """By either header; Authorization comes first, and one that is wrong is not made good by the other."""
    assert who(KEYS, headers) == expected


def test_refusals_do_not_repeat_the_key() -> None:
    """It may be a good one with a typing error."""
    for headers in ({"authorization": f"Bearer {KEY}x"}, {"x-api-key": f"{KEY},{KEY}"}):
        with pytest.raises(GatewayError) as caught:
            identify(load_resolver(KEYS), facts(headers))
        assert KEY not in f"{caught.value!r}{caught.value.data}"


def test_facts_do_not_show_headers() -> None:
    """Logs print reprs."""
    assert KEY not in repr(facts({"authorization": KEY}))


# -- resolvers that break -------------------------------------------------------------------------------


class Says:
    """A resolver that does what it is told."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def resolve(self, request: RequestFacts) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "fault", [ValueError("secret"), KeyError("secret"), RuntimeError(), AssertionError("secret"), OSError()]
)
def test_a_resolver_that_raises_refuses_the_request(fault: Exception) -> None:
    """Fails closed, and tells the caller nothing of the fault."""
    with pytest.raises(InternalError) as caught:
        identify(Says(fault), facts({}))
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("refusal", [Unauthenticated("no"), InvalidRequest("two"), Forbidden("never")])
def test_a_resolvers_own_refusal_is_passed_on(refusal: GatewayError) -> None:
    """It knows best."""
    with pytest.raises(type(refusal)) as caught:
        identify(Says(refusal), facts({}))
    assert caught.value is refusal


def caller(**changes: Any) -> Caller:
    return Caller(**{"tenant": TenantId("t"), "client": ClientId("c")} | changes)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "acme",
        {"tenant": "t", "client": "c"},
        ("t", "c"),
        SimpleNamespace(tenant="t", client="c", subject="", scopes=frozenset(), principal="p"),
        Caller,
        caller(tenant=""),
        caller(tenant=None),
        caller(tenant=7),
        caller(tenant="\ud800"),
        caller(client=""),
        caller(client="c" * 513),
        caller(subject=None),
        caller(subject="\ud800"),
        caller(scopes=None),
        caller(scopes="read"),
        caller(scopes={7}),
    ],
)
def test_a_resolver_that_answers_nonsense_refuses_the_request(answer: object) -> None:
    """What is no caller, or one that cannot be sent on, calls nothing."""
    with pytest.raises(InternalError, match="could not be recognised"):
        identify(Says(answer), facts({}))


def test_a_caller_of_any_ids_is_passed_on() -> None:
    """With subject and scopes."""
    wanted = caller(tenant="ü:|%", subject="", scopes=frozenset({"read", "ü"}))
    assert identify(Says(wanted), facts({})) is wanted


# -- custom resolvers -----------------------------------------------------------------------------------

MODULE = """
from common.domain.invocation import Caller

class Fixed:
    def __init__(self, settings):
        self.tenant = settings.default_tenant

    def resolve(self, request):
        return Caller(tenant=self.tenant, client=request.headers["x-who"])

class Mute:
    def __init__(self, settings): pass

class Lazy:
    def resolve(self, request): pass

class Broken:
    def __init__(self, settings): raise ValueError("no database")
    def resolve(self, request): pass

NOT_A_CLASS = 7
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules somebody else might have written."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "custom_identity.py").write_text(MODULE)
    (tmp_path / "raising_identity.py").write_text("raise RuntimeError('at import')\n")
    (tmp_path / "misspelled_identity.py").write_text("class X:\n  def\n")
    for name in ("custom_identity", "raising_identity", "misspelled_identity"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("modules")
def test_a_class_of_ones_own_is_loaded() -> None:
    """By its dotted path, made with the identity settings."""
    identity = settings("custom_identity:Fixed", default_tenant="acme")
    assert who(identity, {"x-who": "me"}) == ("acme", "me")


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    "path",
    [
        "no_such_module:X",
        "no.such.module:X",
        "custom_identity:Missing",
        "custom_identity:Lazy",
        "custom_identity:Mute",
        "custom_identity:Broken",
        "custom_identity:NOT_A_CLASS",
        "raising_identity:X",
        "misspelled_identity:X",
    ],
)
def test_a_class_that_cannot_be_had_is_a_configuration_error(path: str) -> None:
    """Whatever is wrong with it: the process does not start, and the message names the key and the path."""
    with pytest.raises(ConfigurationError) as caught:
        load_resolver(settings(path))
    assert caught.value.data == {"field": "identity.resolver"}
    assert f"identity.resolver '{path}'" in caught.value.message
