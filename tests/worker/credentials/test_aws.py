"""The provider aws, against a server that speaks the service's wire protocol and checks its signatures."""

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
from gateway_worker.credentials.aws import AwsProvider
from gateway_worker.credentials.failure import ProviderFailed
from gateway_worker.credentials.providers import load_providers
from tests.support.aio import run
from tests.support.servers.secret_managers import AwsServer, running_manager
from tests.worker.credentials.contract import Known, ProviderContract, asked, values_of
from tests.worker.credentials.documented import documented

WANT = asked("github", "acme")
NAME = "canalgate/github/acme"
KEYS = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "canary-aws-secret"}


def settings_of(server: AwsServer, *, timeout: float = 5.0, egress: Any = None, **section: Any) -> Settings:
    """Settings that lead to this server; None leaves a key out."""
    given = {"region": "eu-central-1", "endpoint_url": server.url, **KEYS, **section}
    return Settings.model_validate(
        {
            "credentials": {"providers": ["aws"], "timeout": timeout},
            "egress": egress or {},
            "aws": {name: value for name, value in given.items() if value is not None},
        }
    )


def resolved(server: AwsServer, **more: Any) -> Credentials | None:
    """What a provider of these settings knows."""
    return run(AwsProvider(settings_of(server, **more)).resolve(WANT))


@pytest.fixture
def server() -> Iterator[AwsServer]:
    """One that knows a secret of one tenant."""
    found = AwsServer()
    found.put(NAME, {"token": "one"})
    with running_manager(found):
        yield found


class TestAws(ProviderContract):
    """As every provider."""

    @contextmanager
    def know(self, known: Known) -> Iterator[CredentialsProvider]:
        server = AwsServer()
        with running_manager(server):
            settings = settings_of(server)
            for request, values in known.items():
                server.put(settings.aws.name_for(request), dict(values))
            yield AwsProvider(settings)


