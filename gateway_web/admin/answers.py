"""Answers, and the versions that they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import Response
from pydantic import BaseModel

from common.domain.errors import VersionConflict
from common.mcp.jsonrpc import dumps
from common.registry.registry import ABSENT, ANY_VERSION
from gateway_web.admin.models import DefinitionHeaders
from gateway_web.admin.problems import Precondition

JSON = "application/json"


def answer(body: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of this model. It is nobody else's: no cache on the way keeps it."""
    return Response(
        dumps(body.model_dump(by_alias=True)),
        status=status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        content_type=JSON,
    )


def etag(version: int) -> str:
    """The version as an entity tag (RFC 9110, section 8.8.3)."""
    return f'"{version}"'


def expected_version(header: DefinitionHeaders, found: int | None) -> int:
    """Which version a PUT may replace, as the registry counts them; ``found`` is the present one, None without one.

    Raises :class:`Precondition` if it does not say (428), or if what it says does not hold (412).
    """
    if header.if_none_match is not None:
        if header.if_none_match != "*" or header.if_match is not None:
            raise Precondition(
                428, 'If-None-Match must be "*", and stand without If-Match', field="header.If-None-Match"
            )
        if found is not None:
            raise Precondition(
                412, f"it exists already, at version {found}", field="header.If-None-Match", version=found
            )
        return ABSENT
    if header.if_match is None:
        raise Precondition(
            428,
            'say what is replaced: If-Match: "<version>" as read, If-Match: * for whatever is there, '
            "or If-None-Match: * for something new",
            field="header.If-Match",
        )
    if found is None:
        raise Precondition(412, "there is none yet; send If-None-Match: *", field="header.If-Match")
    if header.if_match == "*":
        return ANY_VERSION
    if header.if_match != etag(found):
        raise Precondition(
            412, f"it is at version {found} by now; read it again", field="header.If-Match", version=found
        )
    return found


def matched(what: str, if_match: str | None, found: int) -> int:
    """Which version of ``what`` may be changed: any, or that which the header names. Raises :class:`Precondition`."""
    if if_match in {None, "*"}:
        return ANY_VERSION
    if if_match != etag(found):
        raise _other_version(what, found)
    return found


def at_version(what: str, work: Callable[[], Any]) -> None:
    """Do it. Raises :class:`Precondition` if somebody else was quicker."""
    try:
        work()
    except VersionConflict as error:
        raise _other_version(what, error.data.get("version", ABSENT)) from error


def _other_version(what: str, version: int) -> Precondition:
    return Precondition(
        412,
        f"{what} is at version {version} by now; read it again, and name that in If-Match",
        field="header.If-Match",
        version=version,
    )
