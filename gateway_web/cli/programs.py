"""The command lines of the two programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from common.settings import Settings, load
from common.settings.layers import CONFIG_VARIABLE
from common.store.client import address_of
from gateway_web.wsgi_address import bind_address


def web_command(settings: Settings, *, host: str, port: int, extra: Sequence[str] = ()) -> list[str]:
    """gunicorn, with one greenlet a connection: streams are held by the thousand."""
    web = settings.web
    return [
        sys.executable, "-m", "gunicorn",
        "--worker-class", "gateway_web.gunicorn_worker.Worker",
        "--workers", str(web.processes),
        "--worker-connections", str(web.connections),
        "--keep-alive", "75",
        "--graceful-timeout", "10",
        "--no-control-socket",
        "--bind", bind_address(host, port),
        *(() if web.tls_cert_file is None else ("--certfile", web.tls_cert_file)),
        *extra,
        "gateway_web.wsgi:app",
    ]  # fmt: skip


def worker_command(name: str | None = None, extra: Sequence[str] = ()) -> list[str]:
    """celery. Workers find their calls in Redis, not through each other: no gossip, no mingling at the start."""
    named = ["--hostname", name] if name else []
    return [
        sys.executable, "-m", "celery", "--app", "gateway_worker.app", "--quiet",
        "worker", "--without-gossip", "--without-mingle", *named, *extra,
    ]  # fmt: skip


def worker_check_command() -> list[str]:
    """Says whether workers could take over the settings as they are: their parts are not ours to make."""
    return [sys.executable, "-m", "gateway_worker.check"]


def flower_command() -> list[str]:
    """Flower, as far as it shows and changes nothing."""
    return [sys.executable, "-m", "gateway_worker.monitor"]


def environment(config: Path | None, **values: str | None) -> dict[str, str]:
    """What the programs need in their environment beside our own."""
    chosen = {name: value for name, value in values.items() if value is not None}
    return {CONFIG_VARIABLE: str(config.absolute()), **chosen} if config else chosen


def exec_web(config: Path | None, *, host: str | None, port: int | None, extra: Sequence[str]) -> NoReturn:
    """Become the web program."""
    settings = load(config, overrides={"web.host": host, "web.port": port})
    address_of(settings.redis)
    added = environment(
        config, CANALGATE_WEB__HOST=host, CANALGATE_WEB__PORT=None if port is None else str(port)
    )
    _become(web_command(settings, host=settings.web.host, port=settings.web.port, extra=extra), added)


def exec_flower(config: Path | None, *, host: str | None, port: int | None) -> NoReturn:
    """Become Flower."""
    address_of(load(config, overrides={"flower.host": host, "flower.port": port}).redis)
    added = environment(
        config, CANALGATE_FLOWER__HOST=host, CANALGATE_FLOWER__PORT=None if port is None else str(port)
    )
    _become(flower_command(), added)


def exec_worker(config: Path | None, *, extra: Sequence[str]) -> NoReturn:
    """Become a worker."""
    address_of(load(config).redis)
    named = any(word in {"-n", "--hostname"} or word.startswith(("-n", "--hostname=")) for word in extra)
    name = None if named else f"worker-{os.getpid()}@%h"  # two of one name could not be told apart
    _become(worker_command(name, extra), environment(config))


def _become(command: list[str], added: Mapping[str, str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, {**os.environ, **added})  # noqa: S606 - no shell on purpose
