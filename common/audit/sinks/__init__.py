"""Where the journal's records go, and how a sink is made of its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from common.audit.sinks.file import FileSink
from common.audit.sinks.memory import MemorySink
from common.audit.sinks.postgres import PostgresSink
from common.audit.sinks.stdout import StdoutSink
from common.audit.sinks.webhook import WebhookSink
from common.domain.egress import STRICT, EgressRules
from common.domain.errors import ConfigurationError
from common.plugins import UnknownPlugin, load_class
from common.ports import AuditSink
from common.settings.audit import AuditSink as SinkSettings
from common.settings.audit_sinks import SINK_OPTIONS, CustomOptions, WebhookOptions

GROUP = "canalgate.audit"
"""The entry points of sinks that other packages bring."""
_BUILT_IN: Mapping[str, Callable[[Any], AuditSink]] = {
    "file": FileSink,
    "stdout": StdoutSink,
    "memory": MemorySink,
    "postgres": PostgresSink,
}


def make_sink(settings: SinkSettings, rules: EgressRules = STRICT) -> AuditSink:
    """The sink of an entry of ``audit.sinks``. Raises :class:`ConfigurationError` if it cannot be made.

    ``rules`` say where one that speaks HTTP may connect to.
    """
    if isinstance(settings.options, WebhookOptions):
        return WebhookSink(settings.options, rules)
    built_in = _BUILT_IN.get(settings.type)
    if built_in is not None:
        return built_in(settings.options)
    options = settings.options.values if isinstance(settings.options, CustomOptions) else {}
    try:
        sink: AuditSink = _loaded(settings.type)(options)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"audit.sinks: the sink {settings.name!r} cannot be made: {type(error).__name__}",
            field="audit.sinks",
        ) from error
    return sink


def _loaded(kind: str) -> Callable[[Mapping[str, Any]], AuditSink]:
    try:
        found: Any = load_class(kind, GROUP, SINK_OPTIONS)
    except UnknownPlugin as error:
        raise ConfigurationError(f"audit.sinks: type {error.message}", field="audit.sinks") from error
    if not callable(found):
        raise ConfigurationError(f"audit.sinks: {kind!r} is no class", field="audit.sinks")
    made: Callable[[Mapping[str, Any]], AuditSink] = found
    return made
