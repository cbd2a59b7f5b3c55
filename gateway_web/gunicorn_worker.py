"""gunicorn's gevent worker, with a lane of its own for the requests that take the short way.

gunicorn reads and checks a request as ever. Where it is plainly a POST to an MCP endpoint, the answer of the short way
(:mod:`gateway_web.ingress.short_way`) is written at once, without WSGI's environment, response object and second packet
for the body: a fifth of what a short call costs the web process (docs/benchmarks.md). Everything else, and whatever
needs more of gunicorn than that, takes gunicorn's way.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, ClassVar

import gevent
import structlog
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http.errors import ConfigurationProblem, InvalidHeader
from gunicorn.workers import ggevent
from gunicorn.workers.ggevent import GeventWorker

from common.domain.errors import ConfigurationError
from common.settings import WebSettings
from common.sockets import Writable, send_whole
from common.telemetry import about
from gateway_web.client_socket import ClientSocket, bounded
from gateway_web.http import RELOAD, WEB_SETTINGS, Environ, HttpAnswer, status_line
from gateway_web.ingress.short_way import ShortWay
from gateway_web.leftovers import bound_leftovers
from gateway_web.listener_tls import HANDSHAKE_WITHIN, listener_context
from gateway_web.request_heads import Head, remember_heads
from gateway_web.tls_client_socket import TlsClientSocket

log = structlog.get_logger(__name__)

_BARE = {"CONTENT-TYPE": "CONTENT_TYPE", "CONTENT-LENGTH": "CONTENT_LENGTH"}
_SAFE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
"""What a header may hold: nothing that would end it."""


class Listener(StreamServer):  # type: ignore[misc]
    """Takes what stands in the listening socket's queue before it closes: Linux would reset those connections.

    Their clients had connected while this was a server that takes calls.
    """

    opened: ClassVar[list[Listener]] = []
    """Those of this process."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.opened.append(self)

    def close(self) -> None:
        """Serve those that have connected, and listen no more."""
        while not (self.closed or self.full()):
            try:
                connected = self.do_read()
            except ConnectionError:
                continue  # it hung up again
            except OSError:
                break
            if connected is None:
                break
            self.do_handle(*connected)
        super().close()

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> object:
        """Shake hands, in this connection's own greenlet and within a time, and serve it."""
        try:
            with gevent.Timeout(HANDSHAKE_WITHIN, TimeoutError("no handshake")):
                client = self.wrap_socket(client_socket, **self.ssl_args)
        except OSError as error:  # an error of TLS, too
            client_socket.close()
            log.debug("handshake_failed", peer=str(address), error=str(error))
            return None
        with closing(client):
            return self.handle(client, address)


@dataclass(frozen=True, slots=True)
class ListeningAt:
    """What a connection is told of its listener. That may be closed when the connection's greenlet begins."""

    name: object

    def getsockname(self) -> object:
        """As the socket had it."""
        return self.name


class Worker(GeventWorker):  # type: ignore[misc]
    """Named by ``--worker-class gateway_web.gunicorn_worker.Worker``."""

    _short_way: ShortWay | None = None
    _web: WebSettings | None = None
    _reload: Callable[[], object] | None = None
    _asked_to_reload = False
    _listening: Mapping[Any, ListeningAt] = {}

    @classmethod
    def setup(cls) -> None:
        """gunicorn's master calls it. A SIGHUP is passed on: the processes that there are read their settings anew.

        As gunicorn has it they would be replaced, and the streams of their clients cut off.
        """
        Arbiter.handle_hup = _pass_on_hup

    def init_signals(self) -> None:
        """Take SIGHUP as well."""
        super().init_signals()
        signal.signal(signal.SIGHUP, self._hung_up)
        signal.siginterrupt(signal.SIGHUP, False)

    def _hung_up(self, _signal: int, _frame: object) -> None:
        gevent.spawn(self._read_anew)

    def _read_anew(self) -> None:
        """Read the settings anew, and the files of TLS. What cannot be read changes nothing."""
        if self._reload is None:
            self._asked_to_reload = True  # it still starts
            return
        self._reload()
        web = self._web
        if web is not None and web.tls_cert_file is not None:
            try:
                context = listener_context(web)
            except ConfigurationError as error:
                log.error("certificate_refused", reason=error.message)
                return
            for listener in Listener.opened:
                listener.wrap_socket = context.wrap_socket

    def load_wsgi(self) -> None:
        """Load the application, and find its short way unless gunicorn was told to do more with each request."""
        super().load_wsgi()
        config = getattr(self.wsgi, "config", {})
        self._web = config.get(WEB_SETTINGS)
        self._reload = config.get(RELOAD, _nothing)
        if self._asked_to_reload:
            gevent.spawn(self._read_anew)
        if self._web is not None and self._web.tls_cert_file is not None:
            # However gunicorn was started: what the settings say is what is spoken.
            self.cfg.set("certfile", self._web.tls_cert_file)
        settle(self.cfg)
        if self._web is not None:
            bound_leftovers(2 * self._web.max_body_bytes)
        way = getattr(self.wsgi, "wsgi_app", None)
        if isinstance(way, ShortWay) and self.cfg.keepalive and not self._watched():
            self._short_way = way
            remember_heads()

    def _watched(self) -> bool:
        """Whether gunicorn has more to do with a request than to answer it."""
        hooks = (self.cfg.settings[name] for name in ("pre_request", "post_request"))
        return bool(
            self.log.access_log_enabled
            or type(self.log) is not Logger
            or self.cfg.max_requests
            or os.environ.get("SCRIPT_NAME")
            or any(hook.value is not hook.default for hook in hooks)
        )

    def run(self) -> None:
        """Serve, until told to end. The files of TLS are read here, and after a SIGHUP."""
        ggevent.StreamServer = Listener
        web = self._web
        if web is not None and web.tls_cert_file is not None:
            ggevent.ssl_context = lambda _cfg: listener_context(web)
        self._listening = {listener: ListeningAt(listener.getsockname()) for listener in self.sockets}
        super().run()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve a connection, which may not be slower than the settings say."""
        at = self._listening.get(listener, listener)
        super().handle(at, client if self._web is None else bounded(client, self._web), addr)

    def handle_request(self, listener_name: object, req: Any, sock: Any, addr: Any) -> object:
        """Answer one request; True keeps the connection."""
        if isinstance(sock, ClientSocket | TlsClientSocket):
            sock.begin_request()
        try:
            keeps = self._handle_request(listener_name, req, sock, addr)
        finally:
            about.leave()
        if isinstance(sock, ClientSocket | TlsClientSocket):
            sock.next_request()
        return keeps

    def _handle_request(self, listener_name: object, req: Any, sock: Any, addr: Any) -> object:
        environ = environ_of(req, sock, addr) if self._short_way is not None and self.alive else None
        if self._short_way is None or environ is None:
            return super().handle_request(listener_name, req, sock, addr)
        try:
            answer = self._short_way.answer(environ)
            if answer is None:
                return super().handle_request(listener_name, req, sock, addr)
            write(answer, sock)
        except (gevent.GreenletExit, SystemExit):
            pass  # the worker is ending, as gunicorn's own method has it
        return True

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what gunicorn could not read; a path that is not below the one that a header names is such, too."""
        super().handle_error(
            req, client, addr, InvalidHeader("SCRIPT_NAME") if isinstance(exc, ConfigurationProblem) else exc
        )


