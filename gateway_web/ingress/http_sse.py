"""HTTP+SSE, the transport of 2024-11-05: ``/sse`` and ``/messages`` for all tools, ``/servers/<tool>/...`` for one.

A GET opens the event stream, whose first event names the address that the client POSTs its messages to. The stream and
the POSTs may be at different web processes.

Source: 2024-11-05, "Transports", "HTTP with SSE".
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from urllib.parse import quote

import structlog

from common.domain.errors import GatewayError, PayloadUnreadable, SessionNotFound, StoreUnavailable
from common.domain.ids import ToolId
from common.domain.invocation import Caller
from common.gateway import Gateway
from common.mcp.jsonrpc import JsonRpcError, Request, is_batch, parse_batch, parse_message
from common.mcp.revisions import Era
from common.sessions.connections import GONE
from gateway_web import guards
from gateway_web.http import HttpAnswer, HttpRequest
from gateway_web.identity import Identity
from gateway_web.ingress.account import with_ambient
from gateway_web.ingress.answers import error_answer, refusal_status
from gateway_web.ingress.batch import MOST_MESSAGES
from gateway_web.ingress.changes import ListDigests
from gateway_web.ingress.duplex import AGAIN, Duplex
from gateway_web.ingress.events import PING, STREAM_HEADERS, event

log = structlog.get_logger(__name__)


class HttpSse:
    """The door. One instance a process."""

    def __init__(self, gateway: Gateway, identity: Identity, digests: ListDigests) -> None:
        self._gateway = gateway
        self._identity = identity
        self._digests = digests

    def open(self, http: HttpRequest, tool: ToolId | None) -> HttpAnswer:
        """GET: a connection, whose stream stands until the client hangs up."""
        try:
            caller = self._identity.identify(http)
            guards.check_accepts_stream(http.header("accept"))
            if tool is not None:
                self._gateway.find(caller, tool)
            prefix = str(http.environ.get("SCRIPT_NAME", ""))
            stream = SseStream(self._gateway, self._digests, caller, tool, prefix)
        except GatewayError as error:
            return _refused(error)
        answer = HttpAnswer(body=stream.events(), headers=dict(STREAM_HEADERS), on_close=stream.close)
        return self._identity.watched(http, caller, answer)

    def post(self, http: HttpRequest, tool: ToolId | None) -> HttpAnswer:
        """POST: one message of a connection's client. Its answer comes on the stream."""
        try:
            caller = self._identity.identify(http)
            guards.check_content_type(http.header("content-type"))
            name = http.query("session_id")
            if not name:
                raise SessionNotFound(GONE)
            raw = http.body(self._gateway.settings.web.max_body_bytes)
            if is_batch(raw):
                parse_batch(raw, MOST_MESSAGES)
            else:
                message = parse_message(raw)
                if self._gateway.tracer is not None and isinstance(message, Request):
                    raw = with_ambient(raw, message, http.headers)
            self._post(http, name, caller, tool, raw)
        except JsonRpcError as error:
            answer = error_answer(error, error.request_id, Era.LEGACY)
            answer.status = 400
            return answer
        except GatewayError as error:
            return _refused(error)
        return HttpAnswer(status=202, body=b"Accepted", headers={"Content-Type": "text/plain"})

    def _post(self, http: HttpRequest, name: str, caller: Caller, tool: ToolId | None, raw: bytes) -> None:
        try:
            self._gateway.connections.post(name, caller, tool, raw)
        except SessionNotFound as error:
            self._identity.note(error, http, caller)
            raise


class SseStream:
    """One connection: hands what the client POSTs to its :class:`Duplex`, and writes what that has for it."""

    def __init__(
        self, gateway: Gateway, digests: ListDigests, caller: Caller, tool: ToolId | None, prefix: str
    ) -> None:
        """``prefix`` is what the paths of this application begin with."""
        self._gateway = gateway
        self._connections = gateway.connections
        self._caller = caller
        self._tool = tool
        self._duplex = Duplex(gateway, digests, caller, tool)
        # A client whose connection Redis has lost opens another one; what it POSTs would get lost.
        try:
            self._name = self._connections.open(caller.principal, tool, self._duplex.close)
        except BaseException:
            self._duplex.close()
            raise
        place = "" if tool is None else f"/servers/{quote(tool, safe='')}"
        self._address = f"{prefix}{place}/messages?session_id={self._name}"
        self._listener = gateway.listeners.listen(self._name)
        self._heard = 0

    def events(self) -> Iterator[bytes]:
        """The address to POST to, then every message for the client."""
        ping = self._gateway.settings.web.ping_interval
        threading.Thread(target=self._listen, args=(ping,), name="sse-inbox", daemon=True).start()
        try:
            yield event(self._address.encode(), kind="endpoint")
            for message in self._duplex.messages(ping):
                yield PING if message is None else event(message)
        finally:
            self.close()

    def close(self) -> None:
        """Nobody reads any more."""
        self._listener.close()
        self._duplex.close()
        with suppress(StoreUnavailable):  # its lease ends it
            self._connections.close(self._name)

    def _listen(self, ping: float) -> None:
        """Take what the client POSTs, until the connection ends."""
        outbox = self._duplex.outbox
        try:
            while not outbox.closed:
                try:
                    self._take_all()
                except StoreUnavailable as error:
                    log.debug("connection_inbox_unread", error=error.message)
                    outbox.wait_closed(AGAIN)
                except PayloadUnreadable as error:
                    log.error("connection_inbox_unreadable", error=error.message)
                    return
                else:
                    self._listener.wait(ping)
        finally:
            self._duplex.close()

    def _take_all(self) -> None:
        while not self._duplex.outbox.closed and (posted := self._connections.take(self._name, self._heard)):
            for number, message, scopes in posted:
                self._duplex.hear(message, replace(self._caller, scopes=scopes))
                self._heard = number


def _refused(error: GatewayError) -> HttpAnswer:
    answer = error_answer(error, None, Era.LEGACY)
    answer.status = refusal_status(error)
    return answer
