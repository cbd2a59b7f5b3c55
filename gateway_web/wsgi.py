"""The WSGI entry point: ``gunicorn -k gevent gateway_web.wsgi:app``."""

from __future__ import annotations

import os

import structlog
from flask import Flask

from common.audit.journal import Journal
from common.control.reload import Commit, Reload, checked
from common.gateway import Gateway
from common.logs import configure as configure_logs
from common.logs import take_over as take_over_logs
from common.processes import no_core_dumps
from common.settings import load
from common.settings.changes import SettingsChanges
from common.store.client import address_of
from common.telemetry.start import start_tracing
from gateway_web.app import create_app
from gateway_web.http import RELOAD
from gateway_web.identity import identity_problems
from gateway_web.metrics import process_name

log = structlog.get_logger(__name__)


def make() -> Flask:
    """This process's application, listening and with the file's tools registered."""
    no_core_dumps()
    settings = load()
    configure_logs(settings.logging, process=f"web-{os.getpid()}")
    for problem in settings.tool_problems:
        log.error("tool_skipped", tool=problem.id, reason=problem.message)
    gateway = Gateway(settings, address_of(settings.redis), publish_tools=True)
    gateway.tracer = start_tracing(settings.telemetry, settings.egress.rules, "web")
    gateway.start()
    made = create_app(gateway)
    made.config[RELOAD] = _reload(gateway)
    return made


def _reload(gateway: Gateway) -> Reload:
    """What reads this process's settings anew."""

    def count(outcome: str) -> None:
        if gateway.figures is not None:
            gateway.figures.count("canalgate_reloads", outcome)

    gateway.reloading(_prepare_logs)
    return Reload(
        gateway,
        lambda: checked(load, identity_problems),
        process=process_name(),
        record=Journal(gateway.client, gateway.keys).record,
        count=count,
        looks=(identity_problems,),
    )


def _prepare_logs(changes: SettingsChanges) -> Commit | None:
    settings = changes.settings.logging
    if "logging" not in changes.sections:
        return None
    return lambda: take_over_logs(settings)


app = make()
