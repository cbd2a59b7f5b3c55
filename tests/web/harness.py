"""The web program in this process: Flask's test client, a real Redis, and a worker without backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from common.calls import call as call_module
from common.calls import replies
from common.domain.capabilities import Capabilities
from common.domain.ids import NodeId, ToolId
from common.domain.tool import StdioTransport, Tool, ToolState
from common.gateway import Gateway
from common.registry.records import capabilities_to_json
from common.settings import Settings
from common.store.client import StoreAddress
from common.store.scripts import run
from common.telemetry.spans import Tracer
from gateway_web.app import create_app
from gateway_web.ingress.short_way import ShortWay
from tests.support.fake_worker import FakeWorker
from tests.support.redis import RedisServer, leaked_keys
from tests.support.wait import wait_until
from tests.web.gunicorn_way import GunicornWay

SHARED, OWN = 1, 2
"""Databases: of the web process that a module's tests share, and of one with settings of a test's own."""
MODERN = "2026-07-28"
LEGACY = "2025-11-25"
META = "io.modelcontextprotocol/"
BOTH = "application/json, text/event-stream"
ODD = ToolId("it's/a b%c")
SLOW_TIMEOUT = 0.3

ADD = {
    "name": "add",
    "title": "Add",
    "description": "Adds two numbers",
    "inputSchema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "region": {"type": "string", "x-mcp-header": "Region"}},
    },
    "outputSchema": {"type": "object"},
    "annotations": {"readOnlyHint": True},
    "_meta": {"vendor/x": [1, {"y": None}]},
    "icons": [{"src": "data:,"}],
    "x-unknown": {"kept": True},
}
SUBTRACT = {"name": "sub__tract", "inputSchema": {"type": "object"}}
OFFERED = {
    "tools": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "prompts": {"listChanged": True},
    "completions": {},
}
"""What is offered at the aggregate: among its tools is one of which nothing is known yet."""
NOTE = {"uri": "note://a", "name": "a", "mimeType": "text/plain", "x-unknown": {"kept": True}}
NOTES = {"uriTemplate": "note://{id}/page", "name": "pages"}
GREET = {"name": "greet", "arguments": [{"name": "who", "required": True}], "title": "Greet"}
CAPABILITIES: Mapping[ToolId, Mapping[str, Any]] = {
    ToolId("echo"): {
        "tools": (ADD, SUBTRACT),
        "resources": (NOTE,),
        "resource_templates": (NOTES,),
        "prompts": (GREET,),
        "server_capabilities": {"tools": {}, "resources": {}, "prompts": {}, "completions": {}},
        "instructions": "Be kind.",
        "server_info": {"name": "Echo", "version": "7", "title": "The echo"},
    },
    ToolId("slow"): {
        "tools": ({"name": "wait", "inputSchema": {"type": "object"}},),
        "resources": (NOTE, {"uri": "slow://b", "name": "b"}),
        "server_capabilities": {"tools": {}, "resources": {}},
    },
    ODD: {"tools": (ADD,)},
    ToolId("off"): {"tools": (ADD,)},
}


def registered() -> list[Tool]:
    """echo and slow; one with an odd id; one switched off; one whose backend was not asked yet."""
    transport = StdioTransport(command="cmd")
    return [
        Tool(id=ToolId("echo"), transport=transport),
        Tool(id=ToolId("slow"), transport=transport, request_timeout=SLOW_TIMEOUT),
        Tool(id=ODD, transport=transport),
        Tool(id=ToolId("off"), transport=transport, state=ToolState.DISABLED),
        Tool(id=ToolId("unasked"), transport=transport),
    ]


@dataclass(slots=True)
class Web:
    """One web process, and what surrounds it."""

    gateway: Gateway
    app: Flask
    worker: FakeWorker
    way: str = "short way"
    http: FlaskClient = field(init=False)

    def __post_init__(self) -> None:
        self.http = self.app.test_client()

    def post(
        self, message: object, path: str = "/mcp", *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> TestResponse:
        """POST a message (bytes as they are); a header of "" is left out."""
        body = message if isinstance(message, bytes) else orjson.dumps(message)
        merged = {"Accept": BOTH, "Content-Type": "application/json", **(headers or {})}
        sent = [(name, value) for name, value in merged.items() if value != ""]
        return self.http.post(path, data=body, headers=sent, **options)

    def initialize(self, path: str = "/mcp", *, headers: Mapping[str, str] | None = None) -> str:
        """Open a legacy session; its id."""
        response = self.post(request("initialize", INITIALIZE), path, headers=headers)
        assert response.status_code == 200, response.text
        return str(response.headers["Mcp-Session-Id"])

    def legacy(self, session: str, method: str, params: object = None, **options: Any) -> TestResponse:
        """A request of the legacy era within a session."""
        headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY, **options.pop("headers", {})}
        identity = options.pop("id", 1)
        return self.post(request(method, params, identity), headers=headers, **options)

    def modern(self, method: str, params: Mapping[str, Any] | None = None, **options: Any) -> TestResponse:
        """A request of the modern era, described as it must be."""
        params = {**(params or {}), "_meta": {**META_FIELDS, **options.pop("meta", {})}}
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
        name = params.get("uri" if method == "resources/read" else "name")
        if isinstance(name, str):
            headers["Mcp-Name"] = name
        headers |= options.pop("headers", {})
        identity = options.pop("id", 1)
        return self.post(request(method, params, identity), headers=headers, **options)

    @staticmethod
    @contextmanager
    def aside(work: Callable[[], None]) -> Iterator[None]:
        """Do something beside what is done within; a fault of it is raised at the end."""
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(work)
            yield
            done.result(20)

    def nothing_waits(self) -> None:
        """Every call that was begun has been let go of."""
        wait_until(lambda: self.gateway.hub.waiting == 0, description="nobody waits")
        assert self.gateway.cancellations.remembered == 0


META_FIELDS = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
INITIALIZE = {
    "protocolVersion": LEGACY,
    "capabilities": {"sampling": {}},
    "clientInfo": {"name": "test", "version": "1"},
}


def request(method: str, params: object = None, identity: object = 1) -> dict[str, Any]:
    """A JSON-RPC request."""
    message = {"jsonrpc": "2.0", "id": identity, "method": method}
    return message if params is None else {**message, "params": params}


def notification(method: str, params: object = None) -> dict[str, Any]:
    """A JSON-RPC notification."""
    message = request(method, params)
    del message["id"]
    return message


def body(response: TestResponse) -> dict[str, Any]:
    """The JSON object of an answer."""
    assert response.mimetype == "application/json", (response.status, response.text)
    return cast("dict[str, Any]", orjson.loads(response.data))


def error(response: TestResponse) -> tuple[int, int]:
    """HTTP status and JSON-RPC code of a refusal."""
    return response.status_code, body(response)["error"]["code"]


def events(raw: bytes | str) -> list[Any]:
    """The messages of an event stream; a comment is its text, and a place to come back to is left out."""
    text = raw if isinstance(raw, str) else raw.decode()
    found: list[Any] = []
    for block in text.split("\n\n")[:-1]:
        if block.startswith(":"):
            found.append(block)
            continue
        *head, data = block.split("\n")
        assert data.startswith("data: ")
        if data != "data: ":
            assert head[0] == "event: message"
            found.append(orjson.loads(data.removeprefix("data: ")))
    return found


Serve = Callable[..., Web]


@contextmanager
def serving(
    server: RedisServer,
    db: int,
    *,
    url: str | None = None,
    way: str = "short way",
    tracer: Tracer | None = None,
    **sections: Mapping[str, Any],
) -> Iterator[Web]:
    """A web process with these settings on an empty database.

    ``url`` is another way to the same database. ``way`` is that of the requests: "gunicorn" through its parser and our
    worker class, "short way" straight into the WSGI application, "flask" by Flask's routes.
    """
    settings = Settings.model_validate({"redis": {"key_prefix": f"web{db}"}, **sections})
    with pytest.MonkeyPatch.context() as patch, server.client(db) as raw:
        patch.setattr(replies, "HEARTBEAT", 0.05)
        patch.setattr(replies, "MISSED_HEARTBEATS", 20)
        patch.setattr(replies, "RETRY_MAX", 0.1)
        patch.setattr(call_module, "ANSWER_GRACE", 0.1)
        raw.flushdb()
        address = StoreAddress(url=url or server.url(db), connect_timeout=1, socket_timeout=2)
        with Gateway(settings, address) as gateway:
            gateway.tracer = tracer
            register(gateway)
            names = [tool.id for tool in registered()]
            with FakeWorker(server, gateway.keys, names, db=db) as worker:
                app = create_app(gateway)
                inner = cast("ShortWay", app.wsgi_app)
                with closing(GunicornWay(inner)) as by_gunicorn:
                    ways = {"gunicorn": by_gunicorn, "short way": inner, "flask": inner.flask}
                    app.wsgi_app = ways[way]  # type: ignore[method-assign]
                    yield Web(gateway, app, worker, way)
        assert leaked_keys(raw) == []


def register(gateway: Gateway) -> None:
    """Register the tools and what they offer, and wait until the gateway has seen it."""
    gateway.registry.publish_file(registered())
    keys = gateway.keys
    for entry in gateway.registry.entries():
        if entry.id in CAPABILITIES:
            found = Capabilities(
                tool_version=entry.registered.version, discovered_at=1, **CAPABILITIES[entry.id]
            )
            names = [
                *(keys.registry_versions, keys.registry_capabilities, keys.registry_version),
                *(keys.registry_changes, keys.registry_refresh),
            ]
            arguments = [
                entry.id,
                capabilities_to_json(found),
                entry.registered.version,
                1,
                keys.registry_channel,
            ]
            run(gateway.client, "capabilities_put", names, arguments)
    wanted = int(gateway.client.get(keys.registry_version) or 0)
    wait_until(
        lambda: gateway.catalogue.version == wanted and gateway.hub.listening,
        description="the catalogue is read",
    )


def beat(web: Web, node: str = "node") -> None:
    """A worker lives."""
    run(
        web.gateway.client,
        "node_beat",
        [web.gateway.keys.nodes, web.gateway.keys.fenced(NodeId(node))],
        [node, 60_000],
    )
