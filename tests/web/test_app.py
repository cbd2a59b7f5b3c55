"""The application around the endpoints: health, guards before everything, and errors that tell nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import orjson
import pytest
from flask import Flask
from werkzeug.test import TestResponse

from common.domain.errors import ConfigurationError
from common.domain.ids import ToolId
from common.domain.tool import StdioTransport, Tool
from common.gateway import Gateway, entrance
from common.settings import Settings
from common.store.client import StoreAddress
from gateway_web.app import create_app
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until
from tests.web.harness import (
    BOTH,
    META_FIELDS,
    MODERN,
    OWN,
    Serve,
    Web,
    beat,
    body,
    error,
    request,
)

DOORS = [f"{where}/{name}" for where in ("", "/servers/echo") for name in ("mcp", "sse", "messages", "ws")]
PATHS = [*DOORS, "/livez", "/readyz", "/nowhere", "/"]


def test_alive_is_alive(web: Web) -> None:
    """Whatever else is missing."""
    response = web.http.get("/livez")
    assert (response.status_code, response.json) == (200, {"status": "ok"})


def test_ready_says_what_is_missing(serve: Serve) -> None:
    """No worker yet: 503; then 200."""
    web = serve()
    response = web.http.get("/readyz")
    assert response.status_code == 503
    assert response.json == {"ready": False, "redis": True, "replies": True, "tools": True, "workers": 0}
    beat(web)
    wait_until(lambda: web.http.get("/readyz").status_code == 200, description="ready")
    assert web.http.get("/readyz").json == {
        "ready": True,
        "redis": True,
        "replies": True,
        "tools": True,
        "workers": 1,
    }


def starting(server: RedisServer) -> Gateway:
    """The gateway of a web process that does not listen yet; its file has one tool."""
    with server.client(OWN) as raw:
        raw.flushdb()
    settings = Settings.model_validate({"redis": {"key_prefix": "starting"}})
    tool = Tool(id=ToolId("early"), transport=StdioTransport(command="cmd"))
    address = StoreAddress(url=server.url(OWN))
    return Gateway(settings.model_copy(update={"tools": (tool,)}), address, publish_tools=True)


def listed(app: Flask, path: str) -> TestResponse:
    """The answer to ``tools/list`` of a modern client."""
    headers = {
        "Accept": BOTH,
        "Content-Type": "application/json",
        "MCP-Protocol-Version": MODERN,
        "Mcp-Method": "tools/list",
    }
    message = request("tools/list", {"_meta": META_FIELDS})
    return app.test_client().post(path, data=orjson.dumps(message), headers=headers)


@pytest.mark.parametrize("path", ["/mcp", "/servers/early/mcp"])
def test_requests_wait_for_a_process_that_has_just_started(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Until it has read the registry; it is not ready before, and answers others meanwhile."""
    monkeypatch.setattr(entrance, "FIRST_READING", 30)
    with closing(starting(redis_server)) as gateway, ThreadPoolExecutor(1) as pool:
        app = create_app(gateway)
        waiting = pool.submit(listed, app, path)
        ready = app.test_client().get("/readyz")
        assert (ready.status_code, (ready.json or {})["tools"]) == (503, False)
        assert app.test_client().get("/livez").status_code == 200
        assert not waiting.done()
        gateway.start()
        assert body(waiting.result(10))["result"]["tools"] == []
        wait_until(lambda: (app.test_client().get("/readyz").json or {})["tools"], description="its tools")


