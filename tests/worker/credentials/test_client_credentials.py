"""The provider client_credentials, against an authorization server that speaks the real protocol."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest

from common.domain.credentials import CredentialRequest, Credentials
from common.domain.errors import ConfigurationError, ErrorCode
from common.domain.rules import Retry
from common.processes import ProcessGuard
from common.settings import Settings
from common.store.client import StoreAddress
from common.store.keys import Keys
from gateway_worker.credentials import guarded_http, identity
from gateway_worker.credentials.asking import Providers, Wanted
from gateway_worker.credentials.cache import CredentialCache
from gateway_worker.credentials.client_credentials import ClientCredentialsProvider
from gateway_worker.credentials.failure import ProviderFailed
from gateway_worker.credentials.providers import load_providers
from tests.support.aio import on_loop, run
from tests.support.backends import HttpBackend, entry_of, http_backend, http_tool, invocation
from tests.support.certificates import Authority, server_context
from tests.support.servers.authorization import AuthorizationServer, running_authorization
from tests.support.servers.echo_core import EchoServer
from tests.support.servers.echo_http import HttpServer
from tests.support.servers.http_wire import Connection, Request
from tests.support.servers.issuer import private_key
from tests.support.servers.raw_http import ok, raw_server
from tests.worker.credentials.contract import asked, values_of
from tests.worker.credentials.desk import credential_desk, with_credentials
from tests.worker.credentials.documented import documented
from tests.worker.credentials.issuing import SECRET, entry, pem, token_of
from tests.worker.egress.http_clients import saying
from tests.worker.test_execute import Worker

WANT = asked("github", "acme")


@pytest.fixture
def server() -> Iterator[AuthorizationServer]:
    """One that knows the client ``gateway``."""
    with running_authorization() as found:
        yield found


def settings_of(*entries: Mapping[str, Any], timeout: float = 5.0, **more: Any) -> Settings:
    """Settings with these entries."""
    credentials = {"providers": ["client_credentials"], "timeout": timeout}
    return Settings.model_validate(
        {"credentials": credentials, "client_credentials": {"clients": entries}, **more}
    )


def made(*entries: Mapping[str, Any], **more: Any) -> ClientCredentialsProvider:
    """The provider of these entries."""
    return ClientCredentialsProvider(settings_of(*entries, **more))


def resolved(provider: ClientCredentialsProvider, want: CredentialRequest = WANT) -> Credentials:
    """What it knows."""
    found = run(provider.resolve(want))
    assert found is not None
    return found


# -- who it is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", ["client_secret_basic", "client_secret_post"])
@pytest.mark.parametrize("where", ["settings", "file"])
def test_it_makes_itself_known_by_a_secret(
    auth: str, where: str, server: AuthorizationServer, tmp_path: Path
) -> None:
    """In the way that the settings say and in no other; characters that mean something there are encoded."""
    server.methods = frozenset({auth})
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    file = {"client_secret": None, "client_secret_file": str(tmp_path / "secret")}
    found = resolved(made(entry(server, auth=auth, **(file if where == "file" else {}))))
    assert server.tokens[token_of(found)].client == "gateway"
    assert values_of(found) == {"access_token": token_of(found), "token_type": "Bearer"}


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "EdDSA"])
def test_it_makes_itself_known_by_a_key(algorithm: str, server: AuthorizationServer, tmp_path: Path) -> None:
    """What it signs is for that server, good for a minute, and never the same twice."""
    server.methods = frozenset({"private_key_jwt"})
    server.keys["gateway"] = private_key(algorithm, "k1").public_key()
    (tmp_path / "key.pem").write_text(pem(algorithm))
    provider = made(
        entry(
            server,
            auth="private_key_jwt",
            client_secret=None,
            private_key_file=str(tmp_path / "key.pem"),
            algorithm=algorithm,
            key_id="k1",
        )
    )
    for _ in range(2):
        assert server.tokens[token_of(resolved(provider))].client == "gateway"
    (shown,) = server.last("client_assertion")
    assert jwt.get_unverified_header(shown)["kid"] == "k1"
    assert "PRIVATE KEY" not in repr(server.forms)


def test_the_audience_of_what_it_signs_can_be_set(server: AuthorizationServer) -> None:
    """Some servers want their issuer's name there."""
    server.keys["gateway"] = private_key("ES256", "k1").public_key()
    signed = {"auth": "private_key_jwt", "client_secret": None, "private_key": pem("ES256")}
    provider = made(entry(server, **signed, algorithm="ES256", assertion_audience="https://other"))
    with pytest.raises(ProviderFailed, match="401 invalid_client"):
        resolved(provider)
    (shown,) = server.last("client_assertion")
    assert jwt.decode(shown, options={"verify_signature": False})["aud"] == "https://other"


