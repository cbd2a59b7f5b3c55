"""The resolver mtls: what a trusted proxy says of a client's certificate, in Envoy's form and in nginx's."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import pytest

from common.domain.errors import InvalidRequest, Unauthenticated
from common.settings import IdentitySettings
from tests.web.identity.support import facts, identity_of, named, settings

SUBJECT = 'Hash=ab;Subject="CN=bot,OU=x,O=Acme\\\\, Inc.,C=US";URI=spiffe://td/bot;DNS=a.example'


def section(**changes: Any) -> IdentitySettings:
    return settings("mtls", mtls={"tenant": "acme", **changes})


def ask(part: IdentitySettings, value: str, header: str = "x-forwarded-client-cert", **changes: Any) -> Any:
    return named(identity_of(part), facts({header: value}, **changes))


@pytest.mark.parametrize(
    ("changes", "value", "expected"),
    [
        ({}, SUBJECT, ("acme", "bot")),
        ({"client_attribute": "ou"}, SUBJECT, ("acme", "x")),
        ({"tenant": None, "tenant_attribute": "O"}, SUBJECT, ("Acme, Inc.", "bot")),
        ({"source": "uri"}, SUBJECT, ("acme", "spiffe://td/bot")),
        ({"source": "dns"}, SUBJECT, ("acme", "a.example")),
        ({}, 'subject="CN=bot"', ("acme", "bot")),
        ({}, "Subject=CN=bot", ("acme", "bot")),
        ({}, 'Subject="/CN=bot"', Unauthenticated),
        ({}, 'Subject=""', Unauthenticated),
        ({}, "Hash=ab", Unauthenticated),
        ({}, 'Subject="CN=a";Subject="CN=b"', Unauthenticated),
        ({"source": "dns"}, "DNS=a;DNS=b", Unauthenticated),
        ({"source": "uri"}, "URI=", Unauthenticated),
        ({}, 'Subject="CN=evil",Subject="CN=bot"', InvalidRequest),
        ({}, "Hash=a,Hash=b", InvalidRequest),
        ({}, 'Subject="CN=a,CN=b"', InvalidRequest),
        ({}, 'Subject="O=x"', Unauthenticated),
        ({}, 'Subject="CN=', Unauthenticated),
        ({}, "rubbish", Unauthenticated),
        ({}, "Hash=a;;", Unauthenticated),
        ({}, "x" * 20_000, Unauthenticated),
        ({}, "", Unauthenticated),
        ({}, "  ", Unauthenticated),
    ],
)
def test_envoys_form(changes: dict[str, Any], value: str, expected: object) -> None:
    """Of exactly one certificate: a second one is what the client itself has sent."""
    assert ask(section(**changes), value) == expected


@pytest.mark.parametrize("proxy", [True, False])
def test_the_certificate_that_our_own_listener_was_shown(proxy: bool) -> None:
    """Whoever the peer is, and whatever headers say: they are not looked at."""
    part = section(form="listener", tenant=None, tenant_attribute="O")
    forged = dict.fromkeys(
        ("x-forwarded-client-cert", "canalgate-tls-subject", "canalgate_tls_subject", "x-ssl-client-s-dn"),
        "CN=root,O=Acme",
    )
    for headers in ({}, forged):
        shown = facts(headers, from_proxy=proxy, tls_subject=r"CN=bot,O=Acme\, Inc.")
        assert named(identity_of(part), shown) == ("Acme, Inc.", "bot")
        assert named(identity_of(part), facts(headers, from_proxy=proxy)) == Unauthenticated
        without = facts(headers, from_proxy=proxy, tls_subject="CN=bot")
        assert named(identity_of(part), without) == Unauthenticated


def test_a_certificate_at_the_listener_is_good_until_its_last_second() -> None:
    """A stream that it opened is looked at again, and ends."""
    part = section(form="listener")
    until = time.time()
    with_end = partial(facts, {}, tls_subject="CN=bot")
    assert named(identity_of(part), with_end(tls_subject_until=until + 600)) == ("acme", "bot")
    assert named(identity_of(part), with_end(tls_subject_until=until - 1)) == Unauthenticated


@pytest.mark.parametrize("form", ["xfcc", "dn"])
def test_a_certificate_at_the_listener_is_no_proxy_s_word(form: str) -> None:
    """With the other forms it says who the proxy is, not who calls."""
    part = section(form=form)
    assert named(identity_of(part), facts({}, tls_subject="CN=proxy")) == Unauthenticated


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("CN=bot,O=Acme", ("Acme", "bot")),
        ("O=Acme , CN = bot", ("Acme", "bot")),
        ("CN=bot+O=Acme", ("Acme", "bot")),
        ("CN=bot\\ ,O=Acme", ("Acme", "bot ")),
        ("CN=bot\\  ,O=Acme", ("Acme", "bot ")),
        ("CN=\\ bot\\20,O=Acme", ("Acme", " bot ")),
        ("CN=bot\\\\ ,O=Acme", ("Acme", "bot\\")),
        ("cn=bot,o=Acme\\, Inc.", ("Acme, Inc.", "bot")),
        ("CN=b\\C3\\BCro,O=A", ("A", "büro")),
        ('CN="a,b",O=A', ("A", "a,b")),
        ("CN=bot,OU=a,OU=b,O=A,2.5.4.5=7", ("A", "bot")),
        ("CN=bot,O=evil,O=Acme", InvalidRequest),
        ("O=Acme,CN=bot,O=Acme,CN=bot", InvalidRequest),
        ("CN=bot", Unauthenticated),
        ("CN=,O=A", Unauthenticated),
        ("CN=bot,O=A,", Unauthenticated),
        ("CN=bot,,O=A", Unauthenticated),
        ("CN=\\ff,O=A", Unauthenticated),
        ("CN=bot,O=A" + "x" * 600, Unauthenticated),
        ("/CN=bot/O=A", Unauthenticated),
        ("=x", Unauthenticated),
    ],
)
def test_a_subject_name(value: str, expected: object) -> None:
    """An attribute that counts must be there once: of two, one may be the client's own header."""
    part = settings("mtls", mtls={"form": "dn", "tenant_attribute": "O", "header": "X-Subject"})
    assert ask(part, value, "x-subject") == expected
    caller = named(identity_of(part), facts({"x-forwarded-client-cert": value}))
    assert caller is Unauthenticated


def test_only_a_trusted_proxy_is_believed() -> None:
    """What anybody else sends is no certificate, and is not passed over."""
    assert ask(section(), SUBJECT, from_proxy=False) is Unauthenticated
    chain = settings("mtls", "none", mtls={"tenant": "acme"})
    assert ask(chain, SUBJECT, from_proxy=False) is Unauthenticated
    assert ask(chain, "") == ("default", "default")


def test_the_subject_is_whole() -> None:
    """Sessions are bound to it."""
    caller = identity_of(section()).recognise(facts({"x-forwarded-client-cert": 'Subject="CN=bot,O=A"'}))
    assert caller.subject == "CN=bot,O=A"
