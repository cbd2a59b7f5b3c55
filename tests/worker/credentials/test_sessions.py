"""Credentials reach the backend: whose they are, where they stand, and what happens without them and after a change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import orjson
import pytest

from common.domain.credentials import Credentials
from common.domain.errors import CredentialUnavailable, InvocationTimeout
from common.processes import ProcessGuard
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from gateway_worker.credentials import identity
from gateway_worker.credentials.service import CredentialService
from gateway_worker.tool_session import usable
from tests.support.aio import on_loop
from tests.support.backends import EchoLog, echo_backend, entry_of, http_tool, invocation, stdio_tool
from tests.worker.credentials.desk import Steered, by_caller, credential_desk, with_credentials
from tests.worker.session_desk import SessionDesk

Desks = Callable[..., AbstractAsyncContextManager[tuple[SessionDesk, CredentialService]]]


@pytest.fixture
def desks(
    guard: ProcessGuard, address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> Desks:
    """Makes desks; each is closed at its end."""
    return partial(credential_desk, guard, address, keys, monkeypatch)


async def env(desk: SessionDesk, entry: Any, **caller: str) -> dict[str, str]:
    """The environment of the child that serves this caller."""
    found: dict[str, str] = orjson.loads(await desk.ask(entry, invocation("env", **caller)))
    return found


async def headers(desk: SessionDesk, entry: Any, **caller: str) -> dict[str, str]:
    """The headers with which this caller's call came to the backend."""
    found: dict[str, str] = orjson.loads(
        await desk.ask(entry, invocation("headers", tool="remote", **caller))
    )
    return found


# -- where they stand -----------------------------------------------------------------------------------


@on_loop
async def test_a_child_gets_them_in_its_environment(desks: Desks) -> None:
    """Each tenant's child its own; they win over what the definition says; nothing else is there."""
    tool = with_credentials(stdio_tool(env={"TOKEN": "declared", "PLAIN": "p"}), env={"TOKEN": "key"})
    async with desks(Steered(by_caller())) as (desk, _):
        entry = entry_of(tool)
        found = {tenant: await env(desk, entry, tenant=tenant) for tenant in ("a-b", "a")}
        assert {tenant: seen["TOKEN"] for tenant, seen in found.items()} == {
            "a-b": "local|a-b|None|1",
            "a": "local|a|None|1",
        }
        assert found["a"]["PLAIN"] == "p"
        assert "o-value" not in str(found)


@on_loop
async def test_every_request_of_an_http_session_has_them_in_its_headers(desks: Desks) -> None:
    """From the first on, and whatever the definition says under another spelling."""
    with echo_backend() as backend:
        tool = with_credentials(
            http_tool(backend.url, headers={"authorization": "declared", "X-Plain": "p"}),
            headers={"Authorization": "Bearer {key}", "X-Two": "{{{other}}}"},
        )
        async with desks(Steered(by_caller())) as (desk, _):
            seen = await headers(desk, entry_of(tool), tenant="acme")
            assert seen["authorization"] == "Bearer remote|acme|None|1"
            assert (seen["x-two"], seen["x-plain"]) == ("{o-value}", "p")
        assert {request.headers["authorization"] for request in backend.requests} == {
            "Bearer remote|acme|None|1"
        }


@on_loop
async def test_every_request_has_them_in_its_meta(desks: Desks, echo_log: EchoLog) -> None:
    """Also the first one; a caller cannot put others there, and keeps what is his."""
    tool = with_credentials(
        stdio_tool(env=echo_log.env), meta={"com.example/token": "key", "/auth/deep/token": "other"}
    )
    async with desks(Steered(by_caller())) as (desk, _):
        meta = {"com.example/token": "forged", "auth": {"deep": {"token": "forged"}, "own": 1}, "mine": 2}
        await desk.ask(entry_of(tool), invocation("echo", {"text": "x"}, meta=meta))
        for method in ("initialize", "tools/call"):
            (message,) = echo_log.received(method)
            sent = message["params"]["_meta"]
            assert sent["com.example/token"] == "local|acme|None|1"
            assert sent["auth"]["deep"] == {"token": "o-value"}
        assert (sent["mine"], sent["auth"]["own"]) == (2, 1)


@pytest.mark.parametrize(
    ("scope", "seen"),
    [("tool", "local|None|None|1"), ("tenant", "local|acme|None|1"), ("client", "local|acme|alice|1")],
)
def test_the_scope_says_whose_they_are(scope: str, seen: str, desks: Desks) -> None:
    """The tool's own, the tenant's, the client's; nobody is asked for more than that."""

    @on_loop
    async def scenario() -> None:
        async with desks(Steered(by_caller())) as (desk, _):
            entry = entry_of(with_credentials(stdio_tool(), env={"TOKEN": "key"}, scope=scope))
            assert (await env(desk, entry))["TOKEN"] == seen

    scenario()