@pytest.mark.parametrize("path", ["/mcp", "/servers/early/mcp"])
def test_a_registry_that_nobody_has_read_is_not_an_empty_one(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """A process that cannot read it in time says so."""
    monkeypatch.setattr(entrance, "FIRST_READING", 0.01)
    with closing(starting(redis_server)) as gateway:
        answer = body(listed(create_app(gateway), path))
    assert answer["error"]["data"] == {"code": "TOOL_UNAVAILABLE", "retry_after": 1}


def test_without_redis_it_is_alive_and_not_ready(serve: Serve, proxy: TcpProxy) -> None:
    """And says so without an error."""
    web = serve(f"redis://127.0.0.1:{proxy.port}/{OWN}")
    proxy.refuse()
    proxy.cut()
    wait_until(lambda: web.http.get("/readyz").status_code == 503, description="noticed")
    assert (web.http.get("/readyz").json or {})["redis"] is False
    assert web.http.get("/livez").status_code == 200
    proxy.refuse(False)


def test_the_paths_above_are_all_there_are(web: Web) -> None:
    """A new route without a row is a route that nobody has guarded."""
    rules = {rule.rule.replace("<path:tool>", "echo") for rule in web.app.url_map.iter_rules()}
    assert rules == set(PATHS) - {"/nowhere", "/"}


@pytest.mark.parametrize("path", ["/mcp", "/servers/echo/mcp", "/sse"])
def test_a_head_request_opens_no_stream(web: Web, path: str) -> None:
    """Found by fuzzing: it was a GET without a body, so it took the session's stream over and never ended."""
    session = web.initialize()
    response = web.http.head(path, headers={"Mcp-Session-Id": session, "Accept": "text/event-stream"})
    assert response.status_code == 405
    assert "GET" in response.headers["Allow"]
    assert "HEAD" not in response.headers["Allow"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example.com"}, 421),
        ({"Host": "a/?x"}, 400),
        ({"Host": "localhost,evil.example.com"}, 400),
        ({"Host": ""}, 400),
        ({"Origin": "http://evil.example.com"}, 403),
        ({"Host": "evil.example.com", "Origin": "http://evil.example.com"}, 421),
    ],
)
def test_every_path_is_guarded(
    web: Web, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """Known or not, with any method."""
    response = web.http.open(path, method=method, headers=headers)
    assert response.status_code == status
    if method != "HEAD":
        assert body(response)["error"]["message"]


@pytest.mark.parametrize(
    "path", ["/nowhere", "//mcp", "/mcp/x", "/servers//mcp", "/servers/mcp", "/MCP", "/a/../mcp", "/static/x"]
)
def test_what_is_not_there_is_404(web: Web, path: str) -> None:
    """As JSON; ``//mcp`` is not ``/mcp`` in disguise."""
    response = web.http.get("/", environ_overrides={"PATH_INFO": path})
    assert (response.status_code, body(response)) == (404, {"error": "Not Found", "status": 404})


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_health_is_for_reading(web: Web, path: str) -> None:
    """405, with what is allowed."""
    response = web.http.post(path)
    assert response.status_code == 405
    assert {"GET", "HEAD"} <= set(response.headers["Allow"].split(", "))


def test_a_fault_of_ours_tells_nothing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 with a JSON-RPC error; what broke is in the log only."""
    web = serve()

    def broken() -> object:
        raise RuntimeError("secret")

    session = web.initialize()
    monkeypatch.setattr(web.gateway.catalogue, "entries", broken)
    response = web.legacy(session, "tools/list")
    assert error(response) == (500, -32603)
    assert b"secret" not in response.data


def test_a_resolver_that_cannot_be_loaded_stops_the_start(redis_url: str) -> None:
    """Before the first request."""
    settings = Settings.model_validate({"identity": {"resolver": "no.such:Thing"}})
    gateway = Gateway(settings, StoreAddress(url=redis_url))
    with pytest.raises(ConfigurationError):
        create_app(gateway)
    gateway.close()


def test_answers_are_json_without_fuss(web: Web) -> None:
    """UTF-8 as it is, and nothing of Flask's own making."""
    response = web.post(request("ping", {"ü": "é"}), headers={"Mcp-Session-Id": "ü"})
    assert response.content_type == "application/json"
    assert orjson.loads(response.data)["jsonrpc"] == "2.0"
