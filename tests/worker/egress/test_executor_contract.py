"""Transports keep the contract of executors: that of the example, and the gateway's own behind the same port."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from common.contracts.executor import ExecutorContract, Sent
from common.domain.custom import CustomTransport
from common.domain.tool import Tool
from common.executors import make_factory
from common.mcp.revisions import Era
from common.ports import ExecutorCall, ExecutorFactory, ExecutorSession, NotSent, RemoteError
from common.processes import ProcessGuard
from gateway_worker.egress.backend import make_link
from gateway_worker.egress.http import HttpLink
from gateway_worker.egress.link import Link, LinkLost, RpcError
from tests.support.backends import echo_backend, http_tool, stdio_tool
from tests.support.servers.process import server_command
from tests.support.servers.tcp_lines import TcpLinesServer, running_tcp_lines


class Echo:
    """What the echo server is asked."""

    slow: Sent = ("tools/call", {"name": "sleep", "arguments": {"seconds": 60}})
    telling: Sent | None = ("tools/call", {"name": "progress", "arguments": {"steps": 3}})

    def echoing(self, text: str) -> Sent:
        return "tools/call", {"name": "echo", "arguments": {"text": text}}


class TestTcpLines(Echo, ExecutorContract):
    """The example, as a tool names it."""

    server: TcpLinesServer

    @pytest.fixture(autouse=True)
    def _server(self) -> Iterator[None]:
        with running_tcp_lines(server_command("echo")) as self.server:
            yield

    def factory(self) -> ExecutorFactory:
        return make_factory(
            CustomTransport(factory="examples.tcp_transport:TcpLines", options=self.server.options)
        )

    def break_it(self) -> None:
        self.server.kill()


class Own:
    """A link of the gateway's own as an executor."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def request(self, call: ExecutorCall) -> Mapping[str, Any]:
        try:
            found = await self._link.request(call.method, call.params, on_notification=call.tell)
        except RpcError as error:
            raise RemoteError(**error.error) from None
        except LinkLost as error:
            if error.unsent:
                raise NotSent from None
            raise
        if call.method == "initialize" and isinstance(self._link, HttpLink):
            self._link.era = Era.LEGACY
            self._link.use_session(str(found["protocolVersion"]))
        return found

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        await self._link.notify(method, dict(params))

    async def close(self) -> None:
        await self._link.close()


class OwnFactory:
    """Of a tool of the gateway's own kinds."""

    def __init__(self, tool: Tool, guard: ProcessGuard) -> None:
        self._tool, self._guard = tool, guard

    async def open(self, session: ExecutorSession) -> Own:
        link = make_link(self._tool, self._guard, max_bytes=session.max_bytes)
        await link.open()
        return Own(link)


class TestStdio(Echo, ExecutorContract):
    """A child process behind the same port."""

    @pytest.fixture(autouse=True)
    def _guard(self, guard: ProcessGuard) -> None:
        self.guard = guard

    def factory(self) -> ExecutorFactory:
        return OwnFactory(stdio_tool(), self.guard)


class TestHttp(Echo, ExecutorContract):
    """An HTTP endpoint behind the same port."""

    @pytest.fixture(autouse=True)
    def _server(self, guard: ProcessGuard) -> Iterator[None]:
        self.guard = guard
        with echo_backend("legacy", sse=True) as backend:
            self.url = backend.url
            yield

    def factory(self) -> ExecutorFactory:
        return OwnFactory(http_tool(self.url), self.guard)
