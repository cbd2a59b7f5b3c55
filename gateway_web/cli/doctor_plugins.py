"""What ``canalgate doctor`` says of classes that others bring: each is made, as the programs make it, and let go of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from common.audit.sinks import make_sink
from common.credentials.brought import brought_provider
from common.discovery.loading import make_source
from common.domain.credential_rules import WITHOUT_SUBJECTS
from common.domain.custom import CustomTransport
from common.domain.errors import ConfigurationError
from common.executors import make_factory
from common.settings import Settings
from common.settings.audit import AuditSink
from common.settings.audit_sinks import SINK_OPTIONS
from common.settings.tool_credentials import EXCHANGE
from gateway_web.cli.findings import Finding

_PROVIDERS = (*sorted(WITHOUT_SUBJECTS), EXCHANGE)
"""The providers that are built in: they are the worker's."""


def plugin_findings(settings: Settings) -> Iterator[Finding]:
    """Of providers of credentials, sinks of the journal, sources of tools and factories of transports."""
    for name in settings.credentials.providers:
        if name not in _PROVIDERS:
            yield _made(
                f"credentials.providers: {name}",
                partial(brought_provider, name, settings.credentials, _PROVIDERS),
            )
    for sink in settings.audit.sinks:
        if sink.type not in SINK_OPTIONS:
            yield _made(f"audit.sinks: {sink.name} ({sink.type})", partial(_close, sink))
    for source in settings.sources.listed:
        yield _made(f"sources.listed: {source.name} ({source.type})", partial(make_source, source))
    for tool in settings.tools:
        transport = tool.transport
        if isinstance(transport, CustomTransport):
            yield _made(
                f"tool {tool.id}: {transport.factory}",
                partial(make_factory, transport),
                at_fault=f"tool {tool.id}: ",
            )


def _close(sink: AuditSink) -> None:
    make_sink(sink).close()


def _made(what: str, make: Callable[[], object], at_fault: str = "") -> Finding:
    try:
        make()
    except ConfigurationError as error:
        return Finding(False, at_fault + error.message)
    except Exception as error:  # noqa: BLE001 - whatever it raises when it is let go of; its words may hold a secret
        return Finding(False, f"{what}: {type(error).__name__}")
    return Finding(True, f"{what} is there")
