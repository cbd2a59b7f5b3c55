"""Streams that stand open beside the requests: the GET stream of a legacy session, and ``subscriptions/listen``.

Source: 2025-11-25, "Listening for messages", "Resumability"; 2026-07-28, "Subscriptions".
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import structlog

from common.domain.errors import GatewayError, StoreUnavailable
from common.domain.ids import ToolId
from common.domain.invocation import Caller, ExecutionResult
from common.domain.session import McpSession
from common.gateway import Gateway
from common.mcp.inbound import META_PREFIX
from common.mcp.jsonrpc import INVALID_PARAMS, JsonRpcError, dumps
from common.sessions.stream import BEGINNING, Listener, Message
from gateway_web.http import HttpAnswer
from gateway_web.ingress import targets
from gateway_web.ingress.changes import KINDS, ListDigests, changed, list_changed
from gateway_web.ingress.events import PING, STREAM_HEADERS, event, events_of, place_to_return
from gateway_web.ingress.requests import McpRequest

log = structlog.get_logger(__name__)

EVENT_PREFIX = "s."
"""What the event ids of a session's standing stream begin with."""
MOST_URIS = 100
"""Resources of one subscription."""
_PLACE = re.compile(r"[0-9]{1,19}-[0-9]{1,19}", re.ASCII)
SUBSCRIPTION_ID = META_PREFIX + "subscriptionId"


def session_stream(
    gateway: Gateway, digests: ListDigests, caller: Caller, session: McpSession, last_event_id: str | None
) -> HttpAnswer:
    """The GET stream of a session, from the message behind ``last_event_id`` on. It takes over from an earlier one."""
    stream = SessionStream(gateway, digests, caller, session)
    return HttpAnswer(body=stream.events(last_event_id), headers=dict(STREAM_HEADERS), on_close=stream.close)


class SessionStream:
    """Hands out what a session is told."""

    def __init__(
        self,
        gateway: Gateway,
        digests: ListDigests,
        caller: Caller,
        session: McpSession,
        heard: Callable[[], None] | None = None,
    ) -> None:
        """``heard`` is called when there may be something, for whoever does not wait here (:meth:`look`)."""
        self._gateway = gateway
        self._streams = gateway.session_streams
        self._digests = digests
        self._caller = caller
        self._session = session
        self._holder = secrets.token_hex(8)
        self._ping = gateway.settings.web.ping_interval
        self._listener: Listener = gateway.listeners.listen(session.id, heard)

    def close(self) -> None:
        """Nobody reads any more."""
        self._listener.close()

    def events(self, last_event_id: str | None) -> Iterator[bytes]:
        """What comes behind ``last_event_id``, until the session ends, or its stream is taken over."""
        try:
            place = self.take_over(last_event_id)
            yield place_to_return(self._session.version, EVENT_PREFIX + place)
            for message in self.messages(place):
                yield PING if message is None else event(message.data, name=EVENT_PREFIX + message.id)
        except StoreUnavailable as error:
            # The client comes again, with the id of the last message that it has.
            log.debug("session_stream_broke", error=error.message)
        finally:
            self.close()

    def take_over(self, last_event_id: str | None = None) -> str:
        """Be the one that hands the stream out; returns the place to go on from. Raises :class:`StoreUnavailable`."""
        session = self._session.id
        self._streams.hold(session, self._holder)
        place = _place(last_event_id, self._streams.last(session))
        self._note_changes()
        return place

    def messages(self, place: str) -> Iterator[Message | None]:
        """What the session is told behind ``place``, while this hands it out; None when nothing was for a while.

        Raises :class:`StoreUnavailable`.
        """
        while not self._listener.closed and (found := self.look(place)) is not None:
            for message in found:
                place = message.id
                yield message
            if not self._listener.wait(self._ping):
                yield None

    def look(self, place: str) -> list[Message] | None:
        """What the session was told behind ``place``; None if it has ended, or another one hands its stream out.

        Raises :class:`StoreUnavailable`.
        """
        session = self._session.id
        counted_in = self._gateway.mcp_sessions.counted_in(self._session)
        if not self._streams.holds(session, self._holder, counted_in=counted_in):
            return None
        self._note_changes()
        return [
            message._replace(data=as_seen(self._gateway, self._caller, self._session.tool, message))
            for message in self._streams.read(session, place)
        ]

    def _note_changes(self) -> None:
        """Tell the session of lists that are others than it knows; what is told is kept, so nothing is missed."""
        session, now = self._session.id, self._digests.of(self._caller, self._session.tool)
        known = self._streams.lists_told(session)
        if known == now:
            return
        for kind in changed(known, now) if known is not None else ():
            self._streams.append(session, {"jsonrpc": "2.0", "method": list_changed(kind)})
        self._streams.tell_lists(session, now)


def as_seen(gateway: Gateway, caller: Caller, endpoint: ToolId | None, message: Message) -> bytes:
    """A message with the URI that its resource has for a caller at an endpoint."""
    if endpoint is not None or not message.tool:
        return message.data
    told = orjson.loads(message.data)
    uri = told.get("params", {}).get("uri")
    if isinstance(uri, str):
        told["params"]["uri"] = targets.uri_at_aggregate(gateway, caller, ToolId(message.tool), uri)
    return dumps(told)


def _place(last_event_id: str | None, newest: str) -> str:
    """The place in the session's stream that an event id names; the end of the stream for any other."""
    named = (last_event_id or "").removeprefix(EVENT_PREFIX)
    if last_event_id is None or named == last_event_id or not _PLACE.fullmatch(named):
        return newest
    return min(named, newest, key=lambda place: tuple(map(int, place.split("-"))))


