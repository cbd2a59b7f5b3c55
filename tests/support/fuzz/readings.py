"""What different readers make of the same bytes: the strict one, and those that somebody before or behind us may use.

A request that reached a backend must read alike to all of them, and as the backend got it: else one thing was
authorised and another one done.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import h11

from tests.support.fuzz.requests import MODERN, NAMED
from tests.support.fuzz.text import Pairs
from tests.support.servers.witness import CALLS

Members = list[tuple[str, Any]]
FIELDS = {
    name.casefold(): name
    for name in (
        "jsonrpc", "id", "method", "params", "name", "arguments", "uri", "ref", "type", "argument", "context", "_meta",
        "requestState", "inputResponses", "task",
    )
}  # fmt: skip
SEPARATOR, QUALIFIED = "__", "canalgate://"


@dataclass(frozen=True, slots=True)
class Http:
    """A request as an HTTP library reads it."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """The values of a header."""
        return [value for key, value in self.headers if key == name]


@dataclass(frozen=True, slots=True)
class Reading:
    """What is called, in a form that can be compared: ``name`` is the MCP tool's, the URI, or the reference."""

    tool: str
    """The gateway's tool; empty where only a list can tell."""
    method: str
    name: str
    arguments: str
    params: str
    """All of them but ``_meta``."""

    def same(self, other: Reading) -> bool:
        """Whether both mean the same; a tool that one does not know is no difference."""
        tools = {self.tool, other.tool} - {""}
        mine = (self.method, self.name, self.arguments, self.params)
        return len(tools) < 2 and mine == (other.method, other.name, other.arguments, other.params)


def http(raw: bytes) -> Http | None:
    """The first request in the bytes; None if it is none, or not whole."""
    request, body = _read(raw)
    if request is None or body is None:
        return None
    headers = tuple((name.decode(), value.decode("latin-1")) for name, value in request.headers)
    path = unquote(urlsplit(request.target.decode("latin-1")).path)
    return Http(request.method.decode(), path, headers, body)


def incomplete(raw: bytes) -> bool:
    """Whether the bytes begin a request well, and more of them would have to come."""
    try:
        request, body = _read(raw, strictly=True)
    except h11.RemoteProtocolError:
        return False
    return request is None or body is None


def _read(raw: bytes, *, strictly: bool = False) -> tuple[h11.Request | None, bytes | None]:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(raw)
    request: h11.Request | None = None
    body = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return request, body
            else:
                return request, None
    except h11.RemoteProtocolError:
        if strictly:
            raise
        return request, None


def _strict(members: Members) -> dict[str, Any]:
    if len({name for name, _ in members}) < len(members):
        raise ValueError("a name stands twice")
    return dict(members)


def _first(members: Members) -> dict[str, Any]:
    return dict(reversed(members))


def _folding(members: Members) -> dict[str, Any]:
    """As Go's ``encoding/json`` fills a struct: the names that it has by folded case, the last one wins."""
    return {FIELDS.get(name.casefold(), name): value for name, value in members}


READERS: dict[str, Callable[[Members], dict[str, Any]]] = {
    "strict": _strict,
    "last": dict,
    "first": _first,
    "folding": _folding,
}


def readings(message: bytes, endpoint: str) -> dict[str, Reading | None]:
    """Reader -> what it reads; None for what it cannot read, or what is no call."""
    found: dict[str, Reading | None] = {}
    for name, hook in READERS.items():
        try:
            found[name] = _reading(message, endpoint, hook, folded=name == "folding")
        except (ValueError, RecursionError):
            found[name] = None
    return found


def _reading(
    message: bytes, endpoint: str, hook: Callable[[Members], dict[str, Any]], *, folded: bool
) -> Reading | None:
    def no_constant(text: str) -> Any:
        raise ValueError(text)

    top = json.JSONDecoder(object_pairs_hook=Pairs if folded else hook, parse_constant=no_constant).decode(
        message.decode()
    )
    if type(top) is list:  # an object may be a list of its members
        # A batch (2025-03-26) reads as its messages, which are all the same in what we send.
        top = top[0] if top and all(element == top[0] for element in top) else None
    if folded:
        # Only what the protocol names is read into a struct; what is called may have names of its own in any case.
        top = _folded(top, depth=3)
    if not isinstance(top, dict) or not isinstance(params := top.get("params"), dict) or "id" not in top:
        return None
    method = top.get("method")
    return _of(method, params, endpoint) if isinstance(method, str) and method in CALLS else None


def _folded(value: Any, depth: int) -> Any:
    """Objects as dictionaries: by folded names down to ``params`` and what it refers to."""
    if isinstance(value, Pairs):
        named = _folding(value) if depth > 0 else dict(value)
        deeper = {"params": 2, "ref": 1}
        return {name: _folded(inner, deeper.get(name, 0) if depth else 0) for name, inner in named.items()}
    return [_folded(item, 0) for item in value] if isinstance(value, list) else value


def _of(method: str, params: dict[str, Any], endpoint: str) -> Reading:
    rest = {name: value for name, value in params.items() if name != "_meta"}
    if method == "completion/complete":
        reference = rest.get("ref")
        member = "uri" if isinstance(reference, dict) and reference.get("type") == "ref/resource" else "name"
        tool, own = _routed(reference.get(member) if isinstance(reference, dict) else None, member, endpoint)
        rest["ref"] = {**reference, member: own} if isinstance(reference, dict) else reference
        return Reading(tool, method, _text(rest["ref"]), _text(rest.get("argument")), _text(rest))
    member = "uri" if method == "resources/read" else "name"
    tool, own = _routed(rest.get(member), member, endpoint)
    rest[member] = own
    return Reading(tool, method, _text(own), _text(rest.get("arguments")), _text(rest))


def _routed(named: Any, member: str, endpoint: str) -> tuple[str, Any]:
    """Tool and own name, as they stand behind the endpoint of all."""
    if endpoint or not isinstance(named, str):
        return endpoint, named
    if member == "name":
        tool, separator, own = named.partition(SEPARATOR)
        return (tool, own) if separator else ("", named)
    if named.startswith(QUALIFIED):
        tool, _, own = named.removeprefix(QUALIFIED).partition("/")
        return tool, own
    return "", named


def _text(value: Any) -> str:
    """One spelling for one value; 1, 1.0 and true are three."""
    return json.dumps(value, sort_keys=True)


def endpoint_of(path: str) -> str | None:
    """The tool of an endpoint, empty for that of all; None for any other path."""
    path = path.removesuffix("/")
    if path == "/mcp":
        return ""
    name = path.removeprefix("/servers/").removesuffix("/mcp")
    return name if path == f"/servers/{name}/mcp" else None


def header_faults(request: Http, message: bytes) -> Iterable[str]:
    """What the headers of a modern request say that its body does not."""
    versions = request.all("mcp-protocol-version")
    if [version.strip() for version in versions] != [MODERN]:
        return
    top = json.loads(message)  # noqa: TID251 - as a naive reader has it
    if request.all("mcp-method") != [top["method"]]:
        yield "Mcp-Method is not the method"
    member = NAMED.get(top["method"])
    if member is not None and [_decoded(name) for name in request.all("mcp-name")] != [
        top["params"].get(member)
    ]:
        yield "Mcp-Name is not the name"


def _decoded(value: str) -> str | None:
    if not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    try:
        return base64.b64decode(value[9:-2], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