def test_a_secret_in_a_file_is_read_for_each_token(server: AuthorizationServer, tmp_path: Path) -> None:
    """So it can be rotated while workers run."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    provider = made(entry(server, client_secret=None, client_secret_file=str(file)))
    resolved(provider)
    server.clients["gateway"] = "the next one"
    with pytest.raises(ProviderFailed, match="401 invalid_client"):
        resolved(provider)
    file.write_text("the next one")
    resolved(provider)
    file.unlink()
    with pytest.raises(
        ProviderFailed, match=r"clients\[0\]\.client_secret_file cannot be read: No such file"
    ):
        resolved(provider)


# -- what it asks for -------------------------------------------------------------------------------------


def test_it_asks_for_scopes_and_for_whom_the_token_is(server: AuthorizationServer) -> None:
    """As the entry says; several resources are several parameters."""
    wanted = {
        "scopes": ["read", "write"],
        "resources": ["https://api.example.com/mcp", "https://api.example.com/v2"],
        "audiences": "api",
    }
    server.targets |= {"https://api.example.com/v2"}
    issued = server.tokens[token_of(resolved(made(entry(server, **wanted))))]
    assert issued.scopes == "read write"
    assert issued.resources == ("https://api.example.com/mcp", "https://api.example.com/v2")
    assert issued.audiences == ("api",)
    resolved(made(entry(server)))
    assert [name for name, _ in server.forms[-1]] == ["grant_type"]


@pytest.mark.parametrize(
    ("wanted", "code"),
    [({"scopes": ["admin"]}, "invalid_scope"), ({"resources": ["https://other"]}, "invalid_target")],
)
def test_what_it_may_not_have_is_a_failure(
    wanted: dict[str, Any], code: str, server: AuthorizationServer
) -> None:
    """Asked for once: the next time it is no other."""
    with pytest.raises(ProviderFailed, match=f"status 400 {code}"):
        resolved(made(entry(server, **wanted)))
    assert len(server.requests) == 1


def test_each_has_its_own(server: AuthorizationServer) -> None:
    """Tool, tenant and client decide, and who has no entry has no token."""
    server.clients |= {f"c{number}": f"s{number}" for number in range(3)}
    whose = [asked("github"), asked("github", "acme"), asked("github", "acme", "bot")]
    provider = made(
        *(
            entry(
                server,
                tenant=want.tenant,
                client=want.client,
                client_id=f"c{number}",
                client_secret=f"s{number}",
            )
            for number, want in enumerate(whose)
        )
    )
    for number, want in enumerate(whose):
        assert server.tokens[token_of(resolved(provider, want))].client == f"c{number}"
    for want in (asked("gitlab"), asked("github", "globex"), asked("github", "acme", "ide")):
        assert run(provider.resolve(want)) is None
    assert len(server.requests) == 3


# -- how long it is kept ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "leeway", "life"),
    [(3600, 10, 3590), ("3600", 10, 3590), (3600, 0, 3600), (10, 10, 5), (1.5, 0.5, 1.0), (None, 10, None)],
)
def test_a_token_lives_as_the_server_says_less_the_leeway(
    said: Any, leeway: float, life: float | None, server: AuthorizationServer
) -> None:
    """Half of it at least."""
    server.expires_in = said
    section = {"clients": [entry(server)], "leeway": leeway}
    provider = ClientCredentialsProvider(Settings.model_validate({"client_credentials": section}))
    assert resolved(provider).expires_in == life


@pytest.mark.parametrize("said", [-1, True, "soon", [], 0])
def test_a_life_that_is_none_is_a_failure(said: Any, server: AuthorizationServer) -> None:
    """Neither is it taken for eternity."""
    server.expires_in = said
    providers = Providers({"p": made(entry(server))}, timeout=5)
    try:
        outcome = run(providers.ask(Wanted(WANT, ("p",))))
    finally:
        providers.close()
    assert outcome.credentials is None
    assert "expire" in outcome.failure


@on_loop
async def test_many_ask_once_and_the_token_is_kept_to_its_expiry() -> None:
    """``cache_ttl`` does not cut it: each question would make another token, and so another session."""
    with running_authorization() as server:
        settings = settings_of(entry(server))
        providers = Providers(load_providers(settings), timeout=5)
        kept = settings.credentials.model_copy(update={"cache_ttl": 1.0, "refresh_ahead": 30.0})
        cache = CredentialCache(providers.ask, kept)
        try:
            wanted = Wanted(WANT, ("client_credentials",))
            answers = await asyncio.gather(*(cache.get(wanted) for _ in range(20)))
            assert len(server.requests) == 1
            (answer,) = {id(answer): answer for answer in answers}.values()
            assert math.isclose(answer.until - answer.asked, 3590)
            assert math.isclose(answer.due - answer.asked, 3560)
            cache.drop(tool=WANT.tool)
            assert (await cache.get(wanted)).fingerprint != answer.fingerprint
            assert len(server.requests) == 2
        finally:
            providers.close()


# -- servers that are no good -----------------------------------------------------------------------------

BROKEN = {
    "cut": "RemoteProtocolError",
    "drop": "RemoteProtocolError",
    "redirect": "status 307",
    "throttle": "status 429",
    "throttle long": "status 503",
    "teapot": "status 400$",
    "flood": "more than",
    "<html>": "no JSON object",
    "[]": "no JSON object",
    "{}": "no access_token",
    '{"access_token": "", "token_type": "bearer"}': "no access_token",
    '{"access_token": 5, "token_type": "bearer"}': "no access_token",
    '{"access_token": "a\\r\\nX: canary-b", "token_type": "bearer"}': "no access_token",
    '{"access_token": "canary-a"}': "token_type",
    '{"access_token": "canary-a", "token_type": "DPoP"}': "token_type",
    '{"access_token": "canary-a", "access_token": "b", "token_type": "bearer"}': "no JSON object",
}


@pytest.mark.parametrize("mode", BROKEN)
def test_a_server_that_misbehaves_is_a_failure(
    mode: str, server: AuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its words are not repeated; no redirect is followed, which could take the secret elsewhere."""
    monkeypatch.setattr(guarded_http, "PAUSES", (0.0, 0.0))
    server.mode = mode
    with pytest.raises(ProviderFailed, match=BROKEN[mode]) as caught:
        resolved(made(entry(server)))
    assert "canary" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert {request.path for request in server.requests} == {"/token"}
    assert len(server.requests) == (3 if mode in ("cut", "drop", "throttle") else 1)


