"""Errors of the admin API: problem details (RFC 9457) that name the field and the fix."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Response
from pydantic import BaseModel, Field, ValidationError
from werkzeug.exceptions import HTTPException

from common.domain.errors import ErrorCode, GatewayError, InvalidRequest
from common.mcp.jsonrpc import dumps

PROBLEM_JSON = "application/problem+json"


class FieldProblem(BaseModel):
    """What is wrong with one part of a request."""

    field: str = Field(description="Where: the place and the name, such as body.url or query.limit.")
    message: str


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(description="The phrase of the status.")
    status: int
    detail: str = Field(description="What is wrong, and what to do.")
    code: str = Field(description="A stable word, as in docs/errors.md.")
    field: str | None = Field(default=None, description="The part of the request that is at fault.")
    errors: list[FieldProblem] | None = None
    data: dict[str, Any] | None = Field(
        default=None, description="What else is known: the version found, ..."
    )


class Precondition(InvalidRequest):
    """A change that does not say which version it changes, or says another than there is: somebody's could be lost.

    ``status`` is 428 or 412 (RFC 9110, section 13.1; RFC 6585, section 3).
    """

    def __init__(self, status: int, message: str, **data: Any) -> None:
        super().__init__(message, **data)
        self.status = status


class NotThere(InvalidRequest):
    """There is nothing of this name. For what has no code of its own in the table of errors."""

    status = HTTPStatus.NOT_FOUND


def problem(status: int, code: str, detail: str, **more: Any) -> Response:
    """An answer with problem details."""
    body = Problem(title=_phrase(status), status=status, detail=detail, code=code, **more)
    headers: dict[str, str] = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="canalgate-admin"'
    retry_after = (body.data or {}).get("retry_after")
    if isinstance(retry_after, int | float):
        headers["Retry-After"] = str(max(1, int(retry_after + 0.999)))
    return Response(
        dumps(body.model_dump(exclude_none=True)), status=status, headers=headers, content_type=PROBLEM_JSON
    )


def problem_of(error: GatewayError) -> Response:
    """The answer to one of our errors."""
    data = {name: value for name, value in error.data.items() if name != "field"}
    more: dict[str, Any] = {"data": data} if data else {}
    field = error.data.get("field")
    if isinstance(field, str):
        more["field"] = field
    status = error.status if isinstance(error, Precondition | NotThere) else error.meaning.http
    return problem(status, error.code.value, error.message, **more)


def unserved(error: HTTPException) -> Response:
    """The answer to what has no route, or none by this method."""
    status = error.code or 500
    code = ErrorCode.INVALID_REQUEST if status < 500 else ErrorCode.INTERNAL
    answer = problem(status, code.value, error.description or error.name)
    answer.headers.extend((name, value) for name, value in error.get_headers() if name == "Allow")
    return answer


def invalid(error: ValidationError) -> Response:
    """The answer to a request that does not have the form that is asked for. No value is repeated: it may be secret."""
    found = [
        FieldProblem(field=".".join(str(part) for part in fault["loc"]) or "body", message=str(fault["msg"]))
        for fault in error.errors(include_input=False, include_url=False, include_context=False)
    ]
    detail = "; ".join(f"{fault.field}: {fault.message}" for fault in found)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, ErrorCode.INVALID_REQUEST.value, detail, errors=found)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Client Closed Request" if status == 499 else "Error"
