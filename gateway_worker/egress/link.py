"""What every transport to a backend does alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from common.credentials.injection import with_meta
from common.domain.errors import ResponseTooLarge, TransportFailure
from common.mcp.inbound import META_PREFIX
from common.mcp.jsonrpc import METHOD_NOT_FOUND

OnNotification = Callable[[str, dict[str, Any]], None]
"""Called on the event loop with method and params; must not block."""

OnRequest = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Asked method and params of a backend's own request; gives its result, or raises :class:`RpcError`."""

OnSettled = Callable[[], None]
"""Called on the event loop; must not block."""

Gate = Callable[[], bool]
"""Whether anything may be written to a backend at this moment. It is asked right before each write, so it is cheap."""

NO_HEADERS: Mapping[str, str] = {}
NO_META: Mapping[str, Any] = {}
INTERMEDIARIES = frozenset({502, 504})
"""Statuses that a proxy gives of its own; the backend behind it may be at the request still."""


REFUSES_CREDENTIALS = frozenset({401, 403})
"""Statuses by which a backend says that it does not know who asks, or that he may not."""


def always_open() -> bool:
    """The gate of a link that is nobody's session, as those that discovery and probes make for themselves.

    No other worker can come to own it, so it may be used also while the node is not sure of its lease.
    """
    return True


class RpcError(Exception):
    """The backend's own JSON-RPC error: an answer. ``error`` is its error object, unchanged.

    ``status`` is the HTTP status it came under, 0 where there was none, or one of success.
    """

    def __init__(self, error: dict[str, Any], *, status: int = 0) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.error = error
        self.status = status

    @property
    def code(self) -> object:
        return self.error.get("code")


class LinkLost(TransportFailure):
    """The way to the backend broke. ``unsent`` is True only if certainly no byte of the request went out.

    ``answered`` is True only if the backend has certainly answered, with what is of no use.
    ``detail`` is for operators and never for callers: the end of the process's standard error, or, over HTTP, what the
    network said.
    """

    def __init__(
        self, message: str, *, unsent: bool = False, answered: bool = False, detail: str = "", **data: Any
    ) -> None:
        super().__init__(message, **data)
        self.unsent = unsent
        self.answered = answered
        self.detail = detail


class GateShut(LinkLost):
    """The gate was found shut: nothing of the request was written. The link itself is none the worse for it."""

    def __init__(self) -> None:
        super().__init__("the worker cannot be sure that the session is still its own", unsent=True)


class StatusRefused(LinkLost):
    """The backend answered a request with an HTTP status outside 2xx, and with no JSON-RPC error."""

    def __init__(self, status: int, *, retry_after: int | None = None) -> None:
        what = "redirects" if 300 <= status < 400 else "answered"
        more = "; give its final URL" if what == "redirects" else ""
        super().__init__(
            f"the tool's URL {what} with status {status}{more}",
            answered=status not in INTERMEDIARIES,
            retry_after=retry_after,
            http_status=status,
        )
        self.status = status


class AnswerTooLarge(ResponseTooLarge):
    """The bound was exceeded by what is certainly the answer to the request: the backend is done with it."""


class Link(Protocol):
    """An open way to one backend. All methods belong to one event loop.

    ``closed`` is set once the link is of no use any more; ``on_notification`` hears what belongs to no request, and
    ``on_request`` is asked what does not; ``noise`` counts what came in that was no JSON-RPC.
    """

    closed: asyncio.Event
    on_notification: OnNotification
    on_request: OnRequest
    noise: int

    async def open(self) -> None:
        """Connect or start the child. Raises :class:`TransportFailure`."""

    async def request(
        self,
        method: str,
        params: dict[str, Any],
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        on_notification: OnNotification | None = None,
        on_request: OnRequest | None = None,
        on_settled: OnSettled | None = None,
        principal: str = "",
    ) -> dict[str, Any]:
        """Send a request and wait for its result.

        ``headers`` are for HTTP alone. ``on_request`` is asked what the backend asks on this request's own stream; over
        stdio nothing tells whose a request of the backend is. A cancelled wait tells the backend so. ``on_settled`` is
        for stdio alone, and called as soon as the backend is known not to be at it any more: when it has answered, also
        behind the end of a cancelled wait, or never had the request. ``principal`` is whose call it is; it is for stdio
        alone, where a log message names no request. Raises :class:`RpcError` for the backend's error answer,
        :class:`LinkLost` and :class:`ResponseTooLarge` (:class:`AnswerTooLarge`) otherwise.
        """

    async def notify(
        self, method: str, params: dict[str, Any], *, headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        """Send a notification."""

    async def close(self) -> None:
        """Let go of the backend. Never raises."""


def noise_words(noise: int) -> str:
    """What to add to an error about a backend that also sent things that were no JSON-RPC."""
    return f"; {noise} lines of its output were no JSON-RPC" if noise else ""


class RequestMeta:
    """Puts into every request's ``_meta`` what is the gateway's own: credentials, and a progress token.

    Callers choose their tokens freely, so two of them on one session would meet: each request has one of its own, and
    what comes in for it gets the caller's back. ``own`` is put there whatever the caller says.
    """

    __slots__ = ("_original", "_own")

    def __init__(self, own: Mapping[str, Any]) -> None:
        self._own = own
        self._original: dict[str | int, Any] = {}

    def outgoing(self, request_id: int, params: dict[str, Any]) -> dict[str, Any]:
        """``params`` with the session's own members, and with the request's own token if the caller wants progress."""
        if self._own:
            params = with_meta(params, self._own)
        meta = params.get("_meta")
        if not isinstance(meta, dict) or "progressToken" not in meta:
            return params
        self._original[request_id] = meta["progressToken"]
        return {**params, "_meta": {**meta, "progressToken": request_id}}

    def incoming(self, params: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """The request a progress notification is for, and its params with the caller's token."""
        token = params.get("progressToken")
        if not isinstance(token, int) or token not in self._original:
            return None
        return token, {**params, "progressToken": self._original[token]}

    def done(self, request_id: int) -> None:
        """Forget a request."""
        self._original.pop(request_id, None)


async def refuse_request(method: str, _params: dict[str, Any]) -> dict[str, Any]:
    """What a link does with a backend's request while nobody says otherwise: there is no client who could be asked."""
    raise RpcError({"code": METHOD_NOT_FOUND, "message": f"not supported by this client: {method[:100]}"})


def subscription_of(params: Mapping[str, Any]) -> int:
    """The request that a subscription's notification names (2026-07-28, "Subscriptions"); -1 for none of ours."""
    meta = params.get("_meta")
    named = meta.get(META_PREFIX + "subscriptionId") if isinstance(meta, dict) else None
    return named if type(named) is int else -1