@pytest.mark.parametrize("mode", ["cut", "drop", "throttle"])
def test_what_passes_is_asked_again(mode: str, server: AuthorizationServer) -> None:
    """Within the time that the provider has."""
    server.mode, server.fails = mode, 1
    resolved(made(entry(server)))
    assert len(server.requests) == 2


def test_a_server_that_hangs_is_a_failure_in_time(server: AuthorizationServer) -> None:
    """The provider's time is for all attempts together."""
    server.mode = "hang"
    providers = Providers({"p": made(entry(server), timeout=0.3)}, timeout=0.3)
    try:
        outcome = run(providers.ask(Wanted(WANT, ("p",))))
        assert "0.3 s" in outcome.failure or "ReadTimeout" in outcome.failure
        server.mode = None
        assert run(providers.ask(Wanted(WANT, ("p",)))).credentials is not None
    finally:
        providers.close()


def test_where_nothing_may_connect_it_does_not(server: AuthorizationServer) -> None:
    """The guard of outbound connections judges this address like any other of the operator's file."""
    provider = made(entry(server), egress={"denied_networks": ["127.0.0.0/8"]})
    with pytest.raises(ProviderFailed, match="ConnectError"):
        resolved(provider)
    assert server.requests == []


def test_proxies_of_the_environment_are_not_used(
    server: AuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be told the secret."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    resolved(made(entry(server)))


def test_a_server_of_an_authority_that_nobody_knows_gets_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``ca_file`` says whom to trust instead of the system's."""
    monkeypatch.setattr(guarded_http, "PAUSES", ())
    ca = Authority(tmp_path)
    secure = server_context(ca.issue("127.0.0.1"))
    body = b'{"access_token": "t", "token_type": "bearer", "expires_in": 60}'

    @on_loop
    async def scenario() -> None:
        async with raw_server(saying(ok(body)), tls=secure) as there:
            known = {"tool": "github", "tenant": "acme", "client_id": "c", "client_secret": "s"}
            known["token_url"] = there.url
            with pytest.raises(ProviderFailed, match="ConnectError"):
                await made(known).resolve(WANT)
            found = await made({**known, "ca_file": str(ca.file)}).resolve(WANT)
            assert values_of(found) == {"access_token": "t", "token_type": "bearer"}

    scenario()


# -- the backend has the last word ------------------------------------------------------------------------


def test_a_token_that_the_backend_refuses_is_replaced_once(
    guard: ProcessGuard, address: StoreAddress, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it had not expired: it was revoked. If there is none to be had, the call is refused."""
    monkeypatch.setattr(identity, "NEW_ANSWER_AFTER", 0.0)
    echo = HttpServer(EchoServer(era="both", pages=1))

    @on_loop
    async def scenario(server: AuthorizationServer, backend: HttpBackend) -> None:
        tool = with_credentials(http_tool(backend.url), headers={"Authorization": "Bearer {access_token}"})
        provider = made(entry(server, tool="remote"))
        async with credential_desk(guard, address, keys, monkeypatch, provider) as (desk, _):
            worker = Worker(desk, keys, entry_of(tool))
            assert (await worker.run(invocation("headers", tool="remote"), Retry.SAFE)).answered
            server.tokens.clear()
            assert (await worker.run(invocation("headers", tool="remote"), Retry.SAFE)).answered
            assert len(server.requests) == 2
            server.tokens.clear()
            server.clients.clear()
            result = await worker.run(invocation("headers", tool="remote"), Retry.SAFE)
            assert result.failure is not None
            assert result.failure.code is ErrorCode.CREDENTIAL_UNAVAILABLE
            assert len(server.requests) == 3

    with running_authorization() as server:

        def guarded(connection: Connection, request: Request) -> None:
            if request.headers.get("authorization", "").removeprefix("Bearer ") in server.tokens:
                echo.handle(connection, request)
            else:
                connection.respond("401 Unauthorized", b"{}", headers={"WWW-Authenticate": "Bearer"})

        with http_backend(guarded) as backend:
            scenario(server, backend)


# -- settings that are no good ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "field", "words"),
    [
        ({"client_secret": None, "client_secret_file": "/none"}, "client_secret_file", "No such file"),
        ({"client_secret": " "}, "client_secret", "holds nothing"),
        ({"ca_file": "/none"}, "ca_file", "/none"),
        (
            {"auth": "private_key_jwt", "client_secret": None, "private_key": "canary-no-key"},
            "private_key",
            "no private key in PEM",
        ),
        (
            {"auth": "private_key_jwt", "client_secret": None, "private_key": "ES256"},
            "private_key",
            "no key for RS256",
        ),
        (
            {"auth": "private_key_jwt", "client_secret": None, "private_key": "weak"},
            "private_key",
            "2048 bits",
        ),
    ],
)
def test_a_worker_does_not_start_with_what_cannot_work(
    more: dict[str, Any], field: str, words: str, server: AuthorizationServer
) -> None:
    """The error names the setting and shows no secret."""
    key = {"ES256": lambda: pem("ES256"), "weak": lambda: pem("RS256", "weak")}.get(
        more.get("private_key", "")
    )
    given = more if key is None else {**more, "private_key": key()}
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_providers(settings_of(entry(server, **given)))
    assert caught.value.data["field"] == f"client_credentials.clients[0].{field}"
    assert "canary" not in str(caught.value)


def test_without_entries_it_knows_nobody() -> None:
    """And says so at once."""
    with pytest.raises(ConfigurationError, match="needs an entry") as caught:
        load_providers(settings_of())
    assert caught.value.data["field"] == "client_credentials.clients"


def test_the_example_of_the_documents_works(server: AuthorizationServer, tmp_path: Path) -> None:
    """Asked of a server of ours, it has a token for the tool and the resource that it names."""
    settings = documented(
        "client_credentials", tmp_path, {"https://login.example.com/oauth2/token": server.url}
    )
    server.clients["canalgate"] = "change-me"
    server.scopes |= {"tickets.read"}
    found = load_providers(settings)["client_credentials"]
    server.targets |= {"https://tickets.example.com/mcp"}
    issued = run(found.resolve(asked("tickets")))
    assert issued is not None
    assert server.tokens[token_of(issued)].resources == ("https://tickets.example.com/mcp",)
