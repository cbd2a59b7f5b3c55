"""A client on one connection that carries both directions: what HTTP+SSE and WebSocket have in common.

Each message stands for itself, in either era: as over stdio, a modern request says in ``_meta`` what it is. A legacy
client's MCP session is that of its connection, and ends with it.

Source: 2024-11-05, "Transports", "HTTP with SSE"; 2025-11-25 and 2026-07-28, "Custom Transports" and "stdio".
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import structlog

from common.domain.errors import GatewayError, InvalidRequest, StoreUnavailable, Throttled
from common.domain.ids import ToolId
from common.domain.invocation import Caller
from common.domain.session import McpSession
from common.gateway import Call, Gateway
from common.mcp.inbound import META_PROTOCOL_VERSION, classify
from common.mcp.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    JsonRpcError,
    Message,
    Notification,
    Request,
    dumps,
    is_batch,
    parse_batch,
    parse_message,
    result_response,
)
from common.mcp.revisions import LEGACY_VERSIONS, Era
from common.sessions.stream import BEGINNING
from common.telemetry import about
from gateway_web.ingress.account import Account, Accounts
from gateway_web.ingress.answers import error_message
from gateway_web.ingress.batch import BATCH_VERSION, MOST_MESSAGES
from gateway_web.ingress.changes import ListDigests
from gateway_web.ingress.methods import dispatch
from gateway_web.ingress.open_streams import opened
from gateway_web.ingress.outbox import Outbox
from gateway_web.ingress.requests import McpRequest
from gateway_web.ingress.sessions import open_session, take_aside
from gateway_web.ingress.standing import SessionStream, subscribe
from gateway_web.ingress.under_way import MOST_UNREAD, UnderWay

log = structlog.get_logger(__name__)

MOST_REQUESTS = 200
"""Requests under way on one connection; more of them are refused."""
AGAIN = 1.0
"""Seconds until a Redis that was away is asked again what a session is told."""


class Standing:
    """What a connection's session is told outside its requests, and how far that was handed out."""

    def __init__(self, stream: SessionStream) -> None:
        self._stream = stream
        self._place: str | None = None
        self.failed = False
        """Whether Redis was away when it was asked last."""

    def look(self) -> list[bytes] | None:
        """What is new; None if the session has ended. Degrades: without Redis nothing is, for now."""
        try:
            place = self._place
            if place is None:
                self._stream.take_over()
                place = BEGINNING
            found = self._stream.look(place)
        except StoreUnavailable as error:
            log.debug("session_stream_broke", error=error.message)
            self.failed = True
            return []
        self.failed = False
        self._place = found[-1].id if found else place
        return None if found is None else [message.data for message in found]

    def close(self) -> None:
        """Nobody looks any more."""
        self._stream.close()


