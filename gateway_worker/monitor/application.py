"""Flower's application, behind one gate that every request passes."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

import structlog
from celery import Celery
from flower.app import Flower
from flower.options import options
from flower.urls import settings as flower_settings
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets

from common.domain.errors import ConfigurationError, Forbidden, Unauthenticated
from common.identity.operators import Role, Tokens
from common.settings import Settings
from common.settings.admin import AdminSettings
from common.store.client import StoreAddress, connect
from common.store.key_ring import keys_of
from gateway_worker.app import make_app
from gateway_worker.monitor.lengths import Lengths
from gateway_worker.monitor.listening import server_of
from gateway_worker.monitor.pages import HEALTH, PAGES, STATIC, Refused
from gateway_worker.monitor.state import Asked, Heard

log = structlog.get_logger(__name__)

HEALTH_PATH = "/healthcheck"
"""The only path without a token: it says that the program runs, and nothing else."""


class Monitor(Flower):  # type: ignore[misc]
    """Fails closed: without a token of ``admin.tokens``, and for each path and method that is not listed."""

    def __init__(self, settings: Settings, redis: StoreAddress) -> None:
        """Raises :class:`ConfigurationError` if there is no token: nobody could look."""
        if not settings.admin.tokens:
            raise ConfigurationError(
                "Flower asks for a token of admin.tokens, and there is none: list one with the role viewer",
                field="admin.tokens",
            )
        options.read_only, options.enable_events, options.max_tasks = True, False, settings.flower.calls
        loop = IOLoop.current()
        app = watched(settings, redis)
        heard = Heard(app, loop, calls=settings.flower.calls)
        super().__init__(capp=app, options=options, events=heard, io_loop=loop, **flower_settings)
        self.inspector = Asked(loop, app, options.inspect_timeout / 1000)
        self.lengths = Lengths(connect(redis, size=2), keys_of(settings.redis))
        self.know(settings.admin)

    def know(self, admin: AdminSettings) -> None:
        """Ask for these tokens from now on."""
        self._tokens = Tokens(admin)

    def listen_on(self, host: str, port: int) -> int:
        """Listen there; return the port. Raises :class:`OSError`."""
        sockets = bind_sockets(port, address=host)
        server_of(self).add_sockets(sockets)
        found: int = sockets[0].getsockname()[1]
        return found

    def begin(self) -> None:
        """Listen to events from now on, and ask the workers how they are. The loop must run."""
        self.events.start()
        self.started = True
        self.update_workers()

    def find_handler(self, request: HTTPServerRequest, **_: Any) -> Any:
        """The gate: every request comes here, whatever routes a Flower has."""
        if request.path == HEALTH_PATH:
            return self.get_handler_delegate(request, HEALTH)
        status = self._refusal(request)
        if status is not None:
            return self.get_handler_delegate(request, Refused, {"status": status})
        pattern, handler, kwargs = STATIC
        if (found := pattern.fullmatch(request.path)) and request.method in ("GET", "HEAD"):
            return self.get_handler_delegate(request, handler, kwargs, path_args=_parts(found))
        for path, handler, methods in PAGES:
            if found := path.fullmatch(request.path):
                if request.method not in methods:
                    break
                return self.get_handler_delegate(request, handler, path_args=_parts(found))
        return self.get_handler_delegate(request, Refused, {"status": 404 if found is None else 403})

    def _refusal(self, request: HTTPServerRequest) -> int | None:
        try:
            self._tokens.actor_in_browser(request.headers.get("Authorization")).require(Role.VIEWER)
        except Unauthenticated as error:
            log.warning(
                "flower_refused", path=request.path[:200], remote=request.remote_ip, reason=error.message
            )
            return 401
        except Forbidden:
            return 403
        return None


def watched(settings: Settings, redis: StoreAddress) -> Celery:
    """The workers' app, without a way to results: they are payloads."""
    app = make_app(settings, redis)
    app.conf.update(result_backend="disabled://")
    return app


def _parts(found: Any) -> list[bytes]:
    return [unquote_to_bytes(part) for part in found.groups()]
