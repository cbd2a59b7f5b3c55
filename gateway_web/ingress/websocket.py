"""WebSocket at ``/ws`` (all tools) and ``/servers/<tool>/ws`` (one): one JSON-RPC message a text frame.

No revision of MCP defines it; clients that speak it offer the subprotocol ``mcp``, and the rules of stdio hold
(2025-11-25, "Custom Transports"). Who calls is settled before the upgrade, and again with each message.
"""

from __future__ import annotations

import base64
import binascii
import re
from _thread import start_new_thread
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from flask import Blueprint, Flask, g, request
from flask.typing import ResponseReturnValue
from flask_sock import Sock
from simple_websocket import ConnectionClosed, Server
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from common.domain.errors import GatewayError, InvalidRequest
from common.domain.ids import ToolId
from common.gateway import Gateway
from common.mcp.revisions import Era
from common.ports import RequestFacts
from gateway_web.guards import Refused
from gateway_web.http import Environ, HttpAnswer, HttpRequest
from gateway_web.identity import Identity
from gateway_web.ingress.answers import error_answer, json_response, refusal_status
from gateway_web.ingress.changes import ListDigests
from gateway_web.ingress.duplex import Duplex
from gateway_web.ingress.wire import Wire

Respond = Callable[[HttpAnswer], ResponseReturnValue]

SUBPROTOCOL = "mcp"
VERSION = "13"
PATHS = ("/ws", "/servers/<path:tool>/ws")
RECEIVE_BYTES = 4 * 1024
_SOCKETS = ("gunicorn.socket", "werkzeug.socket")
_HANDSHAKE = frozenset(
    {
        "HTTP_HOST",
        "HTTP_UPGRADE",
        "HTTP_CONNECTION",
        "HTTP_SEC_WEBSOCKET_KEY",
        "HTTP_SEC_WEBSOCKET_VERSION",
        "HTTP_SEC_WEBSOCKET_PROTOCOL",
    }
)
"""Headers that the handshake is shown. Without ``Sec-WebSocket-Extensions`` nothing is compressed: a compressor takes
more memory than all the rest of a connection, and a small message may become a large one."""
_TOKENS = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:\s*,\s*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")


class ReadingThread:
    """The thread with which the library reads; Python's own takes as much memory as a stack of gevent's.

    It reads when there is somebody for the messages, and does not end without the connection.
    """

    def __init__(self, target: Callable[[], None]) -> None:
        """Within the request that asks for the upgrade."""
        self.name = ""
        self._target = target
        self._wire: Wire = g.wire
        g.reading = self

    def start(self) -> None:
        """As the library calls it; nobody is there yet."""

    def begin(self) -> None:
        """Read."""
        start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            self._target()
        finally:
            self._wire.close()


class Heard:
    """What the library sets, on its thread, when it has read a message.

    It is taken there: a client that sends faster than its messages are taken has to wait, and nothing piles up.
    """

    take: Callable[[], None] | None = None

    def set(self) -> None:
        """A message was read, or the connection has ended."""
        if self.take is not None:
            self.take()


