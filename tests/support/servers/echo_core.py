"""A small MCP backend in both eras: everything but the transport. Standard library only, to start fast.

``echo.py`` serves it over stdio, ``echo_http.py`` over Streamable HTTP. With ``ECHO_LOG`` set to a file, each
message received is appended there as one JSON line ``{"pid", "received"}``, each call that was cancelled as
``{"pid", "cancelled"}``, each client that hung up as ``{"pid", "disconnected"}`` (both: the request id).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]

LEGACY_REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
DECODER = json.JSONDecoder()
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
UNSUPPORTED_VERSION = -32022


class RefusedError(Exception):
    """The request is answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.error: Json = {"code": code, "message": message} | ({} if data is None else {"data": data})


def encode(message: Json) -> bytes:
    """Return compact UTF-8 JSON without a newline."""
    try:
        return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can carry
        return json.dumps(message, separators=(",", ":")).encode()


def record(**entry: Any) -> None:
    """Append one line to ``ECHO_LOG``; does nothing without it."""
    path = os.environ.get("ECHO_LOG")
    if not path:
        return
    # One write of one line in append mode: lines of several processes do not mix.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, encode({"pid": os.getpid(), **entry}) + b"\n")
    finally:
        os.close(descriptor)


class Exchange:
    """One request being answered: where its notifications go, and whether it was cancelled."""

    def __init__(
        self,
        request: Json,
        notify: Callable[[Json], None],
        *,
        modern: bool,
        headers: dict[str, str] | None = None,
    ) -> None:
        parameters = request.get("params")
        self.request_id = request.get("id")
        self.method = str(request.get("method"))
        self.params: Json = parameters if isinstance(parameters, dict) else {}
        self.notify = notify
        self.modern = modern
        self.headers = headers or {}
        self.cancelled = threading.Event()

        self.scope = ""
        """Request ids are unique only inside it: the session over HTTP."""

    @property
    def key(self) -> tuple[str, str]:
        """What names this exchange in this process."""
        return self.scope, repr(self.request_id)

    @property
    def meta(self) -> Json:
        """The request's ``_meta``."""
        found = self.params.get("_meta")
        return found if isinstance(found, dict) else {}

    @property
    def arguments(self) -> Json:
        """The arguments of a ``tools/call``."""
        found = self.params.get("arguments")
        return found if isinstance(found, dict) else {}


def text(value: str, **more: Any) -> Json:
    """Return a tool result with one text block."""
    return {"content": [{"type": "text", "text": value}], **more}


def schema(**properties: str) -> Json:
    """Return an input schema of required properties, name to JSON type."""
    return {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }


def tool(name: str, **properties: str) -> Json:
    """Return an entry of ``tools/list``."""
    return {"name": name, "description": f"The test tool {name}", "inputSchema": schema(**properties)}


RICH_ENTRY: Json = {
    **tool("rich"),
    "title": "Rich",
    "annotations": {"title": "Rich", "readOnlyHint": True, "idempotentHint": True, "vendorHint": "kept"},
    "outputSchema": {**schema(answer="integer"), "$defs": {"unused": {"$anchor": "kept"}}},
    "icons": [{"src": f"data:image/png;base64,{PNG}", "mimeType": "image/png", "sizes": ["1x1"]}],
    "_meta": {"vendor.example/kept": {"deep": [1, 2.5, None, True]}},
    "vendorField": "kept",
}

RICH_RESULT: Json = {
    "content": [
        {"type": "text", "text": "päivää 🚢", "annotations": {"audience": ["user"], "priority": 0.5}},
        {"type": "image", "data": PNG, "mimeType": "image/png", "_meta": {"vendor.example/kept": 1}},
        {"type": "audio", "data": WAV, "mimeType": "audio/wav"},
        {"type": "resource_link", "uri": "test://linked", "name": "linked", "title": "Linked", "size": 12},
        {
            "type": "resource",
            "resource": {"uri": "test://text", "mimeType": "text/plain", "text": "embedded"},
        },
        {"type": "resource", "resource": {"uri": "test://blob", "mimeType": "image/png", "blob": PNG}},
    ],
    "structuredContent": {"answer": 42, "nested": {"null": None, "big": 9007199254740993, "float": 1e-7}},
    "_meta": {"vendor.example/kept": {"deep": ["x"]}},
    "vendorField": {"kept": True},
}

ENTRIES = [
    tool("echo", text="string"),
    tool("sleep", seconds="number"),
    {**tool("add", a="number", b="number"), "outputSchema": schema(sum="number")},
    tool("fail"),
    RICH_ENTRY,
    tool("big", bytes="integer"),
    tool("progress", steps="integer"),
    tool("log"),
    tool("cancel_log"),
    tool("pid"),
    tool("env"),
    tool("headers"),
    tool("list_changed"),
    tool("kill_me"),
]

