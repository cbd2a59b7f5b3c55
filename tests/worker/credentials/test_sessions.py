"""Credentials reach the backend: whose they are, where they stand, and what happens without them and after a change."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import orjson
import pytest

from common.credentials.orders import CredentialOrders, Order, Verb
from common.domain.credentials import Credentials
from common.domain.errors import CredentialUnavailable, InvocationTimeout
from common.domain.ids import TenantId, ToolId
from common.domain.tool import StdioTransport, Tool
from common.processes import ProcessGuard
from common.registry.registry import Registry
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from gateway_worker.credentials import identity
from gateway_worker.credentials import service as service_module
from gateway_worker.credentials.service import CredentialService
from gateway_worker.egress.link import LinkLost
from gateway_worker.sessions import ROTATED
from gateway_worker.tool_session import usable
from tests.support.aio import ended, on_loop, until
from tests.support.backends import EchoLog, echo_backend, entry_of, http_tool, invocation, stdio_tool
from tests.support.egress import ANYTHING
from tests.worker.credentials.desk import Steered, by_caller, by_turns, credential_desk, with_credentials
from tests.worker.session_desk import SessionDesk, swept

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


@on_loop
async def test_what_a_child_says_of_them_is_masked(desks: Desks) -> None:
    """On its standard error, which operators are shown: also what it was given by ``_meta`` alone."""
    script = (
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    meta = json.loads(line)['params'].get('_meta', {})\n"
        "    sys.exit(f\"got {os.environ['TOKEN']} and {meta['a']['b']} here\")\n"
    )
    transport = StdioTransport(command=sys.executable, args=("-c", script))
    tool = with_credentials(
        Tool(id=ToolId("local"), transport=transport), env={"TOKEN": "key"}, meta={"/a/b": "other"}
    )
    async with desks(Steered(by_caller())) as (desk, _):
        with pytest.raises(LinkLost) as caught:
            await desk.ask(entry_of(tool), invocation("env"))
        assert "got ******** and ******** here" in caught.value.detail


@on_loop
async def test_a_rotation_costs_no_call_and_crosses_nothing(desks: Desks) -> None:
    """Three tenants call without a pause while their secrets change again and again."""
    with echo_backend() as backend:
        tool = with_credentials(http_tool(backend.url), headers={"Authorization": "{key}"}, scope="client")
        provider = Steered(by_turns(map(str, itertools.count())))
        async with desks(provider) as (desk, service):
            entry, seen = entry_of(tool), set()

            async def calling(tenant: str) -> None:
                for _ in range(40):
                    found = await headers(desk, entry, tenant=tenant)
                    whose, _, of = found["authorization"].rpartition("|")
                    assert whose == f"remote|{tenant}|alice"
                    seen.add(of)

            callers = asyncio.gather(*(calling(tenant) for tenant in ("a", "b", "a-b")))
            while not callers.done():
                service.obey(Order(Verb.ROTATE, None, TenantId("a") if len(provider.asked) % 2 else None))
                await asyncio.sleep(0.02)
            await callers
            assert len(seen) > 3


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


# -- others than before ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def kept_right(service: CredentialService) -> AsyncIterator[None]:
    """The service running."""
    running = asyncio.create_task(service.run())
    try:
        yield
    finally:
        await ended(running)


@pytest.mark.parametrize("verb", Verb)
def test_an_order_reaches_every_worker(
    verb: Verb, desks: Desks, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next call has a new child with the new value; calls under way end on the old one; others stay."""
    monkeypatch.setattr(service_module, "LOOK_INTERVAL", 0.02)
    tool = with_credentials(stdio_tool(), env={"TOKEN": "key"})
    Registry(client, keys, ANYTHING).put(tool)

    @on_loop
    async def scenario() -> None:
        provider = Steered(by_caller("1"))
        async with desks(provider) as (desk, service), kept_right(service):
            entry = entry_of(tool)
            assert (await env(desk, entry))["TOKEN"].endswith("|1")
            other = await desk.ask(entry, invocation("pid", tenant="other"))
            long = asyncio.create_task(desk.ask(entry, invocation("sleep", {"seconds": 1})))
            (session,) = [found for found in desk.all() if "acme" in found.key.session]
            await until(lambda: session.in_flight, description="the call to be under way")
            provider.answer = by_caller("2")
            orders = CredentialOrders(client, keys)
            give = orders.rotate if verb is Verb.ROTATE else orders.flush
            await asyncio.to_thread(give, tool=tool.id, tenant=TenantId("acme"), actor="me")
            await until(lambda: session.outdated, description="the session to be outdated")
            assert (await env(desk, entry))["TOKEN"].endswith("|2")
            await long
            assert await desk.ask(entry, invocation("pid", tenant="other")) == other
            await until(lambda: session.why == ROTATED, description="the old session to be closed")

    scenario()


def test_an_order_to_rotate_builds_anew_also_what_did_not_change(desks: Desks) -> None:
    """An order to flush does not."""

    @on_loop
    async def scenario() -> None:
        async with desks(Steered(by_caller())) as (desk, service):
            entry = entry_of(with_credentials(stdio_tool(), env={"TOKEN": "key"}))
            first = await desk.ask(entry, invocation("pid"))
            service.obey(Order(Verb.FLUSH))
            service._look_again()
            await until(lambda: not service._looks, description="the answer")
            assert await desk.ask(entry, invocation("pid")) == first
            service.obey(Order(Verb.ROTATE, ToolId("another")))
            service.obey(Order(Verb.ROTATE, None, TenantId("another")))
            assert await desk.ask(entry, invocation("pid")) == first
            service.obey(Order(Verb.ROTATE))
            assert await desk.ask(entry, invocation("pid")) != first

    scenario()


