"""The provider token_exchange, and sessions that are one subject's own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jwt
import orjson
import pytest
from structlog.testing import capture_logs

from common.domain.credentials import CredentialRequest, Credentials
from common.domain.errors import ConfigurationError, CredentialUnavailable
from common.domain.ids import ToolId
from common.processes import ProcessGuard
from common.settings import Settings
from common.settings.credentials import CredentialsSettings
from common.store.client import StoreAddress
from common.store.keys import Keys
from gateway_web.cli.doctor_identity import subject_findings
from gateway_worker.credentials import guarded_http
from gateway_worker.credentials.asking import Providers, Wanted
from gateway_worker.credentials.cache import CredentialCache
from gateway_worker.credentials.failure import ProviderFailed
from gateway_worker.credentials.identity import SessionIdentity
from gateway_worker.credentials.providers import load_providers
from gateway_worker.credentials.token_exchange import TokenExchangeProvider
from tests.support.aio import on_loop, run
from tests.support.backends import echo_backend, entry_of, http_tool, invocation, stdio_tool
from tests.support.servers.authorization import AuthorizationServer, running_authorization
from tests.support.servers.issuer import private_key
from tests.worker.credentials.contract import asked, values_of
from tests.worker.credentials.desk import Steered, by_caller, credential_desk, rules, with_credentials
from tests.worker.credentials.documented import documented
from tests.worker.credentials.issuing import entry, pem, token_of

ISSUER = "https://gateway.example.com"
AUDIENCE = "https://as.example.com"
BEARER = {"Authorization": "Bearer {access_token}"}


@pytest.fixture
def server() -> Iterator[AuthorizationServer]:
    """One that believes what the gateway signs."""
    with running_authorization() as found:
        found.issuers[ISSUER] = private_key("ES256", "k1").public_key()
        yield found


def subject(name: str, *scopes: str, tool: str = "github", client: str = "bot") -> CredentialRequest:
    """Of a subject behind a client of acme."""
    return replace(asked(tool, "acme", client), subject=name, scopes=scopes)


def settings_of(*entries: dict[str, Any], **section: Any) -> Settings:
    """Settings with these entries."""
    given = {
        "exchanges": entries,
        "issuer": ISSUER,
        "signing_key": pem("ES256"),
        "signing_algorithm": "ES256",
        "signing_key_id": "k1",
        **section,
    }
    return Settings.model_validate(
        {"credentials": {"providers": ["token_exchange"]}, "token_exchange": given}
    )


def exchange(server: AuthorizationServer, **more: Any) -> dict[str, Any]:
    """An entry for all of a tool's callers."""
    return entry(server, **{"tenant": None, "subject_audience": AUDIENCE, **more})


def made(*entries: dict[str, Any], **section: Any) -> TokenExchangeProvider:
    """The provider of these entries."""
    return TokenExchangeProvider(settings_of(*entries, **section))


def resolved(provider: TokenExchangeProvider, want: CredentialRequest) -> Credentials:
    """What it knows."""
    found = run(provider.resolve(want))
    assert found is not None
    return found


def test_the_gateway_states_whom_it_recognised(server: AuthorizationServer) -> None:
    """For that server, for a minute, once; who acts for the subject is stated as well, if the settings say so."""
    want = subject("ann", "mcp", "repo", client="a:b")
    issued = server.tokens[token_of(resolved(made(exchange(server), actor="canalgate"), want))]
    assert issued.subject is not None
    assert issued.actor is not None
    stated = {name: issued.subject[name] for name in ("iss", "aud", "sub", "tenant", "client_id", "scope")}
    assert stated == {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "tenant": "acme",
        "client_id": "a:b",
        "scope": "mcp repo",
    }
    assert 0 < issued.subject["exp"] - issued.subject["iat"] <= 60
    assert (issued.actor["sub"], issued.actor["aud"]) == ("canalgate", AUDIENCE)
    assert issued.actor["jti"] != issued.subject["jti"]
    (shown,) = server.last("subject_token")
    assert jwt.get_unverified_header(shown)["kid"] == "k1"
    again = server.tokens[token_of(resolved(made(exchange(server)), want))]
    assert again.actor is None
    assert again.subject is not None
    assert again.subject["jti"] != issued.subject["jti"]


def test_the_audience_is_the_token_endpoint_unless_it_is_set(server: AuthorizationServer) -> None:
    """Each server believes only what is for it."""
    provider = made(exchange(server, subject_audience=None))
    with pytest.raises(ProviderFailed, match="400 invalid_grant"):
        resolved(provider, subject("ann"))
    server.audience = server.url
    resolved(provider, subject("ann"))