def subscription(gateway: Gateway, digests: ListDigests, mcp: McpRequest) -> HttpAnswer:
    """Answer ``subscriptions/listen``: its stream stands until the client hangs up."""
    listening = subscribe(gateway, digests, mcp)
    return HttpAnswer(
        body=_unless_it_breaks(events_of(listening.messages())),
        headers=dict(STREAM_HEADERS),
        on_close=listening.close,
    )


def _unless_it_breaks(events: Iterator[bytes]) -> Iterator[bytes]:
    """The events; when nothing more can be told the stream ends, and the client listens again."""
    try:
        yield from events
    except GatewayError as error:
        log.debug("subscription_broke", error=error.message)


def subscribe(gateway: Gateway, digests: ListDigests, mcp: McpRequest) -> Subscription:
    """Begin a ``subscriptions/listen``. Raises :class:`JsonRpcError` for params that are none."""
    wanted = mcp.params.get("notifications")
    if not isinstance(wanted, dict):
        raise JsonRpcError(INVALID_PARAMS, "Invalid params: notifications must be an object")
    uris = wanted.get("resourceSubscriptions", [])
    if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris) or len(uris) > MOST_URIS:
        raise JsonRpcError(
            INVALID_PARAMS,
            f"Invalid params: resourceSubscriptions must be a list of at most {MOST_URIS} URIs",
        )
    return Subscription(gateway, digests, mcp, wanted, list(dict.fromkeys(uris)))


class Subscription:
    """One ``subscriptions/listen``. Behind one with resources stands an MCP session, which ends with it."""

    def __init__(
        self,
        gateway: Gateway,
        digests: ListDigests,
        mcp: McpRequest,
        wanted: Mapping[str, Any],
        uris: list[str],
    ) -> None:
        self._gateway = gateway
        self._digests = digests
        self._mcp = mcp
        self._kinds = [kind for kind in KINDS if wanted.get(f"{kind}ListChanged") is True]
        self._uris = uris
        self._closed = False
        self._ping = gateway.settings.web.ping_interval
        self._session = self._begin_session() if uris else None
        name = f"listen:{secrets.token_hex(8)}" if self._session is None else self._session.id
        self._listener: Listener = gateway.listeners.listen(name)

    def _begin_session(self) -> McpSession:
        return self._gateway.mcp_sessions.create(
            principal=self._mcp.caller.principal,
            version=self._mcp.version,
            tool=self._mcp.tool,
            client_info={},
            client_capabilities={},
        )

    def close(self) -> None:
        """Nobody reads any more."""
        self._closed = True
        self._listener.close()
        session, self._session = self._session, None
        if session is not None:
            with suppress(StoreUnavailable):  # it ends by itself when nobody keeps it
                self._gateway.end_session(session)

    def messages(self) -> Iterator[dict[str, Any] | None]:
        """The acknowledgement of what is honoured, then each change; None when nothing changed for a while.

        Raises :class:`GatewayError` when nothing more can be told: without Redis, or the session behind it.
        """
        try:
            known, place = self._digests.of(self._mcp.caller, self._mcp.tool), BEGINNING
            honoured: dict[str, Any] = {f"{kind}ListChanged": True for kind in self._kinds}
            watched: list[str] = []
            for uri in self._uris:
                if (yield from self._watch(uri)):
                    watched.append(uri)
                if self._closed:
                    return
            if watched:
                honoured["resourceSubscriptions"] = watched
            yield self._told("notifications/subscriptions/acknowledged", {"notifications": honoured})
            while not self._closed:
                called = self._listener.wait(self._ping)
                now = self._digests.of(self._mcp.caller, self._mcp.tool)
                for kind in changed(known, now):
                    if kind in self._kinds:
                        yield self._told(list_changed(kind), {})
                known = now
                for message in self._updates(place):
                    place = message.id
                    told = orjson.loads(as_seen(self._gateway, self._mcp.caller, self._mcp.tool, message))
                    yield self._told(told["method"], told.get("params", {}))
                if not called:
                    yield None
        finally:
            self.close()

    def _updates(self, place: str) -> list[Message]:
        """What came for the session behind it, which is kept alive."""
        session = self._session
        if session is None:
            return []
        self._gateway.mcp_sessions.use(session.id, principal=self._mcp.caller.principal, tool=self._mcp.tool)
        return self._gateway.session_streams.read(session.id, place)

    def _watch(self, uri: str) -> Generator[None, None, bool]:
        """Have the tool of a resource tell of its updates; False if it does not. Yields while the tool is silent.

        Where nobody reads any more it is taken back.
        """
        request = replace(self._mcp.request, method="resources/subscribe", params={"uri": uri})
        try:
            tool, params = targets.of_uri(self._gateway, replace(self._mcp, request=request))
            call = self._gateway.begin(
                self._mcp.caller,
                tool,
                request.method,
                params,
                version=self._mcp.version,
                session=self._session,
            )
        except (GatewayError, JsonRpcError) as error:
            log.debug("resource_not_watched", error=str(error))
            return False
        with call:
            try:
                while not isinstance(frame := call.next(self._ping), ExecutionResult):
                    if self._closed:
                        call.cancel()
                        return False
                    yield None
            except GeneratorExit:
                call.cancel()
                raise
            return frame.failure is None

    def _told(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        meta = {SUBSCRIPTION_ID: self._mcp.request.id}
        return {"jsonrpc": "2.0", "method": method, "params": {**params, "_meta": meta}}