BLOCKING = frozenset({"sleep", "progress", "log", "cancel_log"})
"""Tools that run in a thread of their own over stdio; the others are answered by the reader at once."""


class EchoServer:
    """Answers the requests of one process. Thread safe.

    ``era`` is ``legacy``, ``modern`` or ``both``; ``pages`` is the number of pages of ``tools/list``.
    """

    def __init__(self, *, era: str = "both", pages: int = 1, name: str = "echo") -> None:
        self.era = era
        self.pages = max(1, pages)
        self.name = name
        self.entries = list(ENTRIES)
        self.in_flight: dict[tuple[str, str], Exchange] = {}
        self.listeners: dict[tuple[str, str], Exchange] = {}
        self.announce: Callable[[Json], None] = lambda _: None
        """Where change notifications go for legacy clients; the transport sets it."""

    def refuse_era(self, exchange: Exchange) -> None:
        """Raise for a request of an era that this server does not speak."""
        if exchange.modern and self.era == "legacy":
            raise RefusedError(METHOD_NOT_FOUND, f"Method not found: {exchange.method}")
        requested = exchange.meta.get(META + "protocolVersion") or exchange.params.get("protocolVersion")
        if (exchange.modern and requested != MODERN) or (not exchange.modern and self.era == "modern"):
            data = {"supported": [MODERN], "requested": requested}
            raise RefusedError(UNSUPPORTED_VERSION, "Unsupported protocol version", data)

    def admit(self, exchange: Exchange) -> None:
        """Note a request before it is answered, so that a cancellation right behind it finds it."""
        self.in_flight[exchange.key] = exchange

    def answer(self, exchange: Exchange) -> Json | None:
        """Return the response to an admitted request; None if it was cancelled, which gets silence."""
        try:
            self.refuse_era(exchange)
            result = self._result(exchange)
        except RefusedError as refusal:
            return {"jsonrpc": "2.0", "id": exchange.request_id, "error": refusal.error}
        finally:
            self.in_flight.pop(exchange.key, None)
        if exchange.cancelled.is_set():
            record(cancelled=exchange.request_id)
            return None
        return {"jsonrpc": "2.0", "id": exchange.request_id, "result": self._stamped(exchange, result)}

    def notified(self, message: Json, scope: str = "") -> None:
        """Take a notification of the client; only ``notifications/cancelled`` does anything."""
        if message.get("method") == "notifications/cancelled":
            found = self.in_flight.get((scope, repr((message.get("params") or {}).get("requestId"))))
            if found is not None:
                found.cancelled.set()

    def _stamped(self, exchange: Exchange, result: Json) -> Json:
        if not exchange.modern:
            return result
        info = {META + "serverInfo": {"name": self.name, "version": "1.0.0"}}
        stamped = {"resultType": "complete", **result, "_meta": {**info, **result.get("_meta", {})}}
        if exchange.method in {"tools/list", "server/discover"}:
            stamped = {"ttlMs": 0, "cacheScope": "private", **stamped}
        return stamped

    def _result(self, exchange: Exchange) -> Json:
        if exchange.method == "tools/call":
            return self._call(exchange)
        if exchange.method == "tools/list":
            return self._page(exchange.params.get("cursor"))
        if exchange.modern and exchange.method == "server/discover":
            return {"supportedVersions": [MODERN], "capabilities": {"tools": {"listChanged": True}}}
        if exchange.modern and exchange.method == "subscriptions/listen":
            return self._listen(exchange)
        if not exchange.modern and exchange.method == "initialize":
            return self._initialize(exchange)
        if not exchange.modern and exchange.method in {"ping", "logging/setLevel"}:
            return {}
        raise RefusedError(METHOD_NOT_FOUND, f"Method not found: {exchange.method}")

    def _initialize(self, exchange: Exchange) -> Json:
        asked = exchange.params.get("protocolVersion")
        return {
            "protocolVersion": asked if asked in LEGACY_REVISIONS else LEGACY_REVISIONS[-1],
            "capabilities": {"tools": {"listChanged": True}, "logging": {}},
            "serverInfo": {"name": self.name, "version": "1.0.0"},
        }

    def _page(self, cursor: Any) -> Json:
        names = [None, *(f"page-{number}" for number in range(2, self.pages + 1))]
        if cursor not in names:
            raise RefusedError(INVALID_PARAMS, f"Invalid cursor: {cursor!r}")
        index, size = names.index(cursor), -(-len(self.entries) // self.pages)
        page: Json = {"tools": self.entries[index * size : (index + 1) * size]}
        return page | ({"nextCursor": names[index + 1]} if index + 1 < len(names) else {})

    def _listen(self, exchange: Exchange) -> Json:
        subscription = {META + "subscriptionId": exchange.request_id}
        wanted = exchange.params.get("notifications") or {}
        honoured = {"toolsListChanged": True} if wanted.get("toolsListChanged") else {}
        self._notify(
            exchange, "notifications/subscriptions/acknowledged", notifications=honoured, _meta=subscription
        )
        if honoured:
            self.listeners[exchange.key] = exchange
        exchange.cancelled.wait()
        self.listeners.pop(exchange.key, None)
        return {"_meta": subscription}

    def _call(self, exchange: Exchange) -> Json:
        name = exchange.params.get("name")
        if name not in {entry["name"] for entry in self.entries}:
            raise RefusedError(INVALID_PARAMS, f"Unknown tool: {name}")
        run: Callable[[Exchange], Json] = getattr(self, f"_tool_{name}", self._tool_added)
        try:
            return run(exchange)
        except (KeyError, TypeError, ValueError) as error:
            return text(f"bad arguments: {error!r}", isError=True)

    @staticmethod
    def _notify(exchange: Exchange, method: str, **parameters: Any) -> None:
        exchange.notify({"jsonrpc": "2.0", "method": method, "params": parameters})

    def _tool_echo(self, exchange: Exchange) -> Json:
        return text(exchange.arguments["text"])

    def _tool_added(self, exchange: Exchange) -> Json:
        return text(str(exchange.params["name"]))

    def _tool_sleep(self, exchange: Exchange) -> Json:
        seconds = float(exchange.arguments["seconds"])
        exchange.cancelled.wait(seconds)
        return text(f"slept {seconds:g} s")

    def _tool_add(self, exchange: Exchange) -> Json:
        total = exchange.arguments["a"] + exchange.arguments["b"]
        return text(str(total), structuredContent={"sum": total})

    def _tool_fail(self, exchange: Exchange) -> Json:
        return text(str(exchange.arguments.get("text", "this tool always fails")), isError=True)

    def _tool_rich(self, _: Exchange) -> Json:
        return RICH_RESULT

    def _tool_big(self, exchange: Exchange) -> Json:
        return text("x" * int(exchange.arguments["bytes"]))

    def _tool_progress(self, exchange: Exchange) -> Json:
        steps, token = int(exchange.arguments["steps"]), exchange.meta.get("progressToken")
        for step in range(1, steps + 1):
            if token is not None and not exchange.cancelled.is_set():
                self._notify(
                    exchange,
                    "notifications/progress",
                    progressToken=token,
                    progress=step,
                    total=steps,
                    message=f"step {step}",
                )
            time.sleep(0.01)
        return text(f"did {steps} steps")

    def _tool_log(self, exchange: Exchange) -> Json:
        level = exchange.meta.get(META + "logLevel")
        asked = level in LEVELS and LEVELS.index(level) <= LEVELS.index("warning")
        if asked or not exchange.modern:
            self._notify(
                exchange, "notifications/message", level="warning", logger="echo", data={"said": "hello"}
            )
        return text("logged")

    def _tool_cancel_log(self, exchange: Exchange) -> Json:
        exchange.cancelled.wait()
        return text("never sent")

    def _tool_pid(self, _: Exchange) -> Json:
        return text(str(os.getpid()))

    def _tool_env(self, _: Exchange) -> Json:
        return text(json.dumps(dict(os.environ)), structuredContent=dict(os.environ))

    def _tool_headers(self, exchange: Exchange) -> Json:
        return text(json.dumps(exchange.headers), structuredContent=exchange.headers)

    def _tool_list_changed(self, _: Exchange) -> Json:
        name = f"added_{len(self.entries) - len(ENTRIES) + 1}"
        self.entries.append(tool(name))
        self.announce({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        for key, listener in list(self.listeners.items()):
            meta = {META + "subscriptionId": listener.request_id}
            try:
                self._notify(listener, "notifications/tools/list_changed", _meta=meta)
            except OSError:
                self.listeners.pop(key, None)
        return text(name)

    def _tool_kill_me(self, _: Exchange) -> Json:
        os._exit(9)


def is_modern(message: Json) -> bool:
    """Whether a message declares its revision itself, as all of the modern era do."""
    parameters = message.get("params")
    meta = parameters.get("_meta") if isinstance(parameters, dict) else None
    return isinstance(meta, dict) and META + "protocolVersion" in meta