class Duplex:
    """One connection. Its door hands in what comes (:meth:`hear`) and writes what goes (:meth:`messages`)."""

    def __init__(
        self,
        gateway: Gateway,
        digests: ListDigests,
        caller: Caller,
        tool: ToolId | None,
        *,
        protocol: str = "http",
    ) -> None:
        """``protocol`` is what the connection speaks over TCP."""
        self.outbox = Outbox()
        self._accounts = Accounts(gateway.tracer, gateway.figures)
        self._protocol = protocol
        self._uncount = opened(gateway.figures, "websocket" if protocol == "websocket" else "http_sse")
        self._gateway = gateway
        self._digests = digests
        self._caller = caller
        self._tool = tool
        self._session: McpSession | None = None
        self._standing: Standing | None = None
        self._under_way = UnderWay(self.outbox, silence=gateway.settings.web.ping_interval)

    def hear(self, raw: bytes, caller: Caller) -> None:
        """Take a message of the client, or a batch of them; what is wrong with one the client is told.

        It is run for ``caller``, whose scopes may differ from message to message. Raises :class:`InvalidRequest` if
        that is another principal than the one the connection belongs to.
        """
        if caller.principal != self._caller.principal:
            raise InvalidRequest("the caller is another one now")
        self._caller = caller
        try:
            messages = self._parsed(raw)
        except JsonRpcError as error:
            self._send(error_message(error, error.request_id))
            return
        for message in messages:
            self._hear(message)

    def _parsed(self, raw: bytes) -> Sequence[Message | JsonRpcError]:
        if is_batch(raw) and self._session is not None and self._session.version == BATCH_VERSION:
            return parse_batch(raw, MOST_MESSAGES)
        return [parse_message(raw)]

    def _hear(self, message: Message | JsonRpcError) -> None:
        request_id: str | int | None = None
        try:
            if isinstance(message, JsonRpcError):
                raise message
            if isinstance(message, Request):
                request_id = message.id
                self._request(message)
            else:
                self._aside(message)
        except JsonRpcError as error:
            self._send(error_message(error, error.request_id if request_id is None else request_id))
        except GatewayError as error:
            self._send(error_message(error, request_id))
        except Exception:
            log.exception("message_broke")
            self._send(error_message(JsonRpcError(INTERNAL_ERROR, "Internal error"), request_id))

    def close(self) -> None:
        """The client has gone: what it asked for is let go of, and its session ends."""
        self._uncount()
        self.outbox.close()
        if self._standing is not None:
            self._standing.close()
        self._under_way.cancel_all()
        session, self._session = self._session, None
        if session is not None:
            with suppress(StoreUnavailable):  # it ends by itself when nobody keeps it
                self._gateway.end_session(session)

    # -- what comes -------------------------------------------------------------------------------------

    def _request(self, request: Request) -> None:
        if request.id in self._under_way:
            raise JsonRpcError(INVALID_REQUEST, "Invalid request: a request with this id is under way")
        if len(self._under_way) >= MOST_REQUESTS:
            raise Throttled(
                f"more than {MOST_REQUESTS} requests are under way on this connection", retry_after=1
            )
        if self._under_way.full:
            raise Throttled(
                f"more than {MOST_UNREAD >> 20} MiB wait to be read on this connection: read it, then ask again",
                retry_after=1,
            )
        account = self._accounts.open(request, self._caller, self._tool, protocol=self._protocol)
        try:
            self._answer(request, account)
        except BaseException as error:
            account.failed(error)
            account.close()
            raise
        finally:
            about.leave()

    def _answer(self, request: Request, account: Account) -> None:
        """Answer a request, or have it answered; its account is closed then."""
        mcp = self._described(request, account)
        if mcp.era is Era.MODERN and request.method == "subscriptions/listen":
            self._gateway.count_request(mcp.caller)
            listening = subscribe(self._gateway, self._digests, mcp)
            self._under_way.run(request.id, listening.messages(), listening.close, listening.close)
            account.close()
            return
        answer = dispatch(self._gateway, mcp)
        if isinstance(answer, Call):
            self._under_way.call(answer, mcp)
            return
        if mcp.era is Era.LEGACY and request.method == "initialize":
            self._session = open_session(self._gateway, mcp, answer)
            self._send(result_response(request.id, answer))
            stream = SessionStream(
                self._gateway, self._digests, self._caller, self._session, self.outbox.nudge
            )
            self._standing = Standing(stream)
            self.outbox.nudge()
            if self.outbox.closed:
                self.close()  # the client went meanwhile
        else:
            self._send(result_response(request.id, answer))
        account.close()

    def _described(self, request: Request, account: Account) -> McpRequest:
        meta = request.params.get("_meta")
        if isinstance(meta, dict) and META_PROTOCOL_VERSION in meta:
            described = classify(request.method, request.params, None)
            era, version, session, level = (
                Era.MODERN,
                described.protocol_version,
                None,
                described.log_level,
            )
        else:
            era, session = Era.LEGACY, self._legacy_session(request.method)
            version = LEGACY_VERSIONS[-1] if session is None else session.version
            level = None if session is None else session.log_level
        account.described(version, None if session is None else session.id)
        return McpRequest(
            request=request,
            caller=self._caller,
            tool=self._tool,
            era=era,
            version=version,
            session=session,
            log_level=level,
            account=account,
        )

    def _legacy_session(self, method: str) -> McpSession | None:
        """The session as it stands now; None for what may come before there is one."""
        session = self._session
        if session is None:
            if method in ("initialize", "ping"):
                return None
            raise JsonRpcError(INVALID_REQUEST, "Invalid request: send initialize first")
        if method == "initialize":
            raise JsonRpcError(INVALID_REQUEST, "Invalid request: this connection is initialized already")
        return self._gateway.mcp_sessions.recall(session.id, principal=session.principal, tool=session.tool)

    def _aside(self, message: Message) -> None:
        match message:
            case Notification(
                method="notifications/cancelled", params={"requestId": str() | int() as request_id}
            ) if not isinstance(request_id, bool):
                self._under_way.cancel(request_id)
            case _ if self._session is not None:
                take_aside(self._gateway, self._session, message)

    # -- what goes --------------------------------------------------------------------------------------

    def messages(self, silence: float) -> Iterator[bytes | None]:
        """What goes to the client, until the connection ends; None when nothing went for ``silence`` seconds.

        However much goes, the session is looked after within that time: looking keeps it alive.
        """
        spoken = looked = time.monotonic()
        while not self.outbox.closed:
            wait = AGAIN if self._standing and self._standing.failed else silence
            message = self.outbox.get(min(wait, max(0.0, spoken + silence - time.monotonic())))
            if message is not None:
                yield message
                del message  # a quiet connection keeps nothing of it
                spoken = time.monotonic()
                if spoken - looked < silence:
                    continue
            looked = time.monotonic()
            if (yield from self._told()):
                spoken = time.monotonic()
            if time.monotonic() - spoken >= silence:
                yield None
                spoken = time.monotonic()

    def _told(self) -> Generator[bytes, None, bool]:
        """What the session is told outside its requests, and whether there was any.

        When the session has ended, so has the connection.
        """
        found = [] if self._standing is None else self._standing.look()
        if found is None:
            self.close()
            return False
        yield from found
        return bool(found)

    def _send(self, message: dict[str, Any]) -> bool:
        return self.outbox.put(dumps(message))
