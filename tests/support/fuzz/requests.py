"""Requests of all revisions as they should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.support.fuzz.odd import WORDS, value
from tests.support.fuzz.text import pairs
from tests.support.servers.witness import PROMPT, TOOLS, URI

LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"
BACKENDS = ("both", "old")
"""The ids of the tools behind the gateway: one speaks both eras, one the legacy era."""
SESSION = "@session of {} at {}@"
"""Stands for the id of an open session of a revision and an endpoint, which only the sender knows."""
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}

Headers = list[tuple[str, str]]


@dataclass(slots=True)
class Draft:
    """A request in the making."""

    rng: Random
    revision: str
    endpoint: str
    """A tool's id; empty for the endpoint of all."""
    message: Any
    verb: str = "POST"
    path: str = "/mcp"
    version: str = "HTTP/1.1"
    headers: Headers = field(default_factory=list)
    escapes: float = 0.0
    blanks: float = 0.0
    done: list[str] = field(default_factory=list)
    """What was done to it."""

    @property
    def modern(self) -> bool:
        return self.revision == MODERN

    def set(self, name: str, value: str) -> None:
        """Replace a header."""
        self.headers = [(n, v) for n, v in self.headers if n.lower() != name.lower()] + [(name, value)]

    def header(self, name: str) -> str | None:
        """A header's first value."""
        return next((value for n, value in self.headers if n.lower() == name.lower()), None)


def base(rng: Random, number: int) -> Draft:
    """A request with nothing wrong about it, unless the revision does not know its method."""
    revision = rng.choice((*LEGACY, MODERN, MODERN, MODERN))
    endpoint = rng.choice(("", *BACKENDS))
    method, params = rng.choices(METHODS, [weight for _, _, weight in METHODS])[0][:2]
    members = params(rng, number, endpoint)
    if revision == MODERN:
        meta = {
            META + "protocolVersion": MODERN,
            META + "clientCapabilities": rng.choice(({}, {"sampling": {}})),
        }
        if rng.random() < 0.3:
            meta[META + "clientInfo"] = {"name": "fuzz", "version": "1"}
        members["_meta"] = meta
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": number, "method": method, "params": members}
    if method.startswith("notifications/"):
        del message["id"]
    if not method:  # a response to a request that we were never asked
        message = {"jsonrpc": "2.0", "id": rng.choice(("r1", number)), "result": {}}
    draft = Draft(rng, revision, endpoint, pairs(message))
    draft.path = f"/servers/{endpoint}/mcp" if endpoint else "/mcp"
    draft.headers = _good_headers(draft, method, members)
    if method == "" and rng.random() < 0.2:
        draft.verb = rng.choice(("GET", "DELETE"))
    return draft


def _good_headers(draft: Draft, method: str, members: Mapping[str, Any]) -> Headers:
    headers = [
        ("Host", "localhost:1"),
        ("Content-Type", "application/json"),
        ("Accept", "application/json, text/event-stream"),
    ]
    if draft.modern:
        headers += [("MCP-Protocol-Version", MODERN), ("Mcp-Method", method)]
        if (named := members.get(NAMED.get(method, ""))) is not None:
            headers.append(("Mcp-Name", str(named)))
    elif method != "initialize":
        headers += [
            ("Mcp-Session-Id", SESSION.format(draft.revision, draft.endpoint)),
            ("MCP-Protocol-Version", draft.revision),
        ]
    return headers


def _called(name: str, rng: Random, endpoint: str) -> str:
    return name if endpoint else f"{rng.choice(BACKENDS)}__{name}"


def _call(rng: Random, number: int, endpoint: str) -> dict[str, Any]:
    arguments = {"n": number, **_arguments(rng)}
    return {"name": _called(rng.choice(TOOLS), rng, endpoint), "arguments": arguments}


def _arguments(rng: Random) -> dict[str, Any]:
    return {rng.choice(WORDS): value(rng, 2) for _ in range(rng.randrange(4))}


def _read(rng: Random, number: int, endpoint: str) -> dict[str, Any]:
    uri = rng.choice((URI, f"witness://{number}"))
    if not endpoint:
        uri = rng.choice((uri, f"canalgate://{rng.choice(BACKENDS)}/{uri}"))
    return {"uri": uri}


def _prompt(rng: Random, number: int, endpoint: str) -> dict[str, Any]:
    return {"name": _called(PROMPT, rng, endpoint), "arguments": {"about": str(number)}}


def _complete(rng: Random, number: int, endpoint: str) -> dict[str, Any]:
    prompt = {"type": "ref/prompt", "name": _called(PROMPT, rng, endpoint)}
    reference = rng.choice((prompt, {"type": "ref/resource", "uri": "witness://{number}"}))
    return {"ref": reference, "argument": {"name": "about", "value": str(number)}}


def _initialize(rng: Random, _number: int, _endpoint: str) -> dict[str, Any]:
    client = {"name": "fuzz", "version": "1"}
    return {"protocolVersion": rng.choice(LEGACY), "capabilities": {}, "clientInfo": client}


def _listen(rng: Random, _number: int, _endpoint: str) -> dict[str, Any]:
    return {"notifications": {"toolsListChanged": True, "resourceSubscriptions": rng.choice(([], [URI]))}}


def _nothing(_rng: Random, _number: int, _endpoint: str) -> dict[str, Any]:
    return {}


METHODS: Sequence[tuple[str, Callable[[Random, int, str], dict[str, Any]], int]] = (
    ("tools/call", _call, 40),
    ("resources/read", _read, 10),
    ("prompts/get", _prompt, 8),
    ("completion/complete", _complete, 8),
    ("tools/list", _nothing, 4),
    ("resources/list", _nothing, 2),
    ("resources/templates/list", _nothing, 2),
    ("prompts/list", lambda rng, *_: rng.choice(({}, {"cursor": "x"}, {"cursor": 1})), 2),
    ("resources/subscribe", _read, 2),
    ("resources/unsubscribe", _read, 2),
    ("subscriptions/listen", _listen, 1),
    ("server/discover", _nothing, 2),
    ("initialize", _initialize, 3),
    ("ping", _nothing, 3),
    ("logging/setLevel", lambda rng, *_: {"level": rng.choice(("info", "debug", "no", 1))}, 3),
    ("notifications/initialized", _nothing, 2),
    ("notifications/cancelled", lambda rng, *_: {"requestId": value(rng, 0)}, 2),
    ("", _nothing, 2),
    ("tasks/get", lambda rng, *_: {"taskId": value(rng, 1)}, 1),
    ("sampling/createMessage", _nothing, 1),
)
