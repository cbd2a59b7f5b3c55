"""A worker takes other settings over: credentials, policy and times of what stock producers send."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import orjson
import pytest

from common.domain.errors import ConfigurationError, PolicyDenied
from common.processes import ProcessGuard
from common.settings import Settings
from common.settings.changes import changes_between
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.tenants.view import Tenants
from gateway_worker.credentials import service as service_module
from gateway_worker.credentials.service import CredentialService
from gateway_worker.journey import Journey
from gateway_worker.judging import Judging
from gateway_worker.producer import Producer
from tests.support.aio import on_loop, until
from tests.support.backends import FixedCatalogue, entry_of, invocation, stdio_tool
from tests.worker.credentials.desk import Steered, by_caller, credential_desk, with_credentials
from tests.worker.test_producer import FixedClock, adopted_head, payload, stock

VAULT = {"url": "https://vault.example:8200", "auth": "token", "token": "s"}
APPROLE = {"url": "https://vault.example:8200", "auth": "approle", "role_id": "r", "secret_id": "s"}
KUBERNETES = {"url": "https://vault.example:8200", "auth": "kubernetes", "role": "r"}

AWS = {"region": "eu-central-1", "access_key_id": "k", "secret_access_key": "s"}
GCP = {"project": "p-1", "endpoint_url": "https://g"}
ISSUED = {"tool": "x", "token_url": "https://as/token", "client_id": "c", "client_secret": "s"}


def of_credentials(**given: Any) -> dict[str, Any]:
    return {"credentials": given}


def of_exchange(**given: Any) -> dict[str, Any]:
    return {"token_exchange": {"exchanges": [ISSUED], "issuer": "i", "signing_key": "k", **given}}


def of_vault(base: dict[str, Any], **given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"vault": base}, {"vault": {**base, **given}}


LIVE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "credentials.providers": ({}, of_credentials(providers=["environment"])),
    "credentials.timeout": ({}, of_credentials(timeout=1.5)),
    "credentials.cache_ttl": ({}, of_credentials(cache_ttl=7)),
    "credentials.cache_size": ({}, of_credentials(cache_size=7)),
    "credentials.negative_ttl": ({}, of_credentials(negative_ttl=7)),
    "credentials.refresh_ahead": ({}, of_credentials(refresh_ahead=7)),
    "credentials.static": ({}, of_credentials(static=[{"tool": "t", "tenant": "a", "values": {"key": "v"}}])),
    "credentials.environment_prefix": ({}, of_credentials(environment_prefix="OTHER")),
    "credentials.directory": ({}, of_credentials(directory="/else")),
    "credentials.discovery_tenant": ({}, of_credentials(discovery_tenant="a")),
    "credentials.discovery_client": (
        of_credentials(discovery_tenant="a"),
        of_credentials(discovery_tenant="a", discovery_client="c"),
    ),
    "credentials.discovery_subject": (
        of_credentials(discovery_tenant="a", discovery_client="c"),
        of_credentials(discovery_tenant="a", discovery_client="c", discovery_subject="s"),
    ),
    "client_credentials.clients": ({}, {"client_credentials": {"clients": [ISSUED]}}),
    "client_credentials.leeway": ({}, {"client_credentials": {"leeway": 3}}),
    "token_exchange.exchanges": (of_exchange(exchanges=[]), of_exchange()),
    "token_exchange.issuer": (of_exchange(), of_exchange(issuer="other")),
    "token_exchange.signing_key": (of_exchange(), of_exchange(signing_key="other")),
    "token_exchange.signing_key_file": (
        of_exchange(),
        of_exchange(signing_key=None, signing_key_file="/k"),
    ),
    "token_exchange.signing_key_id": (of_exchange(), of_exchange(signing_key_id="k")),
    "token_exchange.signing_algorithm": (of_exchange(), of_exchange(signing_algorithm="ES256")),
    "token_exchange.actor": (of_exchange(), of_exchange(actor="a")),
    "token_exchange.leeway": (of_exchange(), of_exchange(leeway=3)),
    **{
        f"aws.{key}": ({"aws": AWS}, {"aws": {**AWS, key: value}})
        for key, value in {
            "region": "us-east-1",
            "endpoint_url": "https://a",
            "tool_name": "x/{tool}",
            "tenant_name": "x/{tool}/{tenant}",
            "client_name": "x/{tool}/{tenant}/{client}",
            "version_stage": "x",
            "access_key_id": "other",
            "secret_access_key": "other",
            "session_token": "t",
            "ca_file": "/c",
        }.items()
    },
    **{
        f"gcp.{key}": ({"gcp": GCP}, {"gcp": {**GCP, key: value}})
        for key, value in {
            "project": "p-2",
            "endpoint_url": "https://other",
            "tool_name": "x-{tool}",
            "tenant_name": "x-{tool}-{tenant}",
            "client_name": "x-{tool}-{tenant}-{client}",
            "version": "3",
            "credentials_file": "/g",
            "anonymous": True,
            "ca_file": "/c",
        }.items()
    },
    "vault.url": ({}, {"vault": VAULT}),
    "vault.namespace": of_vault(VAULT, namespace="n"),
    "vault.mount": of_vault(VAULT, mount="other"),
    "vault.tool_path": of_vault(VAULT, tool_path="x/{tool}"),
    "vault.tenant_path": of_vault(VAULT, tenant_path="x/{tool}/{tenant}"),
    "vault.client_path": of_vault(VAULT, client_path="x/{tool}/{tenant}/{client}"),
    "vault.auth": ({"vault": VAULT}, {"vault": APPROLE}),
    "vault.auth_mount": of_vault(VAULT, auth_mount="m"),
    "vault.token": of_vault(VAULT, token="other"),
    "vault.token_file": ({"vault": VAULT}, {"vault": {**VAULT, "token": None, "token_file": "/t"}}),
    "vault.role_id": of_vault(APPROLE, role_id="other"),
    "vault.secret_id": of_vault(APPROLE, secret_id="other"),
    "vault.secret_id_file": (
        {"vault": APPROLE},
        {"vault": {**APPROLE, "secret_id": None, "secret_id_file": "/s"}},
    ),
    "vault.role": of_vault(KUBERNETES, role="other"),
    "vault.jwt_file": of_vault(KUBERNETES, jwt_file="/j"),
    "vault.ca_file": of_vault(VAULT, ca_file="/c"),
}
"""Of each live setting of workers alone: the settings before and after."""


@pytest.mark.parametrize("setting", LIVE)
def test_providers_and_what_is_kept_of_them_are_those_of_the_new_settings(
    setting: str,
    guard: ProcessGuard,
    address: StoreAddress,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The providers are made of the whole of them; cache, identities and the wait for one have their own part."""

    @on_loop
    async def scenario() -> None:
        before, after = map(Settings.model_validate, LIVE[setting])
        async with credential_desk(guard, address, keys, monkeypatch) as (_, service):
            made: list[Settings] = []
            provider = {"p": Steered(by_caller())}
            monkeypatch.setattr(
                service_module, "load_providers", lambda given: made.append(given) or provider
            )
            changes = changes_between(before, after)
            assert setting in changes.live
            commit = service.prepare(changes)
            assert commit is not None
            commit()
            section, _, key = setting.partition(".")
            assert getattr(getattr(made[0], section), key) == getattr(getattr(after, section), key)
            wanted = after.credentials
            assert service.cache._settings == service.identities._settings == wanted
            assert (service._providers.names, service._providers._timeout) == (("p",), wanted.timeout)

    scenario()


