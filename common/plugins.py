"""Classes that others bring, by dotted path or by the name of an entry point."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from common.domain.errors import ConfigurationError


class UnknownPlugin(ConfigurationError):
    """A name that nobody brings, or more than one package. The message lists those known, and holds no secret."""


def load_class(name: str, group: str, built_in: Iterable[str] = ()) -> Any:
    """What ``package.module:Class``, or the entry point of this name in ``group``, stands for.

    ``built_in`` are the names that the caller knows itself; they are for the message alone. Raises
    :class:`UnknownPlugin`, and for what is known whatever its import raises: words that may hold anything.
    """
    module, colon, attribute = name.partition(":")
    if colon:
        return getattr(import_module(module), attribute)
    found = list(entry_points(group=group, name=name))
    if len(found) == 1:
        return found[0].load()
    if found:
        raise UnknownPlugin(f"{name!r} is brought by {len(found)} packages ({group}): uninstall all but one")
    raise UnknownPlugin(f"{name!r} is unknown: {_known(group, built_in)}")


def installed(group: str) -> tuple[str, ...]:
    """The names that installed packages bring, in order."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def _known(group: str, built_in: Iterable[str]) -> str:
    own, brought = ", ".join(built_in), ", ".join(installed(group))
    parts = [f"built in are {own}"] if own else []
    parts.append(f"installed packages bring {brought or 'none'} (entry points {group})")
    return "; ".join(parts) + "; or give a class as package.module:Class"
