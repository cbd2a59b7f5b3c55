"""The short way in: which requests take it, and that it answers as Flask's route does."""

from __future__ import annotations

from typing import Any

import pytest

from common.domain.ids import ToolId
from gateway_web.http import HttpAnswer, HttpRequest
from gateway_web.ingress.short_way import ShortWay
from tests.web.harness import Web, error


def environ(path: str, **changes: str) -> dict[str, Any]:
    return {"REQUEST_METHOD": "POST", "PATH_INFO": path, "SCRIPT_NAME": "", **changes}


@pytest.fixture
def taken() -> list[ToolId | None]:
    """The tools of what took the short way."""
    return []


@pytest.fixture
def way(taken: list[ToolId | None]) -> ShortWay:
    def post(_http: HttpRequest, tool: ToolId | None) -> HttpAnswer:
        taken.append(tool)
        return HttpAnswer(body=b"short")

    return ShortWay(
        lambda _environ, _start: [b"flask"],
        guard=lambda _environ: None,
        post=post,
        broken=lambda _error, _path: HttpAnswer(status=500),
    )


def answered(way: ShortWay, environ: dict[str, Any]) -> bytes:
    return b"".join(way(environ, lambda _status, _headers: None))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("path", "tool"), [("/mcp", None), ("/servers/a/mcp", "a"), ("/servers/a b%2Fc/mcp", "a b%2Fc")]
)
def test_plain_endpoints_take_it(
    way: ShortWay, taken: list[ToolId | None], path: str, tool: str | None
) -> None:
    """The path has been decoded once by the server, and is not decoded again."""
    assert answered(way, environ(path)) == b"short"
    assert taken == [tool]


@pytest.mark.parametrize(
    "request_environ",
    [
        environ("/mcp", REQUEST_METHOD="GET"),
        environ("/mcp", REQUEST_METHOD="DELETE"),
        environ("/mcp", SCRIPT_NAME="/prefix"),
        environ("/mcp/"),
        environ("//mcp"),
        environ("/servers//mcp"),
        environ("/servers/mcp"),
        environ("/servers/a/b/mcp"),
        environ("/servers/\xc3\xbc/mcp"),
        environ("/servers/a/mcpx"),
        environ("/livez"),
        environ(""),
    ],
)
def test_whatever_else_is_flasks(
    way: ShortWay, taken: list[ToolId | None], request_environ: dict[str, Any]
) -> None:
    """Other methods, other paths, and tools whose names need a second look."""
    assert answered(way, request_environ) == b"flask"
    assert taken == []


def test_a_fault_is_answered_without_telling_of_our_inside(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """On both ways alike: 500, and not a word of what broke."""
    monkeypatch.setattr("gateway_web.ingress.streamable_http.dispatch", lambda *_: 1 / 0)
    response = web.modern("tools/list", {})
    assert error(response) == (500, -32603)
    assert "division" not in response.text
