"""A transport of one's own: MCP over TCP, one JSON-RPC message a line.

In canalgate.yaml, with this file where Python finds it (PYTHONPATH)::

    tools:
      far:
        factory: "examples.tcp_transport:TcpLines"
        options: {host: "tools.internal", port: 7000}

`tests/worker/egress/test_executor_contract.py` holds it to what every transport must do.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

import orjson

from common.ports import ExecutorCall, ExecutorSession, NotSent, RemoteError


class TcpLines:
    """Implements ``common.ports.ExecutorFactory``: each session has a connection of its own."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._host, self._port = str(options["host"]), int(options["port"])

    async def open(self, session: ExecutorSession) -> Connection:
        """Whatever goes wrong is raised: the call fails, and the tool's circuit counts it."""
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=session.max_bytes + 1000)
        return Connection(session, reader, writer)


class Connection:
    """Implements ``common.ports.ToolExecutor``."""

    def __init__(
        self, session: ExecutorSession, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._session = session
        self._writer = writer
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._calls: dict[object, ExecutorCall] = {}
        """By the progress token that the gateway has given each: no two of a session have the same."""
        self._tasks = {asyncio.create_task(self._read(reader))}

    async def request(self, call: ExecutorCall) -> dict[str, Any]:
        """Many may be under way at once; the answers come in any order."""
        number, token = next(self._ids), (call.params.get("_meta") or {}).get("progressToken")
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._calls[token] = call
        try:
            await self._send({"id": number, "method": call.method, "params": call.params}, NotSent)
            return await answer
        except asyncio.CancelledError:
            if call.method != "initialize":
                params = {"requestId": number, "reason": "the caller no longer waits"}
                self._write({"method": "notifications/cancelled", "params": params})
            raise
        finally:
            del self._waiting[number]
            self._calls.pop(token, None)

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """The same without an answer."""
        await self._send({"method": method, "params": params}, ConnectionError)

    async def close(self) -> None:
        """Also what still runs."""
        self._writer.close()
        for task in self._tasks:
            task.cancel()

    async def _send(self, message: Mapping[str, Any], otherwise: type[Exception]) -> None:
        if self._writer.is_closing() or not self._session.may_send():
            raise otherwise
        self._write(message)
        await self._writer.drain()

    def _write(self, message: Mapping[str, Any]) -> None:
        self._writer.write(orjson.dumps({"jsonrpc": "2.0", **message}) + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._received(orjson.loads(line))
        finally:
            self._writer.close()
            self._session.lost()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(ConnectionError())

    def _received(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params") or {}
        if method is None:
            self._answered(message)
        elif "id" in message:
            task = asyncio.create_task(self._asked(message["id"], method, params))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif method == "notifications/progress" and params.get("progressToken") in self._calls:
            self._calls[params["progressToken"]].tell(method, params)
        else:
            self._session.tell(method, params)

    def _answered(self, message: dict[str, Any]) -> None:
        answer = self._waiting.get(message.get("id", 0))
        if answer is None or answer.done():
            return
        if (error := message.get("error")) is not None:
            answer.set_exception(RemoteError(error["code"], error["message"], error.get("data")))
        else:
            answer.set_result(message["result"])

    async def _asked(self, number: object, method: str, params: dict[str, Any]) -> None:
        """Nothing tells for which call the backend asks: the gateway finds out, or refuses."""
        try:
            outcome: dict[str, Any] = {"result": await self._session.ask(method, params)}
        except RemoteError as error:
            outcome = {"error": error.error}
        self._write({"id": number, **outcome})
