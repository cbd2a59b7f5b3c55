"""Clients of the marking server, by each door of the gateway, that note whatever is not theirs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import orjson

from tests.support.mcp import RawClient
from tests.support.servers.gateway import RunningGateway
from tests.web.peers import DOORS, SsePeer, Talk, WebSocketPeer

MARK = "mark-"
CAPABILITIES: dict[str, Any] = {"sampling": {}, "elicitation": {"form": {}}}
Message = dict[str, Any]


@dataclass(frozen=True)
class Principal:
    """Who calls. Clients of both tenants have the same names."""

    tenant: str
    client: str
    key: str

    @property
    def mark(self) -> str:
        """What all markers of this principal begin with."""
        return f"{MARK}{self.tenant}-{self.client}-"

    def marker(self) -> str:
        """One that nobody else has."""
        return f"{self.mark}{uuid4().hex}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@dataclass
class Heard:
    """What one client was sent, by kind. ``strangers`` is all that was not its own."""

    counted: Counter[str] = field(default_factory=Counter)
    places: set[str] = field(default_factory=set)
    strangers: list[tuple[str, str, Message]] = field(default_factory=list)

    def note(self, kind: str, own: str, message: Message) -> None:
        """A message that must bear ``own``, a marker or what markers begin with, and no other marker."""
        self.counted[kind] += 1
        text = orjson.dumps(message).decode()
        if own not in text or text.count(MARK) != text.count(own):
            self.strangers.append((kind, own, message))


class MarkedClient:
    """One client. Its request ids and progress tokens are those of every other one: only the gateway keeps them apart.

    A subclass is a door: it sends a request and yields all that comes up to the answer, and it sends answers.
    """

    asks = True
    """Whether it can be asked, and watches a resource."""

    def __init__(self, gateway: RunningGateway, who: Principal, tool: str) -> None:
        self.gateway, self.who, self.tool = gateway, who, tool
        self.heard = Heard()
        self._questions = itertools.cycle(("sample", "elicit"))
        self.watched = f"test://{who.marker()}"
        self.open()

    def open(self) -> None:
        """Connect, and begin the session."""

    def close(self) -> None:
        """Leave."""

    def exchange(self, method: str, params: Message) -> Iterator[Message]:
        """Send a request; all messages up to its answer, which is the last."""
        raise NotImplementedError

    def reply(self, message: Message) -> None:
        """Send an answer."""
        raise NotImplementedError

    def run(self, calls: int) -> Heard:
        """So many requests of all kinds, one after the other."""
        kinds: tuple[Callable[[str], tuple[str, Message]], ...] = (
            lambda marker: ("tools/call", {"name": "mark", "arguments": {"marker": marker}}),
            lambda marker: ("tools/call", {"name": "mark", "arguments": self._asking(marker)}),
            lambda marker: ("resources/read", {"uri": f"test://{marker}"}),
            lambda marker: ("prompts/get", {"name": "say", "arguments": {"marker": marker}}),
            lambda marker: (
                "completion/complete",
                {
                    "ref": {"type": "ref/prompt", "name": "say"},
                    "argument": {"name": "marker", "value": marker},
                },
            ),
        )
        try:
            for make in itertools.islice(itertools.cycle(kinds), calls):
                marker = self.who.marker()
                method, params = make(marker)
                self._take_all(method, params, marker)
        finally:
            self.close()
        return self.heard

    def _asking(self, marker: str) -> Message:
        if not self.asks:
            return {"marker": marker}
        kind = next(self._questions)
        return {"marker": marker, "touch": self.watched, "ask": kind}

    def _take_all(self, method: str, params: Message, marker: str) -> None:
        # The same token for everybody.
        sent = {**params, "_meta": {"progressToken": 1}} if method == "tools/call" else params
        for message in self.exchange(method, sent):
            kind = message.get("method", method)
            if kind == "notifications/resources/updated":
                self.heard.note(kind, self.watched, message)
            elif kind == "notifications/message":
                # Over stdio it names no call: whose principal it is alone is promised (docs/decisions/0011).
                self.heard.note(kind, self.who.mark, message)
            else:
                self.heard.note(kind, marker, message)
            if "method" in message and "id" in message:
                self._answer(message, marker)
            elif method == "tools/call" and "result" in message:
                self._check_said(message["result"]["structuredContent"], marker)

    def _answer(self, question: Message, marker: str) -> None:
        if question["method"] == "sampling/createMessage":
            content = {"type": "text", "text": marker}
            result: Message = {"role": "assistant", "content": content, "model": "m"}
        else:
            result = {"action": "accept", "content": {"marker": marker}}
        self.reply({"jsonrpc": "2.0", "id": question["id"], "result": result})

    def _check_said(self, told: Message, marker: str) -> None:
        self.heard.places.add(told["at"])
        if told["said"] is not None:
            self.heard.counted["refused" if "error" in told["said"] else "answered"] += 1
            assert "error" in told["said"] or marker in str(told["said"]), told


class ByPost(MarkedClient):
    """Streamable HTTP in the legacy era."""

    def open(self) -> None:
        self._client = RawClient(
            self.gateway.tool_url(self.tool), headers=dict(self.who.headers), ids=itertools.count(1)
        )
        assert self._client.open(capabilities=CAPABILITIES).status_code == 200
        self._http = httpx.Client(timeout=120)

    def close(self) -> None:
        self._http.close()

    def exchange(self, method: str, params: Message) -> Iterator[Message]:
        message = self._client.message(method, params)
        headers = self._client.sent_headers(method, message["params"])
        with self._http.stream("POST", self._client.url, json=message, headers=headers) as response:
            assert response.status_code == 200, response.read()
            if not response.headers["content-type"].startswith("text/event-stream"):
                yield orjson.loads(response.read())
                return
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    yield orjson.loads(line.removeprefix("data: "))

    def reply(self, message: Message) -> None:
        headers = self._client.sent_headers("", {})
        assert httpx.post(self._client.url, json=message, headers=headers, timeout=60).status_code == 202


class Modern(ByPost):
    """Streamable HTTP in the modern era, which has no sessions."""

    asks = False

    def open(self) -> None:
        self._client = RawClient(
            self.gateway.tool_url(self.tool),
            modern=True,
            headers=dict(self.who.headers),
            ids=itertools.count(1),
        )
        self._http = httpx.Client(timeout=120)

    def exchange(self, method: str, params: Message) -> Iterator[Message]:
        if method == "resources/read":
            self._client.headers["mcp-name"] = params["uri"]
        else:
            self._client.headers.pop("mcp-name", None)
        meta = {**params.get("_meta", {}), "io.modelcontextprotocol/logLevel": "debug"}
        return super().exchange(method, {**params, "_meta": meta})


class Connected(MarkedClient):
    """A door that is one connection for both directions."""

    door = "websocket"

    def open(self) -> None:
        place = self.gateway.url.partition("//")[2]
        self._peer: SsePeer | WebSocketPeer = DOORS[self.door](place, self.tool, **self.who.headers)
        self._talk = Talk(self._peer)
        params = {
            "protocolVersion": "2025-11-25",
            "capabilities": CAPABILITIES,
            "clientInfo": {"name": "t", "version": "0"},
        }
        assert "result" in self._talk.answer("initialize", params, 0)
        self._ids = itertools.count(1)
        assert "result" in self._talk.answer("resources/subscribe", {"uri": self.watched}, next(self._ids))

    def close(self) -> None:
        self._peer.close()

    def exchange(self, method: str, params: Message) -> Iterator[Message]:
        name = next(self._ids)
        self._talk.ask(method, params, name)
        while True:
            message = self._talk.next()
            yield message
            if "method" not in message:
                assert message["id"] == name, message
                return

    def reply(self, message: Message) -> None:
        self._talk.send(message)


class BySse(Connected):
    """HTTP+SSE."""

    door = "sse"


CLIENTS: tuple[type[MarkedClient], ...] = (ByPost, Modern, Connected, BySse)
