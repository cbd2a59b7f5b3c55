"""The sources of the settings, made ready."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from common.discovery.file import FileSource
from common.domain.errors import ConfigurationError
from common.ports import Discovery
from common.settings.sources import SourceSettings

GROUP = "canalgate.discovery"
"""Of the entry points that name classes of sources."""


def make_source(settings: SourceSettings) -> Discovery:
    """A new source. Raises :class:`ConfigurationError` if it cannot be made."""
    if settings.type == "file":
        return FileSource(settings.path or "", settings.interval)
    try:
        source: Discovery = _named(settings.type)(dict(settings.options))
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


def _named(name: str) -> Any:
    """The class behind a dotted path or the name of an entry point. Raises whatever is wrong with it."""
    module, colon, attribute = name.partition(":")
    if colon:
        return getattr(import_module(module), attribute)
    (found,) = entry_points(group=GROUP, name=name)
    return found.load()
