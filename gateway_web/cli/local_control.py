"""The admin API answered by this process, on Redis: for whoever may reach Redis, and needs no web process for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from common.audit.refusals import Refusals
from common.control.reload import Prepare
from common.identity.operators import Actor, Role
from common.registry.registry import Registry
from common.settings import Settings
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.admin.api import add_admin, make_openapi_app
from gateway_web.cli.http_control import HttpControl
from gateway_web.cli.where import store

Environ = dict[str, Any]
_TIMEOUT = 60.0
"""Seconds; Redis has bounds of its own, so this is never reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """What the admin API stands on, without a web process."""

    settings: Settings
    client: Client
    keys: Keys
    registry: Registry
    refusals: Refusals

    def reloading(self, prepare: Prepare) -> None:
        """Nothing is to be called: a command ends with the settings that it began with."""


class _Here(httpx.WSGITransport):
    """What is logged while a request is served goes to standard error: standard output is the verb's."""

    def __init__(self, app: Callable[[Environ, Any], Iterable[bytes]]) -> None:
        # WSGI wants the bytes of a path as latin-1 (PEP 3333); the transport gives it as text.
        super().__init__(lambda environ, start: app(_as_wsgi_has_it(environ), start))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with redirect_stdout(sys.stderr):
            return super().handle_request(request)


def _as_wsgi_has_it(environ: Environ) -> Environ:
    return {**environ, "PATH_INFO": environ["PATH_INFO"].encode().decode("latin-1")}


def plane_on(settings: Settings, client: Client, keys: Keys, registry: Registry) -> Plane:
    """The plane of these parts."""
    refusals = Refusals(lambda command: client.execute_command(*command), keys)  # type: ignore[no-untyped-call]
    return Plane(settings=settings, client=client, keys=keys, registry=registry, refusals=refusals)


def local_control(config: Path | None) -> HttpControl:
    """The control plane on the Redis of the settings, or of the gateway that runs here.

    Whoever reaches Redis may do everything; the audit journal calls him by his name in the operating system.
    """
    where = store(config)
    registry = Registry(where.client, where.keys, where.settings.egress.rules)
    actor = Actor(where.actor, Role.ADMIN)
    app = make_openapi_app("canalgate-cli")
    plane = plane_on(where.settings, where.client, where.keys, registry)
    add_admin(app, plane, actor_of=lambda _: actor)
    return HttpControl("http://this-machine", None, timeout=_TIMEOUT, transport=_Here(app))
