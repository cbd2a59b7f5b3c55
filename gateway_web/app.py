"""The Flask application: wiring, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from flask import Flask, request
from flask import Response as FlaskResponse
from flask.globals import request_ctx
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from common.control.reload import Commit
from common.domain.errors import GatewayError
from common.domain.ids import ToolId
from common.gateway import Gateway
from common.mcp.jsonrpc import INTERNAL_ERROR, JsonRpcError
from common.mcp.revisions import Era
from common.settings.changes import SettingsChanges
from gateway_web.guards import HostGuard
from gateway_web.http import IDENTITY, WEB_SETTINGS, Environ, HttpAnswer, HttpRequest
from gateway_web.identity import load_identity
from gateway_web.identity.oauth import ProtectedResource
from gateway_web.ingress.answers import error_answer, json_response
from gateway_web.ingress.changes import ListDigests
from gateway_web.ingress.http_sse import HttpSse
from gateway_web.ingress.short_way import Handler, ShortWay
from gateway_web.ingress.streamable_http import StreamableHttp
from gateway_web.ingress.websocket import WebSocketDoor
from gateway_web.metrics import add_metrics, begin_counting

log = structlog.get_logger(__name__)


class Response(FlaskResponse):
    """Without a content type of its own: an answer without a body has none."""

    default_mimetype = None


def create_app(gateway: Gateway) -> Flask:
    """The application for a gateway. Raises :class:`ConfigurationError` for an identity that cannot be loaded."""
    app = _application(gateway)
    app.config[WEB_SETTINGS] = gateway.settings.web
    app.url_map.merge_slashes = False
    hosts = HostGuard(gateway.settings.web)
    begin_counting(gateway)
    identity, digests = load_identity(gateway), ListDigests(gateway)
    app.config[IDENTITY] = identity
    resource = ProtectedResource(gateway.settings.identity) if gateway.settings.identity.oauth else None
    if resource is not None:
        gateway.reloading(lambda changes: _of_oauth(resource, changes))
    door = StreamableHttp(gateway, identity, digests)
    sse = HttpSse(gateway, identity, digests)

    def guard(environ: Environ) -> HttpAnswer | None:
        try:
            hosts.check(environ)
        except GatewayError as error:
            return error_answer(error, None, Era.LEGACY)
        if str(environ.get("PATH_INFO", "")).startswith("//"):
            # Werkzeug reads it as one slash; a proxy that keeps paths apart may not.
            return json_response({"error": "Not Found", "status": 404}, 404)
        return None

    @app.before_request
    def guarded() -> ResponseReturnValue | None:
        refusal = guard(request.environ)
        return None if refusal is None else _response(refusal)

    @app.errorhandler(Exception)
    def failed(error: Exception) -> ResponseReturnValue:
        if isinstance(error, HTTPException) and gateway.settings.admin.enabled:
            from gateway_web.admin.api import PREFIX
            from gateway_web.admin.problems import unserved

            if request.path.startswith(f"{PREFIX}/"):  # without a route there is no blueprint to answer
                return unserved(error)
        return _response(broken(error, request.path))

    handlers: tuple[tuple[str, str, Handler], ...] = (
        ("POST", "mcp", door.post),
        ("DELETE", "mcp", door.delete),
        ("GET", "mcp", door.get),
        ("GET", "sse", sse.open),
        ("POST", "messages", sse.post),
    )
    post: Handler = door.post
    if resource is not None:
        handlers = tuple((method, name, resource.around(handler)) for method, name, handler in handlers)
        post = resource.around(post)
        resource.add_to(app, _metadata)
    for method, name, handler in handlers:
        for path in (f"/{name}", f"/servers/<path:tool>/{name}"):
            view = _view(handler)
            app.add_url_rule(path, f"{method} {path}", view, methods=[method], strict_slashes=False)
    WebSocketDoor(gateway, identity, digests).add_to(app, _challenging(resource))
    _add_probes(app, gateway)
    add_metrics(app, gateway)
    app.wsgi_app = ShortWay(app.wsgi_app, guard=guard, post=post, broken=broken)  # type: ignore[method-assign]
    return app


def _of_oauth(resource: ProtectedResource, changes: SettingsChanges) -> Commit | None:
    identity = changes.settings.identity
    return None if "identity" not in changes.sections else lambda: resource.take_over(identity)


def _application(gateway: Gateway) -> Flask:
    """Plain Flask, unless there is an admin API to serve: what describes it costs each process 0.15 s and 10 MB."""
    if not gateway.settings.admin.enabled:
        return Flask("canalgate", static_folder=None)
    from gateway_web.admin.api import add_admin, make_openapi_app

    app = make_openapi_app("canalgate", static_folder=None)
    add_admin(app, gateway)
    return app


def broken(error: Exception, path: str) -> HttpAnswer:
    """The answer to what no handler foresaw; it tells the caller nothing of our inside."""
    if isinstance(error, HTTPException):
        body = {"error": error.name, "status": error.code}
        headers = {name: value for name, value in error.get_headers() if name == "Allow"}
        return json_response(body, error.code or 500, headers)
    log.error("request_broke", path=path, exc_info=error)
    answer = error_answer(JsonRpcError(INTERNAL_ERROR, "Internal error"), None, Era.LEGACY)
    answer.status = 500
    return answer


def _view(handler: Handler) -> Callable[..., ResponseReturnValue]:
    def view(tool: str | None = None) -> ResponseReturnValue:
        if request.method == "HEAD":
            # Flask takes it for a GET whose body is left out: a stream that says nothing and never ends.
            raise MethodNotAllowed(sorted(_methods() - {"HEAD"}))
        return _response(handler(HttpRequest(request.environ), None if tool is None else ToolId(tool)))

    return view


def _methods() -> set[str]:
    """What the path of the request is served with."""
    adapter = request_ctx.url_adapter
    return set() if adapter is None else set(adapter.allowed_methods())


def _response(answer: HttpAnswer) -> Response:
    response = Response(answer.body, status=answer.status, headers=answer.headers)
    if answer.on_close is not None:
        response.call_on_close(answer.on_close)
    return response


def _challenging(resource: ProtectedResource | None) -> Callable[[HttpAnswer], ResponseReturnValue]:
    """How an answer to the request at hand becomes Flask's, its challenge complete."""
    if resource is None:
        return _response
    return lambda answer: _response(resource.completed(answer, request.path))


def _metadata(document: dict[str, Any] | None) -> ResponseReturnValue:
    if document is None:
        return _response(json_response({"error": "Not Found", "status": 404}, 404))
    return _response(json_response(document, headers={"Cache-Control": "max-age=3600"}))


def _add_probes(app: Flask, gateway: Gateway) -> None:
    def livez() -> ResponseReturnValue:
        return _response(json_response({"status": "ok"}))

    def readyz() -> ResponseReturnValue:
        state = gateway.readiness()
        body = {
            "ready": state.ready,
            "redis": state.redis,
            "replies": state.replies,
            "tools": state.tools,
            "workers": state.workers,
        }
        return _response(json_response(body, 200 if state.ready else 503))

    for name, view in (("livez", livez), ("readyz", readyz)):
        app.add_url_rule(f"/{name}", name, view, methods=["GET"])
