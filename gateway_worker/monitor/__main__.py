"""``python -m gateway_worker.monitor``: serve Flower until a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

import structlog

from common.control.reload import checked
from common.domain.errors import ConfigurationError
from common.logs import configure as configure_logs
from common.settings import load
from common.settings.admin import AdminSettings
from common.settings.fields import is_loopback
from gateway_worker.settings import address, settings

log = structlog.get_logger(__name__)


async def serve() -> None:
    """Serve until SIGTERM or SIGINT. Raises :class:`ConfigurationError` where nobody could look."""
    try:
        from gateway_worker.monitor.application import Monitor
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Flower needs the package {error.name}: install canalgate[flower]", field="flower"
        ) from error
    flower = settings().flower
    monitor = Monitor(settings(), address())
    port = monitor.listen_on(flower.host, flower.port)
    log.info("flower_started", host=flower.host, port=port)
    if not is_loopback(flower.host):
        log.warning("flower_in_the_clear", host=flower.host, fix="let only a proxy with TLS reach it")
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, partial(reload, monitor.know))
    monitor.begin()
    await stopping.wait()


def reload(know: Callable[[AdminSettings], None]) -> None:
    """Take over the tokens of the settings as they are now, if they are whole, as every process does; everything else
    needs a restart.
    """
    try:
        know(checked(load).admin)
    except ConfigurationError as error:
        log.error("settings_not_reloaded", error=error.message)
    else:
        log.info("settings_reloaded")


def main() -> None:
    """The program."""
    configure_logs(settings().logging, process=f"flower-{os.getpid()}")
    try:
        asyncio.run(serve())
    except (ConfigurationError, OSError) as error:
        log.error("flower_not_started", error=str(error))
        sys.exit(1)
    # Flower's threads wait for Redis without an end: they hold nothing that has to be saved.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
