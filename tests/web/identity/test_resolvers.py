"""Who calls: each resolver's table, the chain, and what becomes of a resolver that breaks."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.domain.egress import STRICT
from common.domain.errors import (
    ConfigurationError,
    Forbidden,
    GatewayError,
    InsufficientScope,
    InternalError,
    InvalidRequest,
    Unauthenticated,
)
from common.domain.ids import ClientId, TenantId
from common.domain.invocation import Caller
from common.ports import RequestFacts
from gateway_web.identity import custom
from gateway_web.identity.loading import load_resolvers
from tests.web.identity.support import (
    Issued,
    Noted,
    facts,
    identity_of,
    named,
    no_thread_once,
    settings,
    who,
)

KEY, OTHER_KEY = "key-0123456789", "key-abcdefghij"


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


@pytest.mark.parametrize("headers", [{"x-tenant-id": "acme", "x-client-id": "bot"}, {"x-client-id": "bot"}])
def test_headers_of_a_stranger_are_refused(headers: dict[str, str]) -> None:
    """Not passed over: whoever sends them without being the proxy claims to be somebody."""
    chain = settings("header", "none", default_tenant="home", default_client="me")
    assert who(chain, headers, from_proxy=False) is Unauthenticated
    assert who(chain, {}, from_proxy=False) == ("home", "me")


def test_the_header_resolver_can_name_subject_and_scopes() -> None:
    """By headers that the settings name, with the same rules."""
    section = settings("header", subject_header="X-Subject", scopes_header="X-Scopes")
    sent = {"x-tenant-id": "t", "x-client-id": "c", "x-subject": "ann", "x-scopes": " read  write "}
    caller = identity_of(section).recognise(facts(sent))
    assert (caller.subject, caller.scopes) == ("ann", {"read", "write"})
    assert who(section, {**sent, "x-subject": "ann,bob"}) is InvalidRequest
    assert who(section, {"x-subject": "ann"}) is Unauthenticated


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
        ({"authorization": f"Bearer {KEY},Bearer {KEY}"}, InvalidRequest),
        ({"x-api-key": f"{KEY},{OTHER_KEY}"}, InvalidRequest),
        ({"x-api-key": "kéy"}, Unauthenticated),
        ({"x-api-key": "\udcff"}, Unauthenticated),
        ({"authorization": "Bearer wrong", "x-api-key": KEY}, InvalidRequest),
        ({"authorization": f"Bearer {KEY}", "x-api-key": OTHER_KEY}, InvalidRequest),
        ({"cookie": f"authorization=Bearer {KEY}"}, Unauthenticated),
    ],
)
def test_api_keys(headers: dict[str, str], expected: object) -> None:
    """By either header, and once: which of two is meant cannot be said."""
    assert who(KEYS, headers) == expected


def test_refusals_do_not_repeat_the_key() -> None:
    """It may be a good one with a typing error."""
    for headers in ({"authorization": f"Bearer {KEY}x"}, {"x-api-key": f"{KEY},{KEY}"}):
        with pytest.raises(GatewayError) as caught:
            identity_of(KEYS).recognise(facts(headers))
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


def asked(*resolvers: Any, headers: dict[str, str] | None = None, noted: Noted | None = None) -> Caller:
    """What the chain of these resolvers says."""
    identity = identity_of(settings("api_key"), resolvers=resolvers, noted=noted)
    return identity.recognise(facts(headers or {}))


@pytest.mark.parametrize(
    "fault", [ValueError("secret"), KeyError("secret"), RuntimeError(), AssertionError("secret"), OSError()]
)
def test_a_resolver_that_raises_refuses_the_request(fault: Exception) -> None:
    """Fails closed, and tells the caller nothing of the fault."""
    with pytest.raises(InternalError) as caught:
        asked(Says(fault))
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("refusal", [Unauthenticated("no"), InvalidRequest("two"), Forbidden("never")])
def test_a_resolvers_own_refusal_is_passed_on(refusal: GatewayError) -> None:
    """It knows best."""
    with pytest.raises(type(refusal)) as caught:
        asked(Says(refusal))
    assert caught.value is refusal


def caller(**changes: Any) -> Caller:
    return Caller(**{"tenant": TenantId("t"), "client": ClientId("c")} | changes)


@pytest.mark.parametrize(
    "answer",
    [
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
        asked(Says(answer))


def test_a_caller_of_any_ids_is_passed_on() -> None:
    """With subject and scopes."""
    wanted = caller(tenant="ü:|%", subject="", scopes=frozenset({"read", "ü"}))
    assert asked(Says(wanted)) is wanted


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
        load_resolvers(settings(path), STRICT, Issued(), lambda: 0)
    assert caught.value.data == {"field": "identity.resolver"}
    assert f"identity.resolver '{path}'" in caught.value.message


# -- plug-ins, and time -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("modules")
def test_a_resolver_is_found_by_the_entry_point_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its plain name; one that no package offers is refused by the settings."""
    about = tmp_path / "corp-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: corp\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[canalgate.identity]\ncorp = custom_identity:Fixed\n")
    assert who(settings("corp", default_tenant="acme"), {"x-who": "me"}) == ("acme", "me")
    with pytest.raises(ValueError, match=r"canalgate\.identity: corp"):
        settings("crop")


