"""``tls_*`` of a tool: whom it trusts, what it shows, and that nothing is sent where they are not met."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

import pytest

from common.domain.tls import TlsRules
from common.settings import RuntimeSettings
from common.settings.tools import read_tool
from gateway_worker.egress.http1 import ConnectionLost
from gateway_worker.egress.http_pool import HttpClient
from tests.support.aio import on_loop, until
from tests.support.certificates import Authority, Certificate, server_context
from tests.support.servers.raw_http import RawConnection, ok, raw_server
from tests.worker.egress.http_clients import fetched, open_sockets


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def mine(ca: Authority) -> Certificate:
    """What the client shows."""
    return ca.issue("worker", usage="client")


def rules_of(**keys: Any) -> TlsRules:
    """By way of the settings file."""
    tool = read_tool("t", {"url": "https://h/", **keys}, RuntimeSettings())
    assert not isinstance(tool, list), tool
    return tool.transport.tls  # type: ignore[union-attr]


async def asked(url: str, tls: TlsRules) -> bytes:
    client = HttpClient(url, {"authorization": "secret"}, connect_timeout=2, tls=tls)
    try:
        return (await fetched(client))[1]
    finally:
        client.close()


def peer(heads: list[str]) -> Any:
    """Notes what came, and answers with the client's common name."""

    async def script(connection: RawConnection) -> None:
        while True:
            heads.append((await connection.request())[0])
            shown = connection.writer.get_extra_info("peercert") or {}
            names = dict(pair for (pair,) in shown.get("subject", ()))
            await connection.send(ok(names.get("commonName", "").encode()))

    return script


def test_a_private_authority_is_trusted_and_a_certificate_shown(ca: Authority, mine: Certificate) -> None:
    """``tls_ca_file``, ``tls_cert_file``, ``tls_key_file``."""
    server = server_context(ca.issue("127.0.0.1"), client_ca=ca.file)
    rules = rules_of(tls_ca_file=str(ca.file), tls_cert_file=str(mine.cert), tls_key_file=str(mine.key))

    @on_loop
    async def scenario() -> None:
        async with raw_server(peer([]), tls=server) as there:
            assert await asked(there.url, rules) == b"worker"

    scenario()


def test_a_replaced_certificate_is_shown_by_the_next_connection(ca: Authority, mine: Certificate) -> None:
    """Without a restart, and without a new session."""
    server = server_context(ca.issue("127.0.0.1"), client_ca=ca.file)
    rules = rules_of(tls_ca_file=str(ca.file), tls_cert_file=str(mine.both))
    later = ca.issue("worker-2", usage="client")

    @on_loop
    async def scenario() -> None:
        async with raw_server(peer([]), tls=server) as there:
            client = HttpClient(there.url, {}, connect_timeout=2, tls=rules)
            assert (await fetched(client))[1] == b"worker"
            os.replace(later.both, mine.both)
            assert (await fetched(client))[1] == b"worker"  # the connection that is kept
            for connection in list(client._connections):
                connection.abort("")
            assert (await fetched(client))[1] == b"worker-2"
            client.close()

    scenario()


def test_another_name_may_be_asked_for(ca: Authority) -> None:
    """``tls_server_name``: behind an address, or a name of the inside."""
    server = server_context(ca.issue("tools.example"))

    @on_loop
    async def scenario() -> None:
        heads: list[str] = []
        async with raw_server(peer(heads), tls=server) as there:
            await asked(there.url, rules_of(tls_ca_file=str(ca.file), tls_server_name="tools.example"))
            assert f"host: 127.0.0.1:{there.port}" in heads[0]
            with pytest.raises(ConnectionLost):
                await asked(there.url, rules_of(tls_ca_file=str(ca.file), tls_server_name="other.example"))
        assert len(heads) == 1

    scenario()


@pytest.mark.parametrize(
    "why", ["unknown authority", "no certificate", "run out", "another's", "old version", "no file"]
)
def test_what_is_not_met_is_not_spoken_to(ca: Authority, mine: Certificate, why: str, tmp_path: Path) -> None:
    """No request, and no credential, comes to the other end."""
    shown = ca.issue("127.0.0.1", days=-1) if why == "run out" else ca.issue("127.0.0.1")
    server = server_context(shown, client_ca=ca.file if why in {"no certificate", "another's"} else None)
    keys: dict[str, Any] = {"tls_ca_file": str(ca.file)}
    if why == "unknown authority":
        keys = {"tls_ca_file": str(Authority(tmp_path / "other").file)}
    elif why == "another's":
        keys["tls_cert_file"] = str(Authority(tmp_path / "other").issue("worker", usage="client").both)
    elif why == "old version":
        server.maximum_version = ssl.TLSVersion.TLSv1_2
        keys["tls_min_version"] = 1.3
    elif why == "no file":
        keys["tls_cert_file"] = str(tmp_path / "gone.pem")

    @on_loop
    async def scenario() -> None:
        heads: list[str] = []
        async with raw_server(peer(heads), tls=server) as there:
            with pytest.raises(ConnectionLost) as lost:
                await asked(there.url, rules_of(**keys))
        assert heads == []
        if why == "no file":
            assert "tls_* keys" in lost.value.message
            assert "gone.pem" in lost.value.detail
            assert "gone.pem" not in lost.value.message

    scenario()


@pytest.mark.parametrize("name", [".example.com", "a..b", "x" * 64])
def test_a_name_to_prove_that_can_be_none(ca: Authority, name: str) -> None:
    """Not reached; the connection that was there by then is closed."""

    @on_loop
    async def scenario() -> None:
        before = open_sockets()
        async with raw_server(peer([]), tls=server_context(ca.issue("127.0.0.1"))) as there:
            client = HttpClient(there.url, {}, connect_timeout=2, tls=TlsRules(server_name=name))
            # Kept, with all that it refers to: what is closed by chance is not closed.
            with pytest.raises(ConnectionLost, match="cannot be reached") as lost:
                await fetched(client)
            assert lost.value.unsent
            client.close()
            await until(lambda: not there.live, description="the connection to be closed")
        await until(lambda: open_sockets() <= before, description="sockets back", shown=open_sockets)

    scenario()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"url": "http://h/", "tls_ca_file": "x"}, "https"),
        ({"tls_key_file": "k"}, "tls_cert_file"),
        ({"tls_min_version": "1.1"}, "tls_min_version"),
        ({"tls_verify": False}, "unknown key 'tls_verify'"),
        ({"verify": False}, "unknown key 'verify'"),
        ({"tls_ca_file": ""}, "tls_ca_file"),
        ({"command": "x", "url": None, "tls_ca_file": "x"}, "goes with url"),
    ],
)
def test_keys_that_mean_nothing_are_refused(keys: dict[str, Any], said: str) -> None:
    """Above all those that would switch the checks off: there is no such key."""
    entry = {key: value for key, value in {"url": "https://h/", **keys}.items() if value is not None}
    found = read_tool("t", entry, RuntimeSettings())
    assert isinstance(found, list)
    assert said in found[0][1]
