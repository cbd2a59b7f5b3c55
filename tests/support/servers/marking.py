"""An MCP server of the legacy era whose every message says for which request it is.

``python marking.py`` speaks over its standard streams, ``python marking.py http`` over Streamable HTTP. The ``marker``
that a request names (an argument, a URI, a value to complete) stands in all that is sent for it: the answer; for a call
of ``mark`` progress, a log message, and what its client is asked (``ask``: "sample" or "elicit"); and the URI in
``touch`` is said to have changed. The answer to a call tells as well ``at`` which process or HTTP session it was made,
and what the client said.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

Send = Callable[[dict[str, Any]], None]

OFFERED = {"tools": {}, "logging": {}, "resources": {"subscribe": True}, "prompts": {}, "completions": {}}
QUESTIONS: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "sample": (
        "sampling/createMessage",
        lambda text: {
            "messages": [{"role": "user", "content": {"type": "text", "text": text}}],
            "maxTokens": 9,
        },
    ),
    "elicit": (
        "elicitation/create",
        lambda text: {"message": text, "requestedSchema": {"type": "object", "properties": {}}},
    ),
}
_write = threading.Lock()
_answered = threading.Condition()
_answers: dict[str, Any] = {}


def asked(send: Send, kind: str, marker: str) -> Any:
    """What the client answers to a question that is the marker; None if it does not within a minute."""
    name = uuid4().hex
    method, params = QUESTIONS[kind]
    send({"id": name, "method": method, "params": params(marker)})
    with _answered:
        _answered.wait_for(lambda: name in _answers, 60)
        return _answers.pop(name, None)


def heard(message: dict[str, Any]) -> None:
    """An answer of the client."""
    with _answered:
        _answers[message["id"]] = message.get("result") or {"error": message.get("error")}
        _answered.notify_all()


def mark(params: dict[str, Any], at: str, send: Send) -> dict[str, Any]:
    """The result of a call."""
    arguments = params["arguments"]
    marker = arguments["marker"]
    token = params.get("_meta", {}).get("progressToken")
    if token is not None:
        told = {"progressToken": token, "progress": 1, "message": marker}
        send({"method": "notifications/progress", "params": told})
    send({"method": "notifications/message", "params": {"level": "error", "data": marker}})
    if "touch" in arguments:
        send({"method": "notifications/resources/updated", "params": {"uri": arguments["touch"]}})
    said = asked(send, arguments["ask"], marker) if "ask" in arguments else None
    told = {"marker": marker, "at": at, "said": said}
    return {"content": [{"type": "text", "text": marker}], "structuredContent": told}


def result_of(message: dict[str, Any], at: str, send: Send) -> dict[str, Any] | None:
    """What a request is answered with; None for a method that there is not."""
    params = message.get("params", {})
    text = {"type": "text", "text": params.get("arguments", {}).get("marker", "")}
    found: dict[str, Callable[[], dict[str, Any]]] = {
        "initialize": lambda: {
            "protocolVersion": "2025-11-25",
            "capabilities": OFFERED,
            "serverInfo": {"name": "marking", "version": "1"},
        },
        "tools/list": lambda: {"tools": [{"name": "mark", "inputSchema": {"type": "object"}}]},
        "resources/list": lambda: {"resources": []},
        "resources/templates/list": lambda: {
            "resourceTemplates": [{"uriTemplate": "test://{marker}", "name": "any"}]
        },
        "prompts/list": lambda: {"prompts": [{"name": "say", "arguments": [{"name": "marker"}]}]},
        "resources/read": lambda: {"contents": [{"uri": params["uri"], "text": params["uri"]}]},
        "prompts/get": lambda: {"messages": [{"role": "user", "content": text}]},
        "completion/complete": lambda: {"completion": {"values": [params["argument"]["value"]]}},
        "tools/call": lambda: mark(params, at, send),
        **dict.fromkeys(("ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"), dict),
    }
    make = found.get(message["method"])
    return None if make is None else make()


def answer(message: dict[str, Any], at: str, send: Send) -> None:
    """Answer whatever is asked."""
    result = result_of(message, at, send)
    if result is None:
        send({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})
    else:
        send({"id": message["id"], "result": result})


def wire(message: dict[str, Any]) -> bytes:
    """A message as it is written."""
    return orjson.dumps({"jsonrpc": "2.0", **message})


def say(message: dict[str, Any]) -> None:
    """One line of the standard output."""
    with _write:
        sys.stdout.buffer.write(wire(message) + b"\n")
        sys.stdout.buffer.flush()


def over_stdio() -> None:
    """Until the end of the input."""
    for line in sys.stdin.buffer:
        message = orjson.loads(line)
        if "method" in message and "id" in message:
            threading.Thread(target=answer, args=(message, str(os.getpid()), say), daemon=True).start()
        elif "id" in message:
            heard(message)


def over_http() -> None:
    """For ever: a stream for each call, on which its client is asked as well; no standing stream."""
    if not __package__:  # run as a file: make the repository importable
        sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from tests.support.servers.http_wire import Connection, Request, listen

    def handle(connection: Connection, request: Request) -> None:
        if request.method != "POST":
            connection.respond("405 Method Not Allowed" if request.method == "GET" else "200 OK")
            return
        message = orjson.loads(request.body)
        if "method" not in message:
            heard(message)
        if "method" not in message or "id" not in message:
            connection.respond("202 Accepted")
        elif message["method"] == "tools/call":
            connection.start_stream()
            at = request.headers.get("mcp-session-id", "")
            answer(message, at, lambda told: connection.send_event(wire(told)))
            connection.end_stream()
        else:
            said: list[bytes] = []
            answer(message, "", lambda told: said.append(wire(told)))
            opened = message["method"] == "initialize"
            connection.respond(
                "200 OK", said[-1], headers={"Mcp-Session-Id": uuid4().hex} if opened else None
            )

    listen("127.0.0.1", 0, handle)


if __name__ == "__main__":
    over_http() if sys.argv[1:] == ["http"] else over_stdio()
