"""HTTPS backends: only who proves the name in the URL is spoken to."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

import pytest

from common.domain.tls import PLAIN_TLS, TlsRules
from common.tls import http_context
from gateway_worker.egress import http_pool
from gateway_worker.egress.http1 import ConnectionLost
from tests.support.aio import on_loop, until
from tests.support.certificates import Authority, client_context, server_context
from tests.support.servers.raw_http import RawConnection, ok, raw_server
from tests.worker.egress.http_clients import client_to, fetched, open_sockets, saying


@dataclass(frozen=True, slots=True)
class Tls:
    """A server's context, and a client's that trusts it. ``asked`` are the names that clients asked for."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    asked: list[str | None]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom clients of this module trust."""
    return Authority(tmp_path_factory.mktemp("tls"))


def trusting(monkeypatch: pytest.MonkeyPatch, context: ssl.SSLContext) -> None:
    """Have links use this context."""

    async def tls_context(_rules: TlsRules) -> ssl.SSLContext:
        return context

    monkeypatch.setattr(http_pool, "tls_context", tls_context)


@pytest.fixture
def tls(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Tls:
    """Both sides; links of this test trust the authority."""
    asked: list[str | None] = []
    server = server_context(authority.issue("localhost", "127.0.0.1"))
    server.sni_callback = lambda _socket, name, _context: asked.append(name)
    client = client_context(authority.file)
    trusting(monkeypatch, client)
    return Tls(server, client, asked)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_proven_name(tls: Tls, name: str) -> None:
    """By name, asked for in the handshake, or by address; the connection is used again."""

    @on_loop
    async def scenario() -> None:
        body = b"x" * 300_000
        async with raw_server(saying(ok(body)), tls=tls.server, name=name) as server:
            async with client_to(server.url) as client:
                for _ in range(5):
                    assert await fetched(client, b"y" * 300_000) == (200, body)
            assert server.connections == 1
            await until(lambda: not server.live, description="the connection to be closed")
        assert set(tls.asked) <= {name, None}

    scenario()
    assert name == "127.0.0.1" or set(tls.asked) == {name}


@pytest.mark.parametrize("why", ["unknown issuer", "another name"])
def test_an_unproven_name(tls: Tls, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a byte of the request is sent, credentials in it least of all."""
    got: list[bytes] = []

    async def listen(connection: RawConnection) -> None:
        got.append(await connection.ended())

    @on_loop
    async def scenario() -> None:
        before = open_sockets()
        if why == "unknown issuer":
            trusting(monkeypatch, ssl.create_default_context())
        name = "localhost" if why == "unknown issuer" else "localhost.localdomain"
        monkeypatch.setattr(http_pool, "_addresses", loopback)
        async with (
            raw_server(listen, tls=tls.server, name=name) as server,
            client_to(server.url, {"Authorization": "Bearer secret"}) as client,
        ):
            with pytest.raises(ConnectionLost, match="TLS failed") as lost:
                await fetched(client)
            assert lost.value.unsent
            assert "certificate" in lost.value.detail
        await until(lambda: open_sockets() <= before, description="sockets back", shown=open_sockets)
        assert got in ([], [b""])

    scenario()


async def loopback(_host: str, port: int) -> list[object]:
    """Every name is here."""
    return [(2, 1, 6, "", ("127.0.0.1", port))]


def test_a_handshake_that_never_ends(tls: Tls) -> None:
    """The connect timeout covers it; nothing was sent."""

    async def silent(connection: RawConnection) -> None:
        await connection.ended()

    @on_loop
    async def scenario() -> None:
        async with raw_server(silent) as server:
            url = server.url.replace("http:", "https:")
            async with client_to(url, connect_timeout=0.2) as client:
                with pytest.raises(ConnectionLost, match="cannot be reached") as lost:
                    async with asyncio.timeout(2):
                        await fetched(client)
                assert lost.value.unsent
            await until(lambda: not server.live, description="the connection to be closed")

    scenario()


def test_a_cancelled_request_over_tls(tls: Tls) -> None:
    """Its connection is closed at once, without a long goodbye."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def silent(connection: RawConnection) -> None:
        await connection.request()
        asked.set()
        await connection.ended()
        gone.set()

    @on_loop
    async def scenario() -> None:
        async with raw_server(silent, tls=tls.server) as server, client_to(server.url) as client:
            task = asyncio.create_task(fetched(client))
            await asked.wait()
            task.cancel()
            async with asyncio.timeout(5):
                await asyncio.wait([task])
                await gone.wait()

    scenario()


def test_trust_is_the_systems() -> None:
    """Names are checked, certificates required, and no other protocol than HTTP/1.1 is offered."""
    context = http_context(PLAIN_TLS).now()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