def test_the_nearest_entry_decides(server: AuthorizationServer) -> None:
    """The client's, the tenant's, everybody's; of one tool alone."""
    server.clients |= {"all": "s", "tenant": "s", "client": "s"}
    own = {"client_secret": "s"}
    provider = made(
        exchange(server, client_id="all", **own),
        exchange(server, client_id="tenant", tenant="acme", **own),
        exchange(server, client_id="client", tenant="acme", client="bot", **own),
    )
    globex = replace(subject("ann"), tenant="globex")
    for want, name in ((subject("ann"), "client"), (subject("ann", client="x"), "tenant"), (globex, "all")):
        assert server.tokens[token_of(resolved(provider, want))].client == name
    assert run(provider.resolve(subject("ann", tool="gitlab"))) is None


@pytest.mark.parametrize("want", [subject(""), asked("github", "acme", "bot"), asked("github")])
def test_a_caller_without_a_subject_has_no_token(
    want: CredentialRequest, server: AuthorizationServer
) -> None:
    """Nobody is made up for him, and nobody is asked."""
    assert run(made(exchange(server)).resolve(want)) is None
    assert server.requests == []


def test_what_the_server_does_not_believe_is_a_failure(server: AuthorizationServer) -> None:
    """A key that it does not know; nothing of what was signed is told."""
    server.issuers[ISSUER] = private_key("ES256", "another").public_key()
    with pytest.raises(ProviderFailed, match="400 invalid_grant") as caught:
        resolved(made(exchange(server)), subject("canary-ann"))
    assert "canary" not in str(caught.value)
    assert server.last("subject_token")[0] not in str(caught.value)


def test_no_statement_passes_for_another(server: AuthorizationServer) -> None:
    """Each says what it is of; a server that looks takes none for another."""
    server.keys["gateway"] = private_key("ES256", "k2").public_key()
    itself = {"auth": "private_key_jwt", "client_secret": None, "private_key": pem("ES256", "k2")}
    resolved(made(exchange(server, **itself, algorithm="ES256"), actor="canalgate"), subject("ann"))
    kinds = [
        jwt.get_unverified_header(server.last(name)[0])["typ"]
        for name in ("subject_token", "actor_token", "client_assertion")
    ]
    assert kinds == ["canalgate-subject+jwt", "canalgate-actor+jwt", "JWT"]


@pytest.mark.parametrize("place", ["token_exchange.exchanges", "client_credentials.clients"])
@pytest.mark.parametrize("file", [True, False])
def test_one_key_signs_for_one_purpose(
    place: str, file: bool, server: AuthorizationServer, tmp_path: Path
) -> None:
    """What makes the gateway known could be shown as a word on a subject."""
    (tmp_path / "key.pem").write_text(pem("ES256"))
    key = {"private_key_file": str(tmp_path / "key.pem")} if file else {"private_key": pem("ES256")}
    itself = {"auth": "private_key_jwt", "client_secret": None, "algorithm": "ES256", **key}
    if place.startswith("token_exchange"):
        settings = settings_of(exchange(server, **itself))
    else:
        clients = {"client_credentials": {"clients": [entry(server, **itself)]}}
        settings = Settings.model_validate({**settings_of(exchange(server)).model_dump(), **clients})
    with pytest.raises(ConfigurationError, match="make a key for each") as caught:
        TokenExchangeProvider(settings)
    assert caught.value.data["field"] == f"{place}[0].private_key{'_file' if file else ''}"
    assert "PRIVATE KEY" not in str(caught.value)


@pytest.mark.parametrize("away", [True, False])
def test_a_refusal_is_no_outage(away: bool, server: AuthorizationServer, monkeypatch: Any) -> None:
    """A server that is away takes nothing from a session; one that says no to its subject does, from that one alone."""
    monkeypatch.setattr(guarded_http, "PAUSES", (0.0, 0.0))

    @on_loop
    async def scenario() -> None:
        providers = Providers({"p": made(exchange(server))}, timeout=5)
        cache = CredentialCache(providers.ask, CredentialsSettings())

        def session(name: str) -> SessionIdentity:
            wanted = Wanted(subject(name), ("p",))
            return SessionIdentity(ToolId("github"), rules(headers=BEARER, scope="subject"), wanted, cache)

        ann, bob = session("ann"), session("bob")
        await ann.given()
        await bob.given()
        known = server.issuers.pop(ISSUER)
        server.mode = "drop" if away else None
        await ann.look(newer_than=math.inf)
        assert ann.outdated is not away
        server.mode = None
        assert not bob.outdated
        await bob.given()
        if away:
            await session("ann").given()
        else:
            with pytest.raises(CredentialUnavailable, match="failed") as caught:
                await session("ann").given()
            assert caught.value.data["reason"] == "refused"
        server.issuers[ISSUER] = known
        providers.close()

    scenario()