@on_loop
async def test_a_tenant_is_asked_for_once(desks: Desks) -> None:
    """However many of its clients come at once."""
    provider = Steered(by_caller())
    async with desks(provider) as (desk, _):
        entry = entry_of(with_credentials(stdio_tool(), env={"TOKEN": "key"}))
        await asyncio.gather(*(env(desk, entry, client=f"c{number}") for number in range(4)))
        assert len(provider.asked) == 1


# -- without them ---------------------------------------------------------------------------------------

FAILURES = [
    (None, "missing"),
    (Credentials.of({}), "missing"),
    (Credentials.of({"unwanted": "canary-9"}), "missing"),
    (Credentials.of({"key": "a\0canary-9"}), "missing"),
    (RuntimeError("canary-9"), "failed"),
    (SystemExit("canary-9"), "failed"),
    ("canary-9", "failed"),
    ({"key": "canary-9"}, "failed"),
    (Credentials.of({"key": "canary-9"}, expires_in=0), "failed"),
]


@pytest.mark.parametrize(("answer", "reason"), FAILURES)
def test_a_tool_that_requires_them_starts_nothing_without(
    answer: object, reason: str, desks: Desks, echo_log: EchoLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal says why, and repeats nothing; the next call asks again."""
    monkeypatch.setattr(identity, "NEW_ANSWER_AFTER", 0.0)

    @on_loop
    async def scenario() -> None:
        provider = Steered(answer)
        async with desks(provider) as (desk, _):
            entry = entry_of(with_credentials(stdio_tool(env=echo_log.env), env={"TOKEN": "key"}))
            with pytest.raises(CredentialUnavailable) as caught:
                await env(desk, entry)
            assert caught.value.data == {"reason": reason}
            assert "canary-9" not in f"{caught.value!r} {caught.value.message}"
            assert not echo_log.path.exists()
            provider.answer = by_caller()
            assert (await env(desk, entry))["TOKEN"] == "local|acme|None|1"

    scenario()


@pytest.mark.parametrize("answer", [answer for answer, _ in FAILURES])
def test_a_tool_that_would_like_them_goes_on_without(answer: object, desks: Desks) -> None:
    """As its definition says."""

    @on_loop
    async def scenario() -> None:
        async with desks(Steered(answer)) as (desk, _):
            tool = with_credentials(stdio_tool(env={"PLAIN": "p"}), env={"TOKEN": "key"}, mode="optional")
            seen = await env(desk, entry_of(tool))
            assert ("TOKEN" in seen, seen["PLAIN"]) == (False, "p")

    scenario()


@on_loop
async def test_a_provider_that_hangs_has_its_time_and_no_more(desks: Desks) -> None:
    """Whether it waits, or blocks its thread; others are asked meanwhile."""

    def block(_request: object) -> None:
        time.sleep(0.8)

    waiting, blocking, good = Steered(by_caller()), Steered(block), Steered(by_caller())
    waiting.held = True
    async with desks(waiting, blocking, good, timeout=0.2) as (desk, service):
        for name in ("p0", "p1"):
            entry = entry_of(with_credentials(stdio_tool(), env={"TOKEN": "key"}, providers=(name,)))
            begun = time.monotonic()
            with pytest.raises(CredentialUnavailable):
                await env(desk, entry)
            assert time.monotonic() - begun < 1.5
            assert service.counts[name, "failed"] == 1
        entry = entry_of(with_credentials(stdio_tool(), env={"TOKEN": "key"}, providers=("p2",)))
        assert (await env(desk, entry))["TOKEN"]


@on_loop
async def test_a_deadline_that_passes_meanwhile_is_not_the_tools_fault(desks: Desks) -> None:
    """The breaker does not count it."""
    provider = Steered(by_caller())
    provider.held = True
    async with desks(provider) as (desk, _):
        call = invocation("env")
        session = desk.take(call, entry_of(with_credentials(stdio_tool(), env={"TOKEN": "key"})))
        with pytest.raises(InvocationTimeout) as caught:
            await usable(session, 0.2)
        assert caught.value.data == {"stage": "credentials"}
        desk.sessions.give(session)


@on_loop
async def test_the_first_that_knows_wins_and_one_that_fails_ends_it(desks: Desks) -> None:
    """Who failed may have known others than the next one does."""
    first, second = Steered(), Steered(by_caller("2"))
    async with desks(first, second) as (desk, _):
        entry = entry_of(with_credentials(stdio_tool(), env={"TOKEN": "key"}))
        assert (await env(desk, entry))["TOKEN"].endswith("|2")
        first.answer = by_caller("1")
        assert (await env(desk, entry, tenant="other"))["TOKEN"].endswith("|1")
        first.answer = RuntimeError()
        with pytest.raises(CredentialUnavailable):
            await env(desk, entry, tenant="third")
