"""Plug-ins among the examples keep their contracts, are found by their dotted paths; and careless ones fail."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from common.contracts.credentials import CredentialsProviderContract, wanted
from common.contracts.identity import IdentityResolverContract, request
from common.domain.credentials import Credentials
from common.domain.ids import ClientId, TenantId
from common.domain.invocation import Caller
from common.policy.testing import PolicyEvaluatorContract, question
from common.ports import CredentialsProvider, IdentityResolver, PolicyEvaluator
from common.settings import IdentitySettings, Settings
from examples.policy_evaluator import SmallPayments
from gateway_web.identity.custom import load_custom
from gateway_worker.credentials.providers import load_providers

KEY = "k-1"
RESOLVER, PROVIDER = "examples.identity_resolver:PortalUsers", "examples.credentials_provider:JsonFile"


def signed(who: str) -> str:
    return f"{who}/{hmac.new(KEY.encode(), who.encode(), hashlib.sha256).hexdigest()}"


class TestResolver(IdentityResolverContract):
    """As the settings name it."""

    known: Sequence[Any] = [
        (request({"x-portal-user": signed("acme/bot")}), ("acme", "bot")),
        (request({"x-portal-user": signed("b/ö")}), ("b", "ö")),
    ]
    foreign: Sequence[Any] = [request({"authorization": "Bearer x"})]
    bad: Sequence[Any] = [
        request({"x-portal-user": value})
        for value in ("", "acme", "acme/bot", "acme/bot/", "acme/bot/00", signed("acme/bot") + "/x")
    ]

    @pytest.fixture(autouse=True)
    def _key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PORTAL_KEY", KEY)

    def resolver(self) -> IdentityResolver:
        return load_custom(RESOLVER, IdentitySettings())


class TestProvider(CredentialsProviderContract):
    """As the settings name it."""

    known = [  # noqa: RUF012
        (wanted("github", tenant="acme"), {"token": "secret-1", "user": "secret-2"}),
        (wanted("maps"), {"api_key": "secret-3"}),
    ]

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "secrets.json"
        path.write_bytes(
            orjson.dumps({asked.tool: {asked.tenant or "*": dict(values)} for asked, values in self.known})
        )
        monkeypatch.setenv("SECRETS_FILE", str(path))

    def provider(self) -> CredentialsProvider:
        settings = Settings.model_validate({"credentials": {"providers": [PROVIDER]}})
        return load_providers(settings)[PROVIDER]


class TestEvaluator(PolicyEvaluatorContract):
    """The one that is an example."""

    def evaluator(self) -> PolicyEvaluator:
        return SmallPayments({"limit": 100})

    allowed = question(arguments={"amount": 100})
    denied = question(arguments={"amount": 101})


class _Careless:
    """Trusts whatever a header says, and knows everything."""

    def resolve(self, asked: Any) -> Caller:
        return Caller(tenant=TenantId("acme"), client=ClientId("bot"))


class _CarelessProvider:
    async def resolve(self, asked: Any) -> Credentials:
        await asyncio.sleep(0)
        return Credentials.of({"token": "t"})


def test_a_careless_resolver_fails() -> None:
    """Each of the tests that it should fail."""

    class Careless(IdentityResolverContract):
        known: Sequence[Any] = [(request({}), ("acme", "bot"))]
        foreign: Sequence[Any] = [request({"x": "y"})]
        bad: Sequence[Any] = [request({"x": ""})]

        def resolver(self) -> IdentityResolver:
            return _Careless()

    tests = Careless()
    tests.test_it_knows_who_calls()
    for name in (
        "what_is_not_of_its_kind_is_left_to_others",
        "what_names_nobody_is_refused",
        "odd_requests_are_no_accident",
    ):
        with pytest.raises(AssertionError):
            getattr(tests, f"test_{name}")()


def test_a_careless_provider_fails() -> None:
    """The one that knows everything."""

    class Careless(CredentialsProviderContract):
        known = [(wanted("a", tenant="b"), {"token": "t"})]  # noqa: RUF012

        def provider(self) -> CredentialsProvider:
            return _CarelessProvider()

    with pytest.raises(AssertionError):
        Careless().test_what_it_does_not_know_is_none()


def test_contracts_need_no_pytest() -> None:
    """A plug-in author may have another runner."""
    code = (
        "import sys; sys.modules['pytest'] = None; import common.contracts.identity, common.contracts.credentials,"
        "common.policy.testing, common.audit.sink_contract"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
