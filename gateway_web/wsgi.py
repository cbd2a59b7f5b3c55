"""The WSGI entry point: ``gunicorn -k gevent gateway_web.wsgi:app``."""

from __future__ import annotations

import os

import structlog
from flask import Flask

from common.gateway import Gateway
from common.logs import configure as configure_logs
from common.settings import load
from common.store.client import address_of
from common.telemetry.start import start_tracing
from gateway_web.app import create_app

log = structlog.get_logger(__name__)


def make() -> Flask:
    """This process's application, listening and with the file's tools registered."""
    settings = load()
    configure_logs(settings.logging, process=f"web-{os.getpid()}")
    for problem in settings.tool_problems:
        log.error("tool_skipped", tool=problem.id, reason=problem.message)
    gateway = Gateway(settings, address_of(settings.redis), publish_tools=True)
    gateway.tracer = start_tracing(settings.telemetry, settings.egress.rules, "web")
    gateway.start()
    return create_app(gateway)


app = make()