@pytest.mark.parametrize(
    ("tenants", "tenant", "warned"),
    [
        ({"listed": ["acme", "globex"]}, None, True),
        ({"allow_unlisted": True, "listed": ["acme"]}, None, True),
        ({"listed": ["acme"]}, None, False),
        ({"listed": ["acme", "globex"]}, "acme", False),
    ],
)
def test_an_entry_for_all_tenants_subjects_is_warned_of(
    tenants: dict[str, Any], tenant: str | None, warned: bool, server: AuthorizationServer
) -> None:
    """Equal subjects of two tenants would be one where ``sub`` alone is looked at; at the start, and by the doctor."""
    sections = {"tenants": tenants, "identity": {"resolver": "header"}}
    entry = exchange(server, tenant=tenant)
    settings = Settings.model_validate({**settings_of(entry).model_dump(), **sections})
    with capture_logs() as lines:
        TokenExchangeProvider(settings)
    found = [line for line in lines if line["event"] == "subjects_of_all_tenants"]
    assert bool(found) is warned
    assert [line["reason"] for line in found] == [each.text for each in subject_findings(settings)]


def test_another_attempt_is_another_statement(
    server: AuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may have seen the first one, and takes none twice."""
    monkeypatch.setattr(guarded_http, "PAUSES", (0.0, 0.0))
    server.mode = "drop"
    with pytest.raises(ProviderFailed):
        resolved(made(exchange(server)), subject("ann"))
    shown = [dict(parse_qsl(request.body.decode()))["subject_token"] for request in server.requests]
    assert len(shown) == 3
    assert len(set(shown)) == 3


@pytest.mark.parametrize(
    ("kind", "issued", "good"),
    [
        ("Bearer", "access_token", True),
        ("N_A", "jwt", True),
        ("Bearer", "refresh_token", False),
        ("Bearer", "id_token", False),
        ("Bearer", None, False),
        ("DPoP", "access_token", False),
    ],
)
def test_only_what_is_an_access_token_is_used(
    kind: str, issued: str | None, good: bool, server: AuthorizationServer
) -> None:
    """The server says what it issued."""
    answer = {"access_token": "canary-t", "token_type": kind, "expires_in": 60}
    if issued is not None:
        answer["issued_token_type"] = f"urn:ietf:params:oauth:token-type:{issued}"
    server.mode = orjson.dumps(answer).decode()
    provider = made(exchange(server))
    if good:
        assert token_of(resolved(provider, subject("ann"))) == "canary-t"
        return
    with pytest.raises(ProviderFailed) as caught:
        resolved(provider, subject("ann"))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "field", "words"),
    [
        ({"exchanges": []}, "exchanges", "needs an entry"),
        ({"signing_key": "canary-none"}, "signing_key", "no private key in PEM"),
        ({"signing_algorithm": "RS256"}, "signing_key", "no key for RS256"),
        ({"signing_key": None, "signing_key_file": "/none"}, "signing_key_file", "No such file"),
    ],
)
def test_a_worker_does_not_start_with_what_cannot_work(
    section: dict[str, Any], field: str, words: str, server: AuthorizationServer
) -> None:
    """The error names the setting and shows no secret."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_providers(settings_of(*section.pop("exchanges", [exchange(server)]), **section))
    assert caught.value.data["field"] == f"token_exchange.{field}"
    assert "canary" not in str(caught.value)


# -- whose session it is ----------------------------------------------------------------------------------

Made = Any


@pytest.fixture
def desks(guard: ProcessGuard, address: StoreAddress, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Makes desks; each is closed at its end."""
    return partial(credential_desk, guard, address, keys, monkeypatch)


def test_two_subjects_of_one_client_never_share_a_session(desks: Made, server: AuthorizationServer) -> None:
    """Whether it is a connection or a child, and however their calls are mixed; nor do two sets of scopes."""

    @on_loop
    async def scenario() -> None:
        with echo_backend() as backend:
            remote = with_credentials(http_tool(backend.url), headers=BEARER, scope="subject")
            local = with_credentials(stdio_tool(), env={"TOKEN": "access_token"}, scope="subject")
            provider = made(exchange(server, tool="remote"), exchange(server, tool="local"))
            async with desks(provider) as (desk, _):

                async def seen(tool: str, who: str, *scopes: str) -> tuple[str, str]:
                    name, found = (
                        ("headers", entry_of(remote)) if tool == "remote" else ("env", entry_of(local))
                    )
                    call = invocation(name, tool=tool, subject=who, scopes=scopes)
                    told = orjson.loads(await desk.ask(found, call))
                    token = told.get("TOKEN") or told["authorization"].removeprefix("Bearer ")
                    claims = server.tokens[token].subject
                    assert claims is not None
                    return claims["sub"], claims["scope"]

                whose = [("ann",), ("bob",), ("ann", "mcp"), ("ann",), ("bob",)] * 3
                for tool in ("remote", "local"):
                    found = await asyncio.gather(*(seen(tool, *who) for who in whose))
                    assert found == [(who, " ".join(scopes)) for who, *scopes in whose]
                assert len(server.requests) == 6

    scenario()


def test_without_a_subject_a_tool_that_needs_one_refuses(desks: Made, server: AuthorizationServer) -> None:
    """``required``; with ``optional`` the call goes on without."""

    @on_loop
    async def scenario() -> None:
        with echo_backend() as backend:
            tool = with_credentials(http_tool(backend.url), headers=BEARER, scope="subject")
            lax = with_credentials(http_tool(backend.url), headers=BEARER, scope="subject", mode="optional")
            async with desks(made(exchange(server, tool="remote"))) as (desk, _):
                with pytest.raises(CredentialUnavailable, match="for the subject") as caught:
                    await desk.ask(entry_of(tool), invocation("headers", tool="remote"))
                assert caught.value.data["reason"] == "missing"
                assert backend.requests == []
                told = await desk.ask(entry_of(lax), invocation("headers", tool="remote"))
                assert "authorization" not in orjson.loads(told)

    scenario()


def test_providers_that_know_nothing_of_subjects_are_not_asked(desks: Made) -> None:
    """They would give what is the client's."""

    @on_loop
    async def scenario() -> None:
        blind = Steered(by_caller())
        async with desks(blind) as (desk, service):
            service.identities._providers._threads["file"] = service.identities._providers._threads.pop("p0")
            tool = with_credentials(stdio_tool(), env={"TOKEN": "key"}, scope="subject")
            with pytest.raises(CredentialUnavailable):
                await desk.ask(entry_of(tool), invocation("env", subject="ann"))
            assert blind.asked == []

    scenario()


@pytest.mark.parametrize("whole", [True, False])
def test_the_gateway_itself_asks_as_the_subject_of_the_settings(whole: bool, desks: Made) -> None:
    """Or as nobody; never as a caller."""

    @on_loop
    async def scenario() -> None:
        provider = Steered(by_caller())
        who = {"discovery_tenant": "ops", "discovery_client": "gate"}
        more = {**who, "discovery_subject": "robot"} if whole else who
        async with desks(provider, **more) as (_, service):
            tool = with_credentials(http_tool("http://h"), headers={"A": "{key}"}, scope="subject")
            await service.identities.of_gateway(tool)
        wanted = replace(asked("remote", "ops", "gate"), subject="robot")
        assert provider.asked == ([wanted] if whole else [])

    scenario()


def test_the_example_of_the_documents_works(server: AuthorizationServer, tmp_path: Path) -> None:
    """Asked of a server of ours, with a key of ours."""
    (tmp_path / "key.pem").write_text(pem("ES256"))
    places = {
        "https://login.example.com/oauth2/token": server.url,
        "/run/secrets/canalgate-signing-key.pem": str(tmp_path / "key.pem"),
    }
    settings = documented("token_exchange", tmp_path, places)
    server.clients["canalgate"] = "change-me"
    server.targets |= {"https://tickets.example.com/mcp"}
    server.audience = "https://login.example.com"
    found = run(load_providers(settings)["token_exchange"].resolve(subject("ann", tool="tickets")))
    assert found is not None
    assert values_of(found) is not None
    issued = server.tokens[token_of(found)]
    assert (issued.subject or {})["sub"] == "ann"
    assert issued.resources == ("https://tickets.example.com/mcp",)