@on_loop
async def test_a_session_whose_secret_is_another_one_is_built_anew(
    guard: ProcessGuard, address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same providers with another answer, and by other providers; the same answer keeps the session."""
    entry = entry_of(with_credentials(stdio_tool(), env={"TOKEN": "key"}))
    settings = Settings()

    async def token(desk: Any) -> tuple[str, str]:
        found = orjson.loads(await desk.ask(entry, invocation("env")))
        return found["TOKEN"], await desk.ask(entry, invocation("pid"))

    def take(service: CredentialService, **providers: Steered) -> None:
        nonlocal settings
        monkeypatch.setattr(service_module, "load_providers", lambda _given: providers)
        other = Settings.model_validate(of_credentials(cache_ttl=settings.credentials.cache_ttl + 1))
        commit = service.prepare(changes_between(settings, other))
        assert commit is not None
        commit()
        settings = other

    async with credential_desk(guard, address, keys, monkeypatch, Steered(by_caller("1"))) as (desk, service):
        running = asyncio.create_task(service.run())
        first = await token(desk)
        take(service, p0=Steered(by_caller("1")))
        assert await token(desk) == first
        take(service, p0=Steered(by_caller("2")))
        service.look_now.set()
        identity = next(iter(service._in_use()))
        await until(lambda: identity.outdated, description="the session to be outdated")
        second = await token(desk)
        assert second[0].endswith("|2")
        assert second[1] != first[1]
        take(service, other=Steered(by_caller("3")))
        third = await token(desk)
        assert third[0].endswith("|3")
        running.cancel()


@on_loop
async def test_a_provider_that_cannot_be_made_changes_nothing(
    guard: ProcessGuard, address: StoreAddress, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old ones are asked on."""

    def broken(_settings: Settings) -> None:
        raise ConfigurationError("no such provider")

    async with credential_desk(guard, address, keys, monkeypatch, Steered(by_caller())) as (_, service):
        before = service._providers
        monkeypatch.setattr(service_module, "load_providers", broken)
        with pytest.raises(ConfigurationError):
            service.prepare(changes_between(Settings(), Settings.model_validate(of_credentials(timeout=1))))
        assert service._providers is before


@on_loop
async def test_calls_of_stock_producers_are_judged_and_timed_by_the_new_settings() -> None:
    """Policy, the tenant's quota, and the time of a call that names none."""
    open_ = {"tenants": {"allow_unlisted": True}}
    before = Settings.model_validate(open_)
    deny = {"effect": "deny", "tools": ["local"]}
    after = Settings.model_validate({**open_, "policy": {"rules": [deny]}, "runtime": {"request_timeout": 7}})
    keys = Keys("test")
    judging = Judging(before.policy, before.egress.rules, cast("Journey", None))
    tenants = Tenants(cast("Client", None), keys, before)
    producer = Producer(
        keys, FixedClock(), FixedCatalogue(entry_of(stdio_tool())).get, before, tenants, judging
    )
    call = invocation("echo")
    untimed = {name: value for name, value in payload(call).items() if name != "deadline"}
    await producer.judged(untimed, call.id)
    commit = producer.prepare(changes_between(before, after))
    await producer.judged(untimed, call.id)  # nothing holds before it is put in place
    commit()
    with pytest.raises(PolicyDenied):
        await producer.judged(untimed, call.id)
    _, made, _ = producer.adopted(stock(call), untimed)
    assert adopted_head(made).deadline == FixedClock().now() + 7000
