"""An admin API that listens, and one that only refuses: what ``canalgate --url`` is pointed at."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from common.registry.registry import Registry
from common.settings import Settings
from common.settings.admin import AdminSettings
from common.store.client import StoreAddress, connect
from common.store.keys import Keys
from gateway_web.admin.api import add_admin, make_openapi_app
from gateway_web.cli.local_control import plane_on

TOKENS = {role: f"the-token-of-the-{role}" for role in ("viewer", "operator", "admin")}
Wsgi = Callable[..., Any]


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def listening(app: Wsgi, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address at which an application is served."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet, ssl_context=tls)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(5)


def admin_app(redis_url: str, settings: Settings) -> Wsgi:
    """The admin API on this Redis, with a token for each role."""
    tokens = [{"name": f"{role}-1", "token": token, "role": role} for role, token in TOKENS.items()]
    admin = AdminSettings.model_validate({"enabled": True, "tokens": tokens})
    settings = settings.model_copy(update={"admin": admin})
    client, keys = connect(StoreAddress(url=redis_url)), Keys("test")
    registry = Registry(client, keys, settings.egress.rules)
    app = make_openapi_app("test")
    add_admin(app, plane_on(settings, client, keys, registry))
    return app


def refusing(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[Wsgi, list[Request]]:
    """An application that always answers so, and the requests that it had."""
    had: list[Request] = []

    @Request.application
    def app(request: Request) -> Response:
        had.append(request)
        return Response(body, status=status, headers=dict(headers or {}))

    return app, had
