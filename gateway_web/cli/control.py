"""The control plane as every verb sees it: requests of the admin API, whoever answers them.

One code path per verb: :mod:`~gateway_web.cli.connection` chooses whether a gateway elsewhere answers
(:mod:`~gateway_web.cli.http_control`) or this process itself, on Redis (:mod:`~gateway_web.cli.local_control`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import quote

from common.domain.errors import ERROR_TABLE, ErrorCode, GatewayError, StoreUnavailable

Query = Mapping[str, Any]
PAGE = 500
"""Items of one page: the most that the API gives."""


class ControlRefused(GatewayError):
    """The control plane said no. ``status`` is that of HTTP, ``data`` holds its code and what else it told."""

    def __init__(self, message: str, *, status: int, **data: Any) -> None:
        super().__init__(message, **data)
        self.status = status


class Conflict(ControlRefused):
    """Somebody else was quicker, or it is not at the version that was named. ``version`` is the present one."""

    def __init__(self, message: str, *, status: int = HTTPStatus.PRECONDITION_FAILED, **data: Any) -> None:
        super().__init__(message, status=status, **data)
        self.version: int | None = data.get("version")


class NoGateway(StoreUnavailable):
    """Nobody answers at an address, or somebody who is no gateway's admin API."""


class UntrustedGateway(GatewayError):
    """The other end's certificate is not trusted, or it speaks no TLS that we do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer: its JSON, and the version that its ETag names."""

    body: Any
    status: int = HTTPStatus.OK
    version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """One server-sent event. ``data`` is JSON; None for one that only moves the place to come back to."""

    id: str
    kind: str
    data: Any


class ControlClient(Protocol):
    """Asks the control plane.

    Fails closed: raises :class:`ControlRefused` for a refusal, :class:`NoGateway` or :class:`StoreUnavailable` if
    nobody answers, :class:`UntrustedGateway` for a certificate that does not hold.
    """

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One request; ``path`` begins behind ``/admin/v1``. Members of ``query`` that are None are left out."""

    def events(
        self, path: str, *, query: Query | None = None, after: str | None = None
    ) -> AbstractContextManager[Iterator[ServerEvent]]:
        """A stream of events, behind the id ``after`` or from now on. It ends when the other end ends it."""


def items(
    control: ControlClient, path: str, *, query: Query | None = None, most: int | None = None
) -> list[Any]:
    """What all pages of a list hold, or the first ``most`` of it."""
    found: list[Any] = []
    cursor: str | None = None
    while most is None or len(found) < most:
        limit = PAGE if most is None else min(PAGE, most - len(found))
        page = control.ask("GET", path, query={**(query or {}), "limit": limit, "cursor": cursor}).body
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    return found


def at(*parts: str) -> str:
    """A path of these parts, each of which may hold anything."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def match(version: int | None) -> dict[str, str]:
    """The header that lets a change happen at this version alone; none for any version."""
    return {} if version is None else {"If-Match": f'"{version}"'}


def status_of(error: GatewayError) -> int | None:
    """The HTTP status that an error has or would have; None if nothing says so."""
    if isinstance(error, ControlRefused):
        return error.status
    code = error.data.get("code", error.code)
    return ERROR_TABLE[ErrorCode(code)].http if code in set(ErrorCode) else None
