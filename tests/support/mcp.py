"""A raw MCP client for tests: the exact bytes, statuses and headers, no SDK between."""

from __future__ import annotations

import itertools
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

MODERN = "2026-07-28"
ACCEPT = "application/json, text/event-stream"


@dataclass(slots=True)
class RawClient:
    """Talks to one endpoint in the legacy era, or with ``modern`` in the modern one."""

    url: str
    modern: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    session: str | None = None
    verify: ssl.SSLContext | bool = True

    def open(self, **extra: Any) -> httpx.Response:
        """The legacy handshake."""
        params = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "t", "version": "0"},
        }
        answer = self.post("initialize", {**params, **extra})
        self.session = answer.headers.get("mcp-session-id")
        return answer

    def message(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A request with a fresh id."""
        sent = dict(params or {})
        if self.modern:
            sent["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {},
                **sent.get("_meta", {}),
            }
        return {"jsonrpc": "2.0", "id": next(self.ids), "method": method, "params": sent}

    def sent_headers(self, method: str, params: Mapping[str, Any]) -> dict[str, str]:
        """The headers that go with a request."""
        headers = {"content-type": "application/json", "accept": ACCEPT}
        if self.session:
            headers |= {"mcp-session-id": self.session, "mcp-protocol-version": "2025-11-25"}
        if self.modern:
            headers |= {"mcp-protocol-version": MODERN, "mcp-method": method}
            if "name" in params:
                headers["mcp-name"] = str(params["name"])
        return {**headers, **self.headers}

    def post(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout: float = 60.0
    ) -> httpx.Response:
        """Send a request and return the HTTP answer."""
        message = self.message(method, params)
        headers = self.sent_headers(method, message["params"])
        return httpx.post(self.url, json=message, headers=headers, timeout=timeout, verify=self.verify)

    def wire(self, method: str, params: Mapping[str, Any] | None = None) -> bytes:
        """A request as the bytes of HTTP/1.1, for tests that hold the socket themselves."""
        message = self.message(method, params)
        parts = urlsplit(self.url)
        body = json.dumps(message).encode()
        head = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
        head += [f"{name}: {value}" for name, value in self.sent_headers(method, message["params"]).items()]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body

    def call(self, name: str, arguments: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """``tools/call``: the JSON-RPC message that came back, at the end of a stream if the call took long."""
        answer = self.post("tools/call", {"name": name, "arguments": dict(arguments or {})}, **options)
        body = answer.text
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            body = [line for line in body.splitlines() if line.startswith("data: {")][-1].removeprefix(
                "data: "
            )
        message: dict[str, Any] = orjson.loads(body)
        return message

    def text(self, name: str, arguments: Mapping[str, Any] | None = None, **options: Any) -> str:
        """``tools/call``: the text of its first content block."""
        message = self.call(name, arguments, **options)
        assert "result" in message, message
        return str(message["result"]["content"][0]["text"])


def legacy(url: str, **headers: str) -> RawClient:
    """An opened legacy client."""
    client = RawClient(url, headers=dict(headers))
    assert client.open().status_code == 200
    return client


def modern(url: str, **headers: str) -> RawClient:
    """A modern client."""
    return RawClient(url, modern=True, headers=dict(headers))