class Slow:
    """A resolver that waits for its test."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def resolve(self, request: RequestFacts) -> Caller:
        self.go.wait(20)
        return caller()


def test_a_resolver_that_hangs_refuses_the_request_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those beyond the bound at once; when it goes on, it is asked again."""
    monkeypatch.setattr(custom, "MOST_UNDER_WAY", 1)
    slow = Slow()
    bounded = custom.Bounded(slow, 0.05)
    noted = Noted()
    for _ in range(2):
        with pytest.raises(InternalError, match="could not be recognised"):
            asked(bounded, noted=noted)
    assert noted.reasons == ["resolver_broke"] * 2
    slow.go.set()
    assert bounded._slots.acquire(timeout=10)
    bounded._slots.release()
    assert asked(custom.Bounded(slow, 10)) == caller()


def test_a_question_without_a_thread_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is refused, and the next one is asked about."""
    monkeypatch.setattr(custom, "MOST_UNDER_WAY", 1)
    no_thread_once(monkeypatch, custom)
    bounded = custom.Bounded(Says(caller()), 10)
    with pytest.raises(InternalError, match="could not be recognised"):
        asked(bounded)
    assert asked(bounded) == caller()


@pytest.mark.parametrize("fault", [RuntimeError("secret"), SystemExit(1)])
def test_what_a_resolver_raises_in_its_thread_refuses_the_request(fault: BaseException) -> None:
    """Whatever it is."""
    with pytest.raises(InternalError) as caught:
        asked(custom.Bounded(Says(fault), 0.5))
    assert "secret" not in caught.value.message


# -- the chain --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([None, "one"], "one"),
        (["one", "two"], "one"),
        ([Unauthenticated("wrong"), "two"], Unauthenticated),
        ([Forbidden("never"), "two"], Forbidden),
        ([RuntimeError(), "two"], InternalError),
        ([7, "two"], InternalError),
        ([None, None], Unauthenticated),
    ],
)
def test_the_first_that_knows_the_kind_of_credential_decides(answers: Sequence[Any], expected: Any) -> None:
    """What one has refused no other one lets in."""
    given = [Says(caller(client=answer) if isinstance(answer, str) else answer) for answer in answers]
    found = named(identity_of(settings("api_key"), resolvers=given), facts({}))
    assert found == (("t", expected) if isinstance(expected, str) else expected)


def test_a_wrong_key_is_not_everybody() -> None:
    """With a chain that ends in none only who sends no credential is that."""
    chain = settings("api_key", "none", api_keys=[{"key": KEY, "tenant": "acme", "client": "bot"}])
    assert who(chain, {}) == ("default", "default")
    assert who(chain, {"x-api-key": KEY}) == ("acme", "bot")
    for headers in ({"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}):
        assert who(chain, headers) is Unauthenticated


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("access_token=x", 400),
        ("session_id=a&ACCESS_TOKEN=x", 400),
        ("api%5Fkey=x", 400),
        ("token", 400),
        ("session_id=token", 401),
        ("", 401),
    ],
)
def test_a_credential_in_the_url_is_refused(query: str, status: int) -> None:
    """Whatever else is sent: URLs get into logs."""
    with pytest.raises(GatewayError) as caught:
        identity_of(KEYS).recognise(facts({}, query=query))
    assert caught.value.meaning.http == status


def test_scopes_that_all_need() -> None:
    """Who lacks one is told all that are needed."""
    keys = [
        {"key": KEY, "tenant": "acme", "client": "bot", "scopes": ["mcp", "more"], "subject": "ann"},
        {"key": OTHER_KEY, "tenant": "acme", "client": "bot", "scopes": ["mcp"]},
    ]
    section = settings("api_key", api_keys=keys, required_scopes=["more", "mcp"])
    found = identity_of(section).recognise(facts({"x-api-key": KEY}))
    assert (found.subject, found.scopes) == ("ann", {"mcp", "more"})
    with pytest.raises(InsufficientScope) as caught:
        identity_of(section).recognise(facts({"x-api-key": OTHER_KEY}))
    assert caught.value.data == {"scopes": "mcp more"}


def test_each_refusal_is_noted() -> None:
    """By one word."""
    noted = Noted()
    identity = identity_of(KEYS, noted=noted)
    for headers in (
        {},
        {"x-api-key": "wrong"},
        {"authorization": "Bearer a,b"},
        {"authorization": "Basic x"},
    ):
        assert isinstance(named(identity, facts(headers)), type)
    assert noted.reasons == ["missing", "unknown_key", "ambiguous", "malformed"]
    assert named(identity, facts({"x-api-key": KEY})) == ("acme", "bot")
    assert len(noted.reasons) == 4
