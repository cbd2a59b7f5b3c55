"""The Flask application: wiring, and nothing else."""

from __future__ import annotations

import structlog
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from common.domain.errors import GatewayError
from common.gateway import Gateway
from common.mcp.jsonrpc import INTERNAL_ERROR, JsonRpcError
from common.mcp.revisions import Era
from gateway_web.guards import HostGuard
from gateway_web.identity import load_resolver
from gateway_web.ingress.answers import error_answer, json_response
from gateway_web.ingress.streamable_http import StreamableHttp

log = structlog.get_logger(__name__)


def create_app(gateway: Gateway) -> Flask:
    """The application for a gateway. Raises :class:`ConfigurationError` for an identity that cannot be loaded."""
    app = Flask("canalgate", static_folder=None)
    app.url_map.merge_slashes = False
    hosts = HostGuard(gateway.settings.web)
    resolver = load_resolver(gateway.settings.identity)

    @app.before_request
    def guard() -> Response | None:
        try:
            hosts.check(request.environ)
        except GatewayError as error:
            return error_answer(error, None, Era.LEGACY)
        if str(request.environ.get("PATH_INFO", "")).startswith("//"):
            # Werkzeug reads it as one slash; a proxy that keeps paths apart may not.
            return json_response({"error": "Not Found", "status": 404}, 404)
        return None

    @app.errorhandler(Exception)
    def broken(error: Exception) -> Response:
        if isinstance(error, HTTPException):
            body = {"error": error.name, "status": error.code}
            headers = {name: value for name, value in error.get_headers() if name == "Allow"}
            return json_response(body, error.code or 500, headers)
        log.error("request_broke", path=request.path, exc_info=error)
        answer = error_answer(JsonRpcError(INTERNAL_ERROR, "Internal error"), None, Era.LEGACY)
        answer.status_code = 500
        return answer

    @app.get("/livez")
    def livez() -> Response:
        return json_response({"status": "ok"})

    @app.get("/readyz")
    def readyz() -> Response:
        state = gateway.readiness()
        body = {
            "ready": state.ready,
            "redis": state.redis,
            "replies": state.replies,
            "tools": state.tools,
            "workers": state.workers,
        }
        return json_response(body, 200 if state.ready else 503)

    app.register_blueprint(StreamableHttp(gateway, resolver).blueprint())
    return app
