"""The admin API under ``/admin/v1``, with an OpenAPI document made of the types that it speaks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from flask import Response, request
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.info import Info
from flask_openapi.openapi import OpenAPI
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from common import __version__
from common.domain.errors import ErrorCode, GatewayError
from common.identity.operators import Actor, Tokens
from gateway_web.admin.api_keys import add_api_keys
from gateway_web.admin.audit import add_audit
from gateway_web.admin.cluster import add_cluster
from gateway_web.admin.credentials import add_credentials
from gateway_web.admin.dead_letters import add_dead_letters
from gateway_web.admin.interchange import add_interchange
from gateway_web.admin.live import add_calls, add_sessions
from gateway_web.admin.plane import Plane
from gateway_web.admin.policy import add_policy
from gateway_web.admin.problems import PROBLEM_JSON, Problem, invalid, problem, problem_of, unserved
from gateway_web.admin.quarantine import add_quarantine
from gateway_web.admin.refused import recorded_already, refusal_of
from gateway_web.admin.session import remember
from gateway_web.admin.tenants import add_tenants
from gateway_web.admin.tool_changes import add_tool_changes
from gateway_web.admin.tool_verbs import add_tool_verbs
from gateway_web.admin.tools import add_tools

log = structlog.get_logger(__name__)

ActorOf = Callable[[str | None], Actor]
PREFIX = "/admin/v1"
BEARER = "bearer"
PARTS = (
    *(add_cluster, add_tools, add_tool_changes, add_tool_verbs, add_quarantine, add_sessions, add_calls),
    *(add_tenants, add_api_keys, add_policy, add_credentials, add_dead_letters, add_interchange, add_audit),
)
_PROBLEM = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_PROBLEMS: dict[int | str, Any] = {
    **{status: {"content": _PROBLEM} for status in (400, 401, 403, 404, 409, 412, 422, 428, 500, 503)},
    414: {"description": "The path and the query are longer than 4 kB together."},
}
"""What every route may answer. A request line that is too long is refused before there is a request."""


def make_openapi_app(name: str, **options: Any) -> OpenAPI:
    """A Flask application whose admin routes are described as they are added."""
    return OpenAPI(
        name,
        info=Info(
            title="Canalgate admin API",
            version=__version__,
            description="The control plane of a Canalgate gateway. Errors are problem details (RFC 9457).",
        ),
        security_schemes={BEARER: {"type": "http", "scheme": "bearer"}},
        validation_error_status=422,
        validation_error_model=Problem,
        validation_error_callback=invalid,
        doc_ui=False,
        **options,
    )


def add_admin(app: OpenAPI, gateway: Plane, *, actor_of: ActorOf | None = None) -> None:
    """Serve the admin API from this application.

    ``actor_of`` says who a request's header ``Authorization`` speaks for, and raises :class:`Unauthenticated` for
    nobody; without it the tokens of the settings do.
    """
    api = APIBlueprint(
        "admin", __name__, url_prefix=PREFIX, abp_security=[{BEARER: []}], abp_responses=_PROBLEMS
    )
    recognised = actor_of
    if recognised is None:
        tokens = Tokens(gateway.settings.admin)
        gateway.reloading(lambda changes: lambda: tokens.take_over(changes.settings.admin))
        recognised = tokens.actor

    @api.before_request
    def authenticated() -> Response | None:
        try:
            remember(partial(recognised, request.headers.get("Authorization")))
        except GatewayError as error:
            log.warning("admin_refused", path=request.path, remote=request.remote_addr, reason=error.message)
            return problem_of(error)
        return None

    @api.errorhandler(GatewayError)
    def refused(error: GatewayError) -> Response:
        recorded_already(error)
        return problem_of(error)

    @api.after_request
    def recorded(answer: Response) -> Response:
        event = refusal_of(request, answer, PREFIX)
        if event is not None:
            gateway.refusals.note(event)
        return answer

    @api.errorhandler(ValidationError)
    def not_valid(error: ValidationError) -> Response:
        return invalid(error)

    @api.errorhandler(HTTPException)
    def not_served(error: HTTPException) -> Response:
        return unserved(error)

    @api.errorhandler(Exception)
    def broke(error: Exception) -> Response:
        log.error("admin_request_broke", path=request.path, exc_info=error)
        return problem(500, ErrorCode.INTERNAL.value, "the request could not be served; the log says why")

    for add in PARTS:
        add(api, gateway)

    @api.get("/openapi.json", doc_ui=False)
    def get_document() -> dict[str, Any]:
        """This document."""
        return app.api_doc

    app.register_api(api)
