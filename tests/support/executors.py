"""A transport that does what it is told, also harm: ``tests.support.executors:InProcess``."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

from common.ports import ExecutorCall, ExecutorSession, NotSent, RemoteError

released = threading.Event()
"""Set it to let go of threads that block."""
seen: dict[str, Any] = {}
"""What the last executor was given, by name, for tests in this process."""


class Odd(Exception):
    """With a secret in its words."""

    def __init__(self) -> None:
        super().__init__("canary-in-an-exception")


class InProcess:
    """An MCP server in the worker itself. Its one tool does what its argument ``do`` says."""

    made = 0

    def __init__(self, options: Mapping[str, Any]) -> None:
        type(self).made += 1
        self._options = dict(options)
        if options.get("constructor") == "raises":
            raise Odd

    async def open(self, session: ExecutorSession) -> Any:
        what = self._options.get("open")
        if what == "raises":
            raise Odd
        if what == "exits":
            raise SystemExit
        if what == "hangs":
            await asyncio.sleep(3600)
        if what == "blocks":
            released.wait(60)
        if what == "nonsense":
            return object()
        return Server(session, self._options)


class Server:
    """One session."""

    def __init__(self, session: ExecutorSession, options: Mapping[str, Any]) -> None:
        self.session = session
        self.options = options
        self.open = True
        self.cancelled = 0
        self.notified: list[str] = []
        seen["server"] = self

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        self.notified.append(method)
        if self.options.get("notify") == "raises":
            raise Odd

    async def close(self) -> None:
        self.open = False
        if self.options.get("close") == "raises":
            raise Odd
        if self.options.get("close") == "hangs":
            await asyncio.sleep(3600)

    async def request(self, call: ExecutorCall) -> Any:
        if call.method == "initialize":
            version = call.params["protocolVersion"]
            info = {"name": "in-process", "version": "1"}
            return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
        if call.method == "ping":
            return {}
        if call.method == "tools/list":
            return {"tools": [{"name": "do", "inputSchema": {"type": "object"}}]}
        if call.method != "tools/call":
            raise RemoteError(-32601, f"no {call.method}", {"kept": [1, None]})
        return await self._do(call, call.params["arguments"])

    async def _do(self, call: ExecutorCall, arguments: Mapping[str, Any]) -> Any:
        what = arguments["do"]
        if what in _NONSENSE:
            return _NONSENSE[what]
        if what in _RAISED:
            fault = _RAISED[what]()
            raise fault
        if what in ("hang", "hang on", "fail when cancelled"):
            await self._hang(what)
        if what == "ask":
            return _text(await call.ask("elicitation/create", arguments["params"]))
        if what == "ask at large":
            return _text(await self.session.ask("roots/list", {}))
        found = self._at_once(call, what)
        return _text(arguments.get("text", "done")) if found is None else found

    def _at_once(self, call: ExecutorCall, what: str) -> dict[str, Any] | None:
        match what:
            case "block":
                released.wait(60)
            case "stray task exits":
                seen["task"] = asyncio.ensure_future(_exits())
            case "lose":
                self.session.lost()
            case "big":
                return {"content": "x" * (self.session.max_bytes + 1)}
            case "secrets":
                return _text(dict(self.session.secrets))
            case "meta":
                return _text(call.params.get("_meta"))
            case _:
                self._tell(call, what)
        return None

    def _tell(self, call: ExecutorCall, what: str) -> None:
        match what:
            case "flood":
                for number in range(5000):
                    call.tell("notifications/message", {"level": "info", "data": number})
            case "big tells":
                for _ in range(20):
                    call.tell("notifications/message", {"data": "x" * (self.session.max_bytes // 10)})
            case "odd tells":
                call.tell("notifications/message", {"data": object()})
                call.tell("notifications/message", "no mapping")  # type: ignore[arg-type]
                call.tell("notifications/progress", {"progressToken": 12345, "progress": 1})
            case "announce":
                self.session.tell("notifications/tools/list_changed", {})
            case "progress":
                for step in (1, 2, 3):
                    call.progress(step, 3, f"step {step}")

    async def _hang(self, what: str) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled += 1
            if what == "hang":
                raise
            if what == "fail when cancelled":
                raise Odd from None
            await asyncio.to_thread(released.wait, 60)


async def _exits() -> None:
    raise SystemExit


def _text(value: object) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": value}]}


_NONSENSE: Mapping[str, Any] = {
    "nothing": None,
    "a list": [1],
    "an object": {"x": object()},
    "odd keys": {object(): 1},
    "a huge number": {"x": 1 << 70},
    "a surrogate": {"x": "\ud800"},
}


def _bad_error() -> RemoteError:
    error = RemoteError(1, "x")
    error.error = {"code": "x"}
    return error


_RAISED: Mapping[str, Callable[[], BaseException]] = {
    "raise": Odd,
    "exit": SystemExit,
    "cancel": asyncio.CancelledError,
    "unsent": NotSent,
    "bad error": _bad_error,
}
