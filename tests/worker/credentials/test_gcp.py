"""The provider gcp, against a server that speaks the service's REST protocol."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.domain.credentials import Credentials
from common.domain.errors import ConfigurationError
from common.ports import CredentialsProvider
from common.settings import Settings
from gateway_worker.credentials import guarded_http
from gateway_worker.credentials.asking import Providers, Wanted
from gateway_worker.credentials.failure import ProviderFailed
from gateway_worker.credentials.gcp import GcpProvider
from gateway_worker.credentials.providers import load_providers
from tests.support.aio import run
from tests.support.servers.secret_managers import GcpServer, account_file, running_manager
from tests.worker.credentials.contract import Known, ProviderContract, asked, values_of
from tests.worker.credentials.documented import documented

WANT = asked("github", "acme")
NAME = "canalgate-github-acme"


def settings_of(server: GcpServer, *, timeout: float = 5.0, egress: Any = None, **section: Any) -> Settings:
    """Settings that lead to this server; None leaves a key out."""
    given = {"project": "my-project", "endpoint_url": server.url, "anonymous": True, **section}
    return Settings.model_validate(
        {
            "credentials": {"providers": ["gcp"], "timeout": timeout},
            "egress": egress or {},
            "gcp": {name: value for name, value in given.items() if value is not None},
        }
    )


def resolved(server: GcpServer, **more: Any) -> Credentials | None:
    """What a provider of these settings knows."""
    return run(GcpProvider(settings_of(server, **more)).resolve(WANT))


@pytest.fixture
def server() -> Iterator[GcpServer]:
    """One that knows a secret of one tenant."""
    found = GcpServer()
    found.put(NAME, {"token": "one"})
    with running_manager(found):
        yield found


class TestGcp(ProviderContract):
    """As every provider."""

    @contextmanager
    def know(self, known: Known) -> Iterator[CredentialsProvider]:
        server = GcpServer()
        with running_manager(server):
            settings = settings_of(server)
            for request, values in known.items():
                server.put(settings.gcp.name_for(request), dict(values))
            yield GcpProvider(settings)


def test_who_it_is_says_a_token_of_its_account(
    server: GcpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a file of the settings, or of the environment; one token does for many secrets, and is replaced if refused."""
    file = account_file(server, tmp_path)
    provider = GcpProvider(settings_of(server, anonymous=False, credentials_file=file))
    for _ in range(2):
        assert values_of(run(provider.resolve(WANT))) == {"token": "one"}
    assert (server.logins, server.refused) == (1, 0)
    server.tokens.clear()
    assert values_of(run(provider.resolve(WANT))) == {"token": "one"}
    assert (server.logins, server.refused) == (2, 1)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
    assert values_of(resolved(server, anonymous=False)) == {"token": "one"}
    with pytest.raises(ProviderFailed, match="401 UNAUTHENTICATED"):
        resolved(server)


def test_an_account_that_is_not_believed_is_a_failure(server: GcpServer, tmp_path: Path) -> None:
    """The words of the service are not repeated."""
    file = account_file(server, tmp_path)
    server.account = "other"
    with pytest.raises(ProviderFailed, match="identity at Google Cloud cannot be had: RefreshError"):
        resolved(server, anonymous=False, credentials_file=file)
    assert server.asked == []


def test_the_settings_say_which_version_is_read(server: GcpServer) -> None:
    """The latest unless they name another; a version is told by its number."""
    server.put(NAME, {"token": "two"})
    latest, first = resolved(server), resolved(server, version="1")
    assert (values_of(latest), values_of(first)) == ({"token": "two"}, {"token": "one"})
    assert latest is not None
    assert latest.version == "version 2"
    assert resolved(server, version="3") is None


def test_a_version_that_was_destroyed_is_a_failure(server: GcpServer) -> None:
    """The service says so of disabled ones too: nobody knows whether that was meant."""
    server.secrets[NAME].append(None)
    with pytest.raises(ProviderFailed, match="400 FAILED_PRECONDITION"):
        resolved(server)


