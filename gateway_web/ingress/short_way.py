"""The short way in: POSTs to the MCP endpoints, answered before Flask looks at them.

Flask's request context, routing and response objects are a third of what a short call costs the web process
(docs/benchmarks.md). Nothing else is skipped: the guard, the handler and the answer to a fault are the very functions
that Flask's route calls, and the tests of the doors run on both ways. What is not plainly such a POST goes to Flask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from common.domain.ids import ToolId
from common.telemetry import about
from gateway_web.http import Environ, HttpAnswer, HttpRequest

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

Guard = Callable[[Environ], HttpAnswer | None]
Handler = Callable[[HttpRequest, ToolId | None], HttpAnswer]
Broken = Callable[[Exception, str], HttpAnswer]

ALL_TOOLS = "/mcp"
ONE_TOOL = "/servers/", "/mcp"
_LEFT_TO_FLASK: Final = ToolId("")


class ShortWay:
    """A WSGI application around Flask's; the gunicorn worker asks it for answers before it builds what WSGI needs."""

    def __init__(self, flask: WSGIApplication, *, guard: Guard, post: Handler, broken: Broken) -> None:
        self.flask = flask
        self._guard = guard
        self._post = post
        self._broken = broken

    def answer(self, environ: Environ) -> HttpAnswer | None:
        """The answer to a request that takes the short way; None for one that is Flask's."""
        about.leave()
        tool = _endpoint(environ)
        if tool is _LEFT_TO_FLASK:
            return None
        try:
            return self._guard(environ) or self._post(HttpRequest(environ), tool)
        except Exception as error:  # noqa: BLE001 - as Flask's error handler does
            return self._broken(error, environ["PATH_INFO"])

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        answer = self.answer(environ)
        return self.flask(environ, start_response) if answer is None else answer.send(start_response)


def _endpoint(environ: Environ) -> ToolId | None:
    """The tool of an endpoint, None for that of all tools; whatever is not plainly one of them is Flask's."""
    path = environ["PATH_INFO"]
    if environ["REQUEST_METHOD"] != "POST" or environ.get("SCRIPT_NAME"):
        return _LEFT_TO_FLASK
    if path == ALL_TOOLS:
        return None
    before, after = ONE_TOOL
    name = path[len(before) : -len(after)]
    if not (path.startswith(before) and path.endswith(after)) or "/" in name or not name.isascii():
        return _LEFT_TO_FLASK
    return ToolId(name) if name else _LEFT_TO_FLASK