def _pass_on_hup(arbiter: Arbiter) -> None:
    """In the master: have all workers read their settings anew."""
    arbiter.log.info("Hang up: %s", arbiter.master_name)
    arbiter.kill_workers(signal.SIGHUP)


def _nothing() -> None:
    """For an application that cannot read its settings anew."""


def settle(cfg: Config) -> None:
    """Look up each setting of gunicorn once: it does so thirty times a request, which is a third of its parsing.

    What the settings work out when they are asked (the ones that are properties) stays so.
    """
    vars(cfg).update({name: setting.get() for name, setting in cfg.settings.items()})


def environ_of(req: Any, sock: Any, addr: Any) -> Environ | None:
    """The environment of a request, as far as the short way looks at it; None for one that needs gunicorn's own."""
    head: Head | None = getattr(req, "head", None)
    known = None if head is None else head.environ
    if head is None or known is None:
        known = _environ_of_head(req, sock, addr)
        if known is None:
            return None
        if head is not None:
            head.environ = known
    environ = {**known, "wsgi.input": req.body}
    if head is not None:
        environ["CONTENT_LENGTH"] = req.headers[head.place][1]
    return environ


def _environ_of_head(req: Any, sock: Any, addr: Any) -> Environ | None:
    """Without the body, which alone is not the same where the head comes again."""
    plain = req.method == "POST" and req.version == (1, 1) and isinstance(addr, tuple)
    if not plain or req.proxy_protocol_info or req._expected_100_continue or req.should_close():  # noqa: SLF001
        return None
    environ: Environ = {
        "REQUEST_METHOD": req.method,
        "PATH_INFO": util.unquote_to_wsgi_str(req.path),
        "QUERY_STRING": req.query or "",
        "REMOTE_ADDR": addr[0],
        "wsgi.input_terminated": True,
        "gunicorn.socket": sock,
    }
    for name, value in req.headers:
        if name == "SCRIPT_NAME":
            return None
        key = _BARE.get(name) or "HTTP_" + name.replace("-", "_")
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


def write(answer: HttpAnswer, sock: Writable) -> None:
    """Write an answer: one that is whole in one piece, any other chunk by chunk.

    Raises OSError if the client has gone; StopIteration, upon which gunicorn closes the connection, if a stream breaks.
    """
    if isinstance(answer.body, bytes):
        head = _head(answer, ("Content-Length", str(len(answer.body))))
        send_whole(sock, head + answer.body)
        return
    try:
        send_whole(sock, _head(answer, ("Transfer-Encoding", "chunked")))
        for piece in answer.body:
            if piece:
                send_whole(sock, b"%x\r\n%b\r\n" % (len(piece), piece))
        send_whole(sock, b"0\r\n\r\n")
    except OSError:
        raise
    except Exception as error:
        log.exception("stream_broke")
        raise StopIteration from error
    finally:
        _close(answer.body)
        if answer.on_close is not None:
            answer.on_close()


def _close(pieces: Iterator[bytes]) -> None:
    close = getattr(pieces, "close", None)
    if close is not None:
        close()


def _head(answer: HttpAnswer, framing: tuple[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status_line(answer.status)}", f"Date: {_date()}"]
    for name, value in (*answer.headers.items(), framing):
        if not _SAFE.fullmatch(value):
            raise ValueError(f"the header {name} holds a control character")
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


_dated = (0, "")


def _date() -> str:
    """Now, as HTTP writes it; made once a second."""
    global _dated  # noqa: PLW0603 - a cache of one value
    now = int(time.time())
    if _dated[0] != now:
        _dated = now, formatdate(now, usegmt=True)
    return _dated[1]
