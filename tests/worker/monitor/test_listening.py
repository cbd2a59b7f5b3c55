"""Flower's listener before anybody has shown a token, and its settings while it runs."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from tornado.netutil import bind_sockets
from tornado.web import Application

from common.settings.admin import AdminSettings
from gateway_worker.monitor.__main__ import reload
from gateway_worker.monitor.listening import IDLE_TIMEOUT, MOST_BYTES, server_of
from tests.support.aio import on_loop


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (MOST_BYTES + 1),
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (MOST_BYTES + 1),
        b"GET / HTTP/1.1\r\nX: " + b"a" * (MOST_BYTES + 1),
    ],
)
def test_a_large_request_is_not_read(head: bytes) -> None:
    """It would be held in memory until its end, and refused only then."""

    @on_loop
    async def scenario() -> None:
        sockets = bind_sockets(0, address="127.0.0.1", family=socket.AF_INET)
        server = server_of(Application())
        server.add_sockets(sockets)
        reader, writer = await asyncio.open_connection(*sockets[0].getsockname()[:2])
        writer.write(head)
        async with asyncio.timeout(10):
            answer = await reader.read()  # to its end
        assert not answer or answer.startswith(b"HTTP/1.1 400")
        writer.close()
        server.stop()

    scenario()


def test_a_connection_without_a_request_ends() -> None:
    """In a minute."""
    server = server_of(Application())
    assert server.conn_params.header_timeout == server.conn_params.body_timeout == IDLE_TIMEOUT == 60


def test_a_file_that_others_refuse_changes_no_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same file for all processes."""
    known: list[AdminSettings] = []
    file = tmp_path / "canalgate.yaml"
    monkeypatch.setenv("CANALGATE_CONFIG", str(file))
    tokens = "admin: {tokens: [{name: a, token: 0123456789abcdef}]}\n"
    file.write_text(tokens + "tools: {t: {comand: x}}\n")
    reload(known.append)
    assert known == []
    file.write_text(tokens)
    reload(known.append)
    assert [entry.name for entry in known[0].tokens] == ["a"]