class WebSocketDoor:
    """The door. One instance a process."""

    def __init__(self, gateway: Gateway, identity: Identity, digests: ListDigests) -> None:
        self._gateway = gateway
        self._identity = identity
        self._digests = digests
        self._web = gateway.settings.web

    def add_to(self, app: Flask, respond: Respond) -> None:
        """Route to this door; ``respond`` makes Flask's response of an answer."""
        app.config["SOCK_SERVER_OPTIONS"] = {
            "subprotocols": [SUBPROTOCOL],
            "receive_bytes": RECEIVE_BYTES,
            "ping_interval": self._web.ping_interval,
            "max_message_size": self._web.max_body_bytes,
            "thread_class": ReadingThread,
            "event_class": Heard,
        }
        blueprint, sock = Blueprint("websocket", __name__), Sock()

        @blueprint.before_request
        def admit() -> ResponseReturnValue | None:
            refusal = self._admit(request.environ, (request.view_args or {}).get("tool"))
            return None if refusal is None else respond(refusal)

        for number, path in enumerate(PATHS):
            sock.route(path, bp=blueprint, endpoint=f"serve_{number}")(self._serve)
        app.register_blueprint(blueprint)
        for path in PATHS:
            app.add_url_rule(path, f"GET {path}", lambda **_: respond(upgrade_required()), methods=["GET"])

    # -- before the upgrade -----------------------------------------------------------------------------

    def _admit(self, environ: Environ, tool: str | None) -> HttpAnswer | None:
        """A refusal; or None, and the environment is as the upgrade needs it."""
        try:
            http = HttpRequest(environ)
            facts = self._identity.facts(http)
            caller = self._identity.recognise(facts)
            if tool is not None:
                self._gateway.find(caller, ToolId(tool))
            if (http.header("sec-websocket-version") or "").strip() != VERSION:
                return upgrade_required()
            _check_handshake(http)
        except GatewayError as error:
            answer = error_answer(error, None, Era.LEGACY)
            answer.status = refusal_status(error)
            return answer
        g.facts = replace(facts, headers=dict(facts.headers))
        for name in [name for name in environ if name.startswith("HTTP_") and name not in _HANDSHAKE]:
            del environ[name]
        name = next(name for name in _SOCKETS if name in environ)
        g.wire = environ[name] = Wire(environ[name], write_timeout=self._web.write_timeout)
        return None

    # -- after it ---------------------------------------------------------------------------------------

    def _serve(self, ws: Server, tool: str | None = None) -> None:
        """Write what there is for the client, until either side ends the connection."""
        facts: RequestFacts = g.facts
        caller = self._identity.recognise(facts)
        where = None if tool is None else ToolId(tool)
        duplex = Duplex(self._gateway, self._digests, caller, where, protocol="websocket")
        forget = self._identity.watch(facts, caller, partial(self._end, ws, duplex))
        try:
            g.wire.on_close(duplex.outbox.close)
            ws.event.take = partial(self._take, ws, duplex, facts)
            g.reading.begin()
            for message in duplex.messages(self._web.ping_interval):
                if message is not None:  # the library pings
                    ws.send(message.decode())
                del message  # it would be kept until the next one, by each quiet connection
        except (ConnectionClosed, LocalProtocolError, OSError):
            pass
        finally:
            forget()
            duplex.close()
            _close(ws, CloseReason.NORMAL_CLOSURE, "the session has ended")

    @staticmethod
    def _end(ws: Server, duplex: Duplex) -> None:
        """The credential behind the connection is good no more."""
        _close(ws, CloseReason.POLICY_VIOLATION, "the credential of this connection is good no more")
        duplex.close()

    def _take(self, ws: Server, duplex: Duplex, facts: RequestFacts) -> None:
        """Take what was read. Raises OSError, which ends the connection, for what no connection goes on after."""
        while ws.connected and ws.input_buffer:
            if duplex.outbox.closed:
                # The library takes a connection for open again that we have closed, when its client goes on.
                raise ConnectionAbortedError("the connection has ended")
            # Its pong may be behind its messages; who sends them is alive.
            ws.pong_received = True
            message = ws.input_buffer.pop(0)
            if not isinstance(message, str):
                raise _closed(ws, CloseReason.UNSUPPORTED_DATA, "messages are text")
            try:
                duplex.hear(message.encode(), self._identity.recognise(facts))
            except GatewayError as error:
                raise _closed(ws, CloseReason.POLICY_VIOLATION, error.message) from None


def _closed(ws: Server, reason: CloseReason, words: str) -> OSError:
    _close(ws, reason, words)
    return ConnectionAbortedError(words)


def _close(ws: Server, reason: CloseReason, words: str) -> None:
    """Say that a connection ends, if it stands."""
    with suppress(ConnectionClosed, LocalProtocolError, OSError):
        ws.close(reason, words[:100])


def upgrade_required() -> HttpAnswer:
    """The answer to a request that does not ask for a WebSocket of the one version there is (RFC 6455, 4.4)."""
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": VERSION}
    return json_response({"error": "Upgrade Required", "status": 426}, 426, headers)


def _check_handshake(http: HttpRequest) -> None:
    """What the handshake itself would break at, or not ask for (RFC 6455, 4.2.1). Raises :class:`GatewayError`."""
    key = (http.header("sec-websocket-key") or "").strip()
    try:
        valid = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        valid = False
    if not valid:
        raise InvalidRequest("Sec-WebSocket-Key must be 16 bytes in base64", field="Sec-WebSocket-Key")
    offered = http.header("sec-websocket-protocol")
    if offered is None:
        return
    if not _TOKENS.fullmatch(offered.strip()):
        raise InvalidRequest("Sec-WebSocket-Protocol is malformed", field="Sec-WebSocket-Protocol")
    if SUBPROTOCOL not in (name.strip() for name in offered.split(",")):
        raise Refused(400, f"of the offered subprotocols none is spoken here; offer {SUBPROTOCOL}")
