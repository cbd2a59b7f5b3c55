"""The provider vault, against a server that speaks its HTTP API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hvac
import pytest

from common.ports import CredentialsProvider
from common.settings import Settings
from gateway_worker.credentials.vault import MOST_BYTES, VaultProvider, path_of
from tests.support.aio import on_loop, run
from tests.support.backends import http_backend
from tests.support.servers.vault import VaultServer
from tests.worker.credentials.contract import Known, ProviderContract, asked, values_of

APPROLE = {"auth": "approle", "role_id": "role-id", "secret_id": "secret-id"}
WANT = asked("github", "acme")
PATH = "canalgate/github/acme"


@contextmanager
def serving(vault: VaultServer, *, timeout: float = 5.0, **section: Any) -> Iterator[VaultProvider]:
    """A provider that asks this server."""
    with http_backend(vault.handle) as backend:
        url = backend.url.removesuffix("/mcp")
        settings = Settings.model_validate(
            {"credentials": {"timeout": timeout}, "vault": {"url": url, **(section or APPROLE)}}
        )
        yield VaultProvider(settings)


class TestVault(ProviderContract):
    """As every provider."""

    @contextmanager
    def know(self, known: Known) -> Iterator[CredentialsProvider]:
        vault = VaultServer()
        with serving(vault) as provider:
            for request, values in known.items():
                vault.put(path_of(provider._vault, request), **values)
            yield provider


@pytest.fixture
def vault() -> VaultServer:
    """One that knows the tenant's token for one tool."""
    server = VaultServer()
    server.put(PATH, token="one")
    return server


@pytest.mark.parametrize(
    "section",
    [
        {"auth": "token", "token": "root-token"},
        {"auth": "token", "token_file": "root-token\n"},
        APPROLE,
        {**APPROLE, "auth_mount": "approle/eu"},
        {"auth": "approle", "role_id": "role-id", "secret_id_file": "secret-id\n"},
        {"auth": "kubernetes", "role": "worker", "jwt_file": "a-jwt\n", "auth_mount": "kube-eu"},
        {**APPROLE, "namespace": "team/a"},
    ],
)
def test_a_worker_makes_itself_known(section: dict[str, Any], vault: VaultServer, tmp_path: Path) -> None:
    """By token, AppRole or Kubernetes, also in a namespace; files are read for it."""
    vault.namespace = section.get("namespace")
    for key in [key for key in section if key.endswith("_file")]:
        (tmp_path / key).write_text(section[key])
        section = {**section, key: str(tmp_path / key)}
    with serving(vault, **section) as provider:
        found = run(provider.resolve(WANT))
    assert values_of(found) == {"token": "one"}
    assert found is not None
    assert found.version == "kv 1"


def test_a_new_version_is_another_secret(vault: VaultServer) -> None:
    """And a deleted one is none."""
    with serving(vault) as provider:
        before = run(provider.resolve(WANT))
        vault.put(PATH, token="two")
        after = run(provider.resolve(WANT))
        assert before is not None
        assert after is not None
        assert (values_of(after), after.version) == ({"token": "two"}, "kv 2")
        assert before.fingerprint != after.fingerprint
        vault.delete(PATH)
        assert run(provider.resolve(WANT)) is None
    assert vault.count("login") == 1


def test_a_token_that_has_ended_is_replaced(vault: VaultServer) -> None:
    """The server says 403; the worker logs in anew, and reads again."""
    with serving(vault) as provider:
        run(provider.resolve(WANT))
        vault.expire()
        assert values_of(run(provider.resolve(WANT))) == {"token": "one"}
    assert vault.count("login") == 2