@on_loop
async def test_a_changed_secret_is_found_without_an_order(
    desks: Desks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its time is over; the journal says so once, with no value, and nothing while it stays as it is."""
    monkeypatch.setattr(service_module, "LOOK_INTERVAL", 0.02)
    provider = Steered(by_caller("canary-10"))
    async with desks(provider, cache_ttl=0.05) as (desk, service), kept_right(service):
        entry = entry_of(with_credentials(stdio_tool(), env={"TOKEN": "key"}))
        await env(desk, entry)
        await until(lambda: len(provider.asked) > 3, description="it to be asked for again and again")
        (session,) = desk.all()
        assert not session.outdated
        provider.answer = RuntimeError()
        await until(lambda: service.counts["p0", "failed"] > 2, description="a few failures")
        assert not session.outdated, "a provider that is away takes nothing from whom it gave to"
        provider.answer = by_caller("canary-11")
        await until(lambda: session.outdated, description="the session to be outdated")
        assert (await env(desk, entry))["TOKEN"].endswith("|canary-11")
        await service._outbox.flushed(5)
        found = await desk.redis.command("XRANGE", service._keys.audit, "-", "+")
        told = [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in found]
        ours = [event for event in told if event[b"kind"] == b"credential_resolution"]
        assert [event[b"reason"] for event in ours] == [b"found", b"failed", b"found"]
        assert {(event[b"tool"], event[b"tenant"]) for event in ours} == {(b"local", b"acme")}
        assert b"canary" not in repr(found).encode()


@on_loop
async def test_a_secret_that_was_taken_away_ends_the_sessions_that_have_it(desks: Desks) -> None:
    """The next call is refused; an idle session is closed by the sweep."""
    provider = Steered(by_caller())
    async with desks(provider) as (desk, service), swept(desk):
        entry = entry_of(with_credentials(stdio_tool(), env={"TOKEN": "key"}))
        await env(desk, entry)
        (session,) = desk.all()
        provider.answer = None
        service.obey(Order(Verb.FLUSH))
        service._look_again()
        await until(lambda: session.why == ROTATED and session.ended, description="the sweep to close it")
        with pytest.raises(CredentialUnavailable):
            await env(desk, entry)


@on_loop
async def test_credentials_that_expire_end_with_their_time(
    desks: Desks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked for ahead of it, and nobody uses them beyond it, also if nobody gives others."""
    monkeypatch.setattr(service_module, "LOOK_INTERVAL", 0.02)
    expiring = [Credentials.of({"key": f"k{number}"}, expires_in=2.4) for number in range(2)]
    provider = Steered(expiring[0])
    async with desks(provider, refresh_ahead=1.6) as (desk, service), kept_right(service):
        entry = entry_of(with_credentials(stdio_tool(), env={"TOKEN": "key"}))
        begun = time.monotonic()
        await env(desk, entry)
        (session,) = desk.all()
        provider.answer = RuntimeError()
        await until(lambda: service.counts["p0", "failed"] > 0, description="it to be asked for ahead")
        assert time.monotonic() - begun < 2.3
        assert not session.outdated
        await until(lambda: session.outdated, description="its end")
        assert time.monotonic() - begun >= 2.4
        provider.answer = expiring[1]
        assert (await env(desk, entry))["TOKEN"] == "k1"


@on_loop
async def test_optional_credentials_that_come_later_are_taken_up(
    desks: Desks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that began without is built anew."""
    monkeypatch.setattr(service_module, "LOOK_INTERVAL", 0.02)
    provider = Steered(RuntimeError())
    async with desks(provider) as (desk, service), kept_right(service):
        entry = entry_of(with_credentials(stdio_tool(), env={"TOKEN": "key"}, mode="optional"))
        assert "TOKEN" not in await env(desk, entry)
        (session,) = desk.all()
        provider.answer = by_caller()
        await until(lambda: session.outdated, description="the session to be outdated")
        assert "TOKEN" in await env(desk, entry)


# -- the gateway's own connections ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "settings", "seen"),
    [
        ("tool", {}, "local|None|None|1"),
        ("tenant", {}, None),
        ("tenant", {"discovery_tenant": "ops"}, "local|ops|None|1"),
        ("client", {"discovery_tenant": "ops"}, None),
        ("client", {"discovery_tenant": "ops", "discovery_client": "bot"}, "local|ops|bot|1"),
    ],
)
def test_the_gateway_itself_is_who_the_settings_say(
    scope: str, settings: dict[str, str], seen: str | None, desks: Desks
) -> None:
    """Never the caller of the moment; nobody, if they say nobody."""

    @on_loop
    async def scenario() -> None:
        async with desks(Steered(by_caller()), **settings) as (_, service):
            tool = with_credentials(stdio_tool(), env={"TOKEN": "key"}, scope=scope)
            given = await service.identities.of_gateway(tool)
            assert given.env.get("TOKEN") == seen

    scenario()