def test_a_plain_text_is_the_key_value(server: GcpServer) -> None:
    """As with the other secret manager."""
    server.put(NAME, "plain text")
    assert values_of(resolved(server)) == {"value": "plain text"}


FAILURES = {
    "403 PERMISSION_DENIED": "403 PERMISSION_DENIED$",
    "400 canary-code": "status 400$",
    "429 RESOURCE_EXHAUSTED": "429 RESOURCE_EXHAUSTED$",
    "503 UNAVAILABLE": "503 UNAVAILABLE$",
    "redirect": "status 307$",
    "cut": "RemoteProtocolError",
    "<html>": "no text",
    '{"payload": {"data": "!"}}': "no text",
    '{"payload": {"data": "/w=="}}': "no text",
    '{"payload": 5}': "no text",
    "x" * 300_000: "more than",
}


@pytest.mark.parametrize("mode", FAILURES, ids=range(len(FAILURES)))
def test_what_goes_wrong_is_a_failure_in_its_own_words(
    mode: str, server: GcpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may pass is tried three times; what the service says beside its codes is not repeated."""
    monkeypatch.setattr(guarded_http, "PAUSES", (0.0, 0.0))
    server.mode = mode
    with pytest.raises(ProviderFailed, match=FAILURES[mode]) as caught:
        resolved(server)
    assert "canary" not in str(caught.value)
    passes = mode in ("429 RESOURCE_EXHAUSTED", "503 UNAVAILABLE", "cut")
    assert len(server.asked) == (3 if passes else 1)


def test_too_much_to_do_passes(server: GcpServer) -> None:
    """Within the time that the provider has."""
    server.mode, server.fails = "429 RESOURCE_EXHAUSTED", 1
    assert values_of(resolved(server)) == {"token": "one"}


def test_a_silent_service_is_a_failure_in_time(server: GcpServer) -> None:
    """It keeps nobody else waiting either."""
    server.mode = "hang"
    providers = Providers({"p": GcpProvider(settings_of(server, timeout=0.3))}, timeout=0.3)
    try:
        outcome = run(providers.ask(Wanted(WANT, ("p",))))
    finally:
        providers.close()
    assert "0.3 s" in outcome.failure or "ReadTimeout" in outcome.failure


def test_where_nothing_may_connect_it_does_not(server: GcpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard of outbound connections judges it."""
    monkeypatch.setattr(guarded_http, "PAUSES", ())
    with pytest.raises(ProviderFailed, match="ConnectError"):
        resolved(server, egress={"denied_networks": ["127.0.0.0/8"]})
    assert server.asked == []


def test_a_worker_does_not_start_with_what_cannot_work(
    server: GcpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the setting, or what to install, and shows nothing of a file."""
    (tmp_path / "bad.json").write_text('{"type": "service_account", "private_key": "canary-key"}')
    for section, field in (
        ({"project": None}, "gcp.project"),
        ({"ca_file": "/none"}, "gcp.ca_file"),
        ({"anonymous": False, "credentials_file": "/none"}, "gcp.credentials_file"),
        ({"anonymous": False, "credentials_file": str(tmp_path / "bad.json")}, "gcp.credentials_file"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            load_providers(settings_of(server, **section))
        assert caught.value.data["field"] == field
        assert "canary" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "google.auth", None)
    with pytest.raises(ConfigurationError, match=r"canalgate\[gcp\]"):
        load_providers(settings_of(server))


def test_the_example_of_the_documents_works(server: GcpServer, tmp_path: Path) -> None:
    """Asked of a server of ours."""
    places = {
        "https://secretmanager.example.internal": server.url,
        "/run/secrets/gcp-account.json": account_file(server, tmp_path),
    }
    settings = documented("gcp", tmp_path, places)
    server.put("canalgate-github-acme", {"token": "of the example"})
    found = run(load_providers(settings)["gcp"].resolve(asked("github", "acme")))
    assert values_of(found) == {"token": "of the example"}
