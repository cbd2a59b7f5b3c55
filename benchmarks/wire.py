"""What goes over the wire: the bytes of a call, and the judgement of its answer. Pure.

Every call has a JSON-RPC id and a text of its own. A constant id makes gateways serialise, and a constant
text would let a gateway hand one caller's answer to another unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import Any, Protocol

import orjson

LEGACY_VERSION = "2025-06-18"
MODERN_VERSION = "2026-07-28"
FIRST_CALL_ID = 1_000_000_000  # ten digits for every id, so that every body has the same length
_CLIENT = {"name": "benchmark", "version": "1"}


class Era(StrEnum):
    """Legacy opens with ``initialize`` and holds a session; modern is stateless (revision 2026-07-28)."""

    LEGACY = "legacy"
    MODERN = "modern"


class BadAnswerError(Exception):
    """The answer to a call is missing, an error, or not the echo of its own text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where an MCP server listens, on 127.0.0.1, and what its echo tool is called there.

    ``arguments`` go with every call beside the text; ``progress`` asks for progress notifications.
    """

    port: int
    path: str = "/mcp"
    tool: str = "echo"
    headers: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    progress: bool = False


def text_of(call_id: int) -> str:
    """Return the argument that the call ``call_id`` sends and wants back."""
    return f"hello-{call_id}"


def post(endpoint: Endpoint, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return one complete HTTP/1.1 request."""
    lines = [
        f"POST {endpoint.path} HTTP/1.1",
        f"Host: 127.0.0.1:{endpoint.port}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        *(f"{name}: {value}" for name, value in {**endpoint.headers, **headers}.items()),
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def initialize_message() -> bytes:
    """Return the legacy opening request."""
    params = {"protocolVersion": LEGACY_VERSION, "capabilities": {}, "clientInfo": _CLIENT}
    return orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})


def initialized_message() -> bytes:
    """Return the notification that ends the legacy opening."""
    return orjson.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"})


def session_headers(session_id: str | None) -> dict[str, str]:
    """Return the headers that every legacy request after ``initialize`` carries."""
    headers = {"Mcp-Protocol-Version": LEGACY_VERSION}
    return headers | {"Mcp-Session-Id": session_id} if session_id else headers


def modern_headers(tool: str) -> dict[str, str]:
    """Return the routing headers that a modern ``tools/call`` must carry."""
    return {"Mcp-Protocol-Version": MODERN_VERSION, "Mcp-Method": "tools/call", "Mcp-Name": tool}


def call_params(endpoint: Endpoint, era: Era, call_id: int) -> dict[str, Any]:
    """Return the ``params`` of the call ``call_id``."""
    arguments = {"text": text_of(call_id), **endpoint.arguments}
    params: dict[str, Any] = {"name": endpoint.tool, "arguments": arguments}
    if era is Era.MODERN:
        params["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": MODERN_VERSION,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": _CLIENT,
        }
    if endpoint.progress:
        params.setdefault("_meta", {})["progressToken"] = call_id
    return params


def _call_message(endpoint: Endpoint, era: Era, call_id: int) -> bytes:
    params = call_params(endpoint, era, call_id)
    return orjson.dumps({"jsonrpc": "2.0", "id": call_id, "method": "tools/call", "params": params})


class Calls(Protocol):
    """Something that gives the bytes of a call."""

    def render(self, call_id: int) -> bytes:
        """Return the bytes of the call ``call_id`` (ten digits)."""


class Spread:
    """Calls that go round over several endpoints."""

    def __init__(self, calls: Sequence[Calls]) -> None:
        self._calls = calls

    def render(self, call_id: int) -> bytes:
        """Return the bytes of the call ``call_id``; which endpoint gets it follows from the id."""
        return self._calls[call_id % len(self._calls)].render(call_id)


class CallTemplate:
    """A ``tools/call`` cut open at its id, so that a call costs one join and no serialisation."""

    def __init__(self, frame: bytes) -> None:
        self._parts = frame.split(b"%d" % FIRST_CALL_ID)

    def render(self, call_id: int) -> bytes:
        """Return the bytes of the call ``call_id`` (ten digits)."""
        return (b"%d" % call_id).join(self._parts)


def http_calls(endpoint: Endpoint, era: Era, session_id: str | None) -> CallTemplate:
    """Return the template of a call as one HTTP request."""
    headers = modern_headers(endpoint.tool) if era is Era.MODERN else session_headers(session_id)
    return CallTemplate(post(endpoint, _call_message(endpoint, era, FIRST_CALL_ID), headers))


def line_calls(tool: str, era: Era) -> CallTemplate:
    """Return the template of a call as one line of a stdio transport."""
    return CallTemplate(_call_message(Endpoint(port=0, tool=tool), era, FIRST_CALL_ID) + b"\n")


def call_ids() -> Iterator[int]:
    """Return ids that never repeat within one window."""
    return count(FIRST_CALL_ID)


def check_echo(message: Any, call_id: int) -> None:
    """Raise `BadAnswerError` unless ``message`` is the response to ``call_id`` with its own text."""
    if not isinstance(message, dict) or message.get("id") != call_id:
        raise BadAnswerError(f"no response to the call's id: {_excerpt(message)}")
    result = message.get("result")
    if not isinstance(result, dict) or result.get("isError"):
        raise BadAnswerError(f"an error instead of the echo: {_excerpt(message)}")
    content = result.get("content")
    if not content or content[0].get("text") != text_of(call_id):
        raise BadAnswerError(f"not this call's echo: {_excerpt(message)}")


def _excerpt(message: Any) -> str:
    if isinstance(message, dict):  # the id would make a kind of its own out of every error
        message = {key: value for key, value in message.items() if key != "id"}
    return orjson.dumps(message).decode()[:160]
