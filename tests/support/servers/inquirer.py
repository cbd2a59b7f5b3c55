"""A stdio MCP server that asks its client something during a call, in the era it is told to speak.

``python inquirer.py legacy|modern``. Its tools are the names of what it asks for: ``elicitation``, ``sampling``,
``roots``, ``both`` (the first two at once) and ``nothing``. Each answers with what it was told, as JSON, and ``who`` of
its arguments. ``hold`` answers when the file named by ``path`` is there. ``touch`` says that the resource ``uri`` was
updated, if somebody asked to be told; ``heard`` tells who asked. When it hears that roots have changed it asks for
them, and ``known`` tells what it was told then.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

ERA = sys.argv[1]
VERSION = {"legacy": "2025-11-25", "modern": "2026-07-28"}[ERA]
META = "io.modelcontextprotocol/"
OFFERED = {"tools": {}, "resources": {"subscribe": True}}
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}}
FORM = {"mode": "form", "message": "What is it?", "requestedSchema": SCHEMA}
PROMPT = {"messages": [{"role": "user", "content": {"type": "text", "text": "Say it"}}], "maxTokens": 10}
QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "elicitation": ("elicitation/create", FORM),
    "sampling": ("sampling/createMessage", PROMPT),
    "roots": ("roots/list", {}),
}
ASKED = {**{name: [name] for name in QUESTIONS}, "both": ["elicitation", "sampling"], "nothing": []}

_write = threading.Lock()
_subscribed: set[str] = set()
_listening: dict[Any, list[str]] = {}
_answers: dict[str, Any] = {}
_known: list[Any] = []
_answered = threading.Condition()


def send(message: dict[str, Any]) -> None:
    """One line."""
    with _write:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def asked_of_client(call: Any, name: str) -> Any:
    """Ask in the legacy way, and wait."""
    method, params = QUESTIONS[name]
    request = f"{call}-{name}"
    send({"id": request, "method": method, "params": params})
    with _answered:
        _answered.wait_for(lambda: request in _answers)
        return _answers.pop(request)


def legacy_call(message: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """All questions at once, each on a thread of its own."""
    found: dict[str, Any] = {}

    def ask(name: str) -> None:
        found[name] = asked_of_client(message["id"], name)

    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def touch(uri: str) -> None:
    """Say that a resource was updated."""
    if uri in _subscribed:
        send({"method": "notifications/resources/updated", "params": {"uri": uri}})
    for request, uris in list(_listening.items()):
        if uri in uris:
            params = {"uri": uri, "_meta": {META + "subscriptionId": request}}
            send({"method": "notifications/resources/updated", "params": params})


def tools_call(message: dict[str, Any]) -> None:
    """Answer a call."""
    params = message["params"]
    arguments = params.get("arguments", {})
    if params["name"] == "touch":
        touch(arguments["uri"])
    if params["name"] == "hold":
        while not Path(arguments["path"]).exists():
            time.sleep(0.02)
    names = ASKED.get(params["name"], [])
    if ERA == "legacy":
        found = legacy_call(message, names)
    elif names and "inputResponses" not in params:
        requests = {name: dict(zip(("method", "params"), QUESTIONS[name], strict=True)) for name in names}
        asked = {
            "resultType": "input_required",
            "inputRequests": requests,
            "requestState": "kept by " + names[0],
        }
        send({"id": message["id"], "result": asked})
        return
    else:
        found = params.get("inputResponses", {})
        if names and params.get("requestState") != "kept by " + names[0]:
            send({"id": message["id"], "error": {"code": -32602, "message": "another state"}})
            return
    if params["name"] == "known":
        found = {"roots": list(_known)}
    if params["name"] == "heard":
        found = {"uris": sorted(_subscribed.union(*_listening.values()))}
    told = {"who": arguments.get("who"), "told": found}
    result: dict[str, Any] = {
        "content": [{"type": "text", "text": json.dumps(told)}],
        "structuredContent": told,
    }
    send({"id": message["id"], "result": result | ({"resultType": "complete"} if ERA == "modern" else {})})


def request(message: dict[str, Any]) -> None:
    """Answer whatever is asked."""
    method = message["method"]
    if method == "tools/call":
        threading.Thread(target=tools_call, args=(message,), daemon=True).start()
        return
    cache = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if ERA == "modern" else {}
    info = {"name": "inquirer", "version": "1"}
    if method == "initialize" and ERA == "legacy":
        told = json.dumps(message["params"]["capabilities"], sort_keys=True)
        result: dict[str, Any] = {
            "protocolVersion": VERSION,
            "capabilities": OFFERED,
            "serverInfo": info,
            "instructions": told,
        }
    elif method == "server/discover" and ERA == "modern":
        result = {"supportedVersions": [VERSION], "capabilities": OFFERED, **cache}
    elif method == "tools/list":
        schema = {"type": "object", "properties": {"who": {"type": "string"}}}
        result = {
            "tools": [
                {"name": name, "inputSchema": schema} for name in (*ASKED, "hold", "touch", "heard", "known")
            ],
            **cache,
        }
    elif method == "resources/list":
        result = {"resources": [{"uri": f"note://{ERA}", "name": "note"}], **cache}
    elif method in {"resources/subscribe", "resources/unsubscribe"} and ERA == "legacy":
        (_subscribed.add if method.endswith("/subscribe") else _subscribed.discard)(message["params"]["uri"])
        result = {}
    elif method == "subscriptions/listen" and ERA == "modern":
        wanted = message["params"]["notifications"]
        _listening[message["id"]] = wanted.get("resourceSubscriptions", [])
        meta = {META + "subscriptionId": message["id"]}
        told_first = {"notifications": wanted, "_meta": meta}
        send({"method": "notifications/subscriptions/acknowledged", "params": told_first})
        return
    elif method == "ping":
        result = {}
    else:
        send({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})
        return
    send({"id": message["id"], "result": result})


def roots_changed() -> None:
    """Ask for them, outside any call."""
    _known.append(asked_of_client(f"changed-{time.monotonic_ns()}", "roots"))


def main() -> None:
    """Until the end of the input."""
    for line in sys.stdin:
        message = json.JSONDecoder().decode(line)
        if "method" in message and "id" in message:
            request(message)
        elif message.get("method") == "notifications/cancelled":
            _listening.pop(message["params"]["requestId"], None)
        elif message.get("method") == "notifications/roots/list_changed":
            threading.Thread(target=roots_changed, daemon=True).start()
        elif "method" not in message:
            with _answered:
                _answers[message["id"]] = message.get("result") or {"error": message.get("error")}
                _answered.notify_all()


if __name__ == "__main__":
    main()