def test_a_token_is_renewed_before_it_ends(vault: VaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """When two thirds of its life are over; one that cannot be renewed is replaced."""
    vault.lease = 30.0
    clock = [time.monotonic()]
    monkeypatch.setattr("gateway_worker.credentials.vault.time", SimpleNamespace(monotonic=lambda: clock[0]))
    with serving(vault) as provider:
        for _ in range(4):
            run(provider.resolve(WANT))
            clock[0] += 21.0
        assert (vault.count("login"), vault.count("renew-self")) == (1, 3)
        vault.renewable = False
        run(provider.resolve(WANT))
        assert (vault.count("login"), vault.count("renew-self")) == (2, 4)


def test_a_token_that_is_over_is_not_sent(vault: VaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would only be refused."""
    vault.lease = 30.0
    clock = [time.monotonic()]
    monkeypatch.setattr("gateway_worker.credentials.vault.time", SimpleNamespace(monotonic=lambda: clock[0]))
    with serving(vault) as provider:
        run(provider.resolve(WANT))
        clock[0] += 29.5
        run(provider.resolve(WANT))
    assert (vault.count("login"), vault.count("renew-self"), vault.count("GET")) == (2, 0, 2)


@on_loop
async def test_many_log_in_once() -> None:
    """Those that come together, and those whose token was refused together."""
    vault = VaultServer()
    vault.put(PATH, token="one")
    with serving(vault) as provider:
        await asyncio.gather(*(provider.resolve(WANT) for _ in range(8)))
        assert vault.count("login") == 1
        vault.expire()
        await asyncio.gather(*(provider.resolve(WANT) for _ in range(8)))
        assert vault.count("login") == 2


def test_what_is_forbidden_is_a_failure_and_asked_for_twice_at_most(vault: VaultServer) -> None:
    """It may be the token's fault, which a new one shows."""
    vault.forbidden.add(PATH)
    with serving(vault) as provider:
        with pytest.raises(hvac.exceptions.Forbidden):
            run(provider.resolve(WANT))
        assert (vault.count("login"), vault.count("GET")) == (2, 2)


@pytest.mark.parametrize("section", [{**APPROLE, "secret_id": "wrong"}, {"auth": "token", "token": "wrong"}])
def test_a_login_that_is_refused_is_a_failure(section: dict[str, Any], vault: VaultServer) -> None:
    """And its words hold no secret."""
    with serving(vault, **section) as provider, pytest.raises(hvac.exceptions.VaultError) as caught:
        run(provider.resolve(WANT))
    assert "secret-id" not in str(caught.value)


def test_a_sealed_server_is_a_failure_until_it_is_unsealed(vault: VaultServer) -> None:
    """Nothing is remembered of it."""
    vault.sealed = True
    with serving(vault) as provider:
        with pytest.raises(hvac.exceptions.VaultDown):
            run(provider.resolve(WANT))
        vault.sealed = False
        assert values_of(run(provider.resolve(WANT))) == {"token": "one"}


def test_a_silent_server_is_a_failure_in_time(vault: VaultServer) -> None:
    """Its threads end by themselves."""
    vault.silent = True
    with serving(vault, timeout=0.2) as provider:
        with pytest.raises(OSError, match="timed out"):
            run(provider.resolve(WANT))
        vault.going_on.set()


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("drips", ["head", "body"])
def test_an_answer_has_one_time_for_all_of_it(vault: VaultServer, drips: str, kept: bool) -> None:
    """Each byte comes in time, and there is no end; on a new connection, and on one that was kept."""
    vault.drips = "" if kept else drips
    with serving(vault, timeout=0.4) as provider:
        if kept:
            run(provider.resolve(WANT))
            vault.drips = drips
        begun = time.monotonic()
        with pytest.raises(OSError, match="timed out"):
            run(provider.resolve(WANT))
        assert time.monotonic() - begun < 3
        vault.going_on.set()


def test_an_answer_has_a_bounded_size(vault: VaultServer) -> None:
    """More is not read into memory, and no connection goes on from its middle."""
    vault.put(PATH, token="x" * (MOST_BYTES + 1))
    with serving(vault) as provider:
        with pytest.raises(OSError, match="too large"):
            run(provider.resolve(WANT))
        vault.put(PATH, token="x" * 1000)
        assert values_of(run(provider.resolve(WANT))) == {"token": "x" * 1000}


@pytest.mark.parametrize("value", [5, None, {"a": 1}, ["x"], True])
def test_a_value_that_is_no_text_is_a_failure(value: Any, vault: VaultServer) -> None:
    """It is not turned into one that nobody meant."""
    vault.put(PATH, token=value)
    with serving(vault) as provider, pytest.raises(TypeError):
        run(provider.resolve(WANT))


def test_the_environment_is_not_asked_who_the_worker_is(
    vault: VaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings say it."""
    monkeypatch.setenv("VAULT_TOKEN", vault.root)
    with serving(vault, auth="token", token="wrong") as provider, pytest.raises(hvac.exceptions.Forbidden):
        run(provider.resolve(WANT))


def test_paths_are_made_of_the_templates() -> None:
    """One for each scope."""
    section = {
        "tool_path": "t/{tool}",
        "tenant_path": "{tenant}/x/{tool}",
        "client_path": "{tenant}/{client}/{tool}",
    }
    vault = Settings.model_validate({"vault": section}).vault
    found = [path_of(vault, request) for request in (asked("a"), asked("a", "b/.."), asked("a", "b", "c d"))]
    assert found == ["t/a", "b_2F_2E_2E/x/a", "b/c_20d/a"]
