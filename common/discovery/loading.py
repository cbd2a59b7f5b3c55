"""The sources of the settings, made ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from common.discovery.file import FileSource
from common.domain.egress import STRICT, EgressRules
from common.domain.errors import ConfigurationError
from common.domain.tool import Tool
from common.plugins import UnknownPlugin, load_class
from common.ports import Discovery
from common.settings.kubernetes import KubernetesSettings
from common.settings.sources import SourceSettings

GROUP = "canalgate.discovery"
"""Of the entry points that name classes of sources."""


BUILT_IN = ("file", "kubernetes")


Present = Callable[[str], Mapping[str, Tool]]


def make_source(
    settings: SourceSettings, rules: EgressRules = STRICT, present: Present = lambda _source: {}
) -> Discovery:
    """A new source, which connects only where ``rules`` let it, if it is one of ours.

    ``present`` says which tools are registered as those of the source of that name.

    Raises :class:`ConfigurationError` if it cannot be made.
    """
    if settings.type == "file":
        return FileSource(settings.path or "", settings.interval)
    if settings.type == "kubernetes":
        # Imported where it is wanted: httpx takes its time.
        from common.discovery.kubernetes import KubernetesSource

        return KubernetesSource(
            settings.kubernetes or KubernetesSettings(), rules, partial(present, settings.name)
        )
    try:
        source: Discovery = load_class(settings.type, GROUP, BUILT_IN)(dict(settings.options))
    except UnknownPlugin as error:
        raise ConfigurationError(
            f"source {settings.name!r}: type {error.message}", field="sources.listed"
        ) from error
    except Exception as error:
        # Not its text: a class that does not like its options may repeat them, secrets included.
        raise ConfigurationError(
            f"source {settings.name!r}: {settings.type!r} cannot be made: {type(error).__name__}",
            field="sources.listed",
        ) from error
    if not callable(getattr(source, "watch", None)):
        raise ConfigurationError(
            f"source {settings.name!r}: {settings.type!r} has no method watch(wanted)", field="sources.listed"
        )
    return source