def test_who_it_is_says_the_signature(server: AwsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By keys of the settings, of the environment, with a session token or without."""
    assert values_of(resolved(server)) == {"token": "one"}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-aws-secret")
    nothing = dict.fromkeys(KEYS)
    assert values_of(resolved(server, **nothing)) == {"token": "one"}
    server.session_token = "canary-session"
    assert values_of(resolved(server, session_token="canary-session")) == {"token": "one"}
    assert server.refused == 0
    for wrong in ({"secret_access_key": "wrong"}, {"session_token": "wrong"}, {"region": "us-east-1"}):
        with pytest.raises(ProviderFailed, match="400 InvalidSignatureException"):
            resolved(server, **wrong)


def test_without_an_identity_nobody_is_asked(server: AwsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to do is told."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/none")
    with pytest.raises(ProviderFailed, match=r"aws\.access_key_id"):
        resolved(server, **dict.fromkeys(KEYS))
    assert server.asked == []


def test_a_stage_says_which_version_is_read(server: AwsServer) -> None:
    """The current one unless the settings say another; the version is told."""
    server.put(NAME, {"token": "two"})
    current, previous = resolved(server), resolved(server, version_stage="AWSPREVIOUS")
    assert (values_of(current), values_of(previous)) == ({"token": "two"}, {"token": "one"})
    assert current is not None
    assert current.version == "00000000-0000-0000-0000-000000000002"
    assert resolved(server, version_stage="of nobody") is None


@pytest.mark.parametrize(
    ("held", "values"),
    [
        ("plain text", {"value": "plain text"}),
        ('"quoted"', {"value": '"quoted"'}),
        ('{"a": "x", "a": "y"}', {"value": '{"a": "x", "a": "y"}'}),
        ({"username": "u", "port": 5432, "more": {"a": "b"}, "none": None}, {"username": "u"}),
        ({}, None),
        ({"port": 1}, None),
    ],
)
def test_a_secret_is_an_object_of_texts_or_one_text(held: Any, values: Any, server: AwsServer) -> None:
    """Members that are no text are nobody's; nothing is turned into a text."""
    server.put(NAME, held)
    assert values_of(resolved(server)) == values


def test_names_are_made_of_the_templates(server: AwsServer) -> None:
    """One for each scope."""
    names = {
        "tool_name": "t-{tool}",
        "tenant_name": "{tenant}/x/{tool}",
        "client_name": "{tenant}/{client}/{tool}",
    }
    section = settings_of(server, **names).aws
    found = [section.name_for(want) for want in (asked("a"), asked("a", "b/.."), asked("a", "b", "c d"))]
    assert found == ["t-a", "b_2F_2E_2E/x/a", "b/c_20d/a"]


FAILURES = {
    "400 AccessDeniedException": "400 AccessDeniedException$",
    "400 DecryptionFailure": "400 DecryptionFailure$",
    "400 canary-code": "status 400$",
    "500 InternalServiceError": "500 InternalServiceError$",
    "400 ThrottlingException": "400 ThrottlingException$",
    "redirect": "status 307$",
    "cut": "RemoteProtocolError",
    "<html>": "no SecretString",
    '{"SecretString": 5}': "no SecretString",
    "x" * 300_000: "more than",
}


@pytest.mark.parametrize("mode", FAILURES, ids=range(len(FAILURES)))
def test_what_goes_wrong_is_a_failure_in_its_own_words(
    mode: str, server: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may pass is tried three times; what the service says beside its codes is not repeated."""
    monkeypatch.setattr(guarded_http, "PAUSES", (0.0, 0.0))
    server.mode = mode
    with pytest.raises(ProviderFailed, match=FAILURES[mode]) as caught:
        resolved(server)
    assert "canary" not in str(caught.value)
    passes = mode in ("400 ThrottlingException", "500 InternalServiceError", "cut")
    assert len(server.asked) == (3 if passes else 1)


def test_a_binary_secret_is_a_failure(server: AwsServer) -> None:
    """It is no text."""
    server.secrets[NAME].append(None)
    with pytest.raises(ProviderFailed, match="binary"):
        resolved(server)


def test_throttling_passes(server: AwsServer) -> None:
    """Within the time that the provider has."""
    server.mode, server.fails = "400 ThrottlingException", 1
    assert values_of(resolved(server)) == {"token": "one"}


def test_a_silent_service_is_a_failure_in_time(server: AwsServer) -> None:
    """It keeps nobody else waiting either."""
    server.mode = "hang"
    providers = Providers({"p": AwsProvider(settings_of(server, timeout=0.3))}, timeout=0.3)
    try:
        outcome = run(providers.ask(Wanted(WANT, ("p",))))
    finally:
        providers.close()
    assert "0.3 s" in outcome.failure or "ReadTimeout" in outcome.failure


def test_where_nothing_may_connect_it_does_not(server: AwsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard of outbound connections judges it; proxies of the environment are not used."""
    monkeypatch.setattr(guarded_http, "PAUSES", ())
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert resolved(server) is not None
    with pytest.raises(ProviderFailed, match="ConnectError"):
        resolved(server, egress={"denied_networks": ["127.0.0.0/8"]})


def test_a_worker_does_not_start_with_what_cannot_work(
    server: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the setting, or what to install."""
    for section, field in (({"region": None}, "aws.region"), ({"ca_file": "/none"}, "aws.ca_file")):
        with pytest.raises(ConfigurationError) as caught:
            load_providers(settings_of(server, **section))
        assert caught.value.data["field"] == field
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigurationError, match=r"canalgate\[aws\]"):
        load_providers(settings_of(server))


def test_the_address_is_the_regions_own_unless_it_is_set(server: AwsServer) -> None:
    """By AWS' rule for it."""
    provider = AwsProvider(settings_of(server, endpoint_url=None))
    assert provider._url == "https://secretsmanager.eu-central-1.amazonaws.com/"


def test_the_example_of_the_documents_works(
    server: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of a server of ours."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-aws-secret")
    places = {"https://vpce-1.secretsmanager.eu-central-1.vpce.amazonaws.com": server.url}
    settings = documented("aws", tmp_path, places)
    server.put("canalgate/github/acme", {"token": "of the example"})
    found = run(load_providers(settings)["aws"].resolve(asked("github", "acme")))
    assert values_of(found) == {"token": "of the example"}
