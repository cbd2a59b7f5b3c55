"""What a running process takes over of settings that were read anew, and what needs a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from common.domain.errors import ConfigurationError
from common.domain.ids import ToolId
from common.domain.tool import Tool
from common.settings.model import SECTIONS, Settings
from common.settings.section import Section
from common.settings.tenants import TenantsSettings

NOBODY = ("none",)


class Applies(StrEnum):
    """When a changed setting holds."""

    LIVE = "live"
    """As soon as the process reads its settings anew (SIGHUP)."""
    RESTART = "restart"
    """When the process starts again; a reload says so, and the old value holds until then."""


PROVIDER_SECTIONS = frozenset({"credentials", "vault", "client_credentials", "token_exchange", "aws", "gcp"})
"""Those that providers of credentials are made of."""
_WHOLE = frozenset({"tenants", "policy", "logging"}) | PROVIDER_SECTIONS
_AT_THE_START: Mapping[str, frozenset[str]] = {
    # Open streams are watched under the resolver that let them in: under another one they would be nobody's.
    "identity": frozenset({"resolver", "default_tenant", "default_client"}),
    "runtime": frozenset({"max_result_bytes", "result_ttl"}),
    "admin": frozenset({"enabled"}),
}
"""Of sections that are live but for these keys."""
_BESIDE_IDENTITY = ("host", "trusted_proxies", "tls_client_auth", "tls_client_ca_file")
"""Keys of ``web``, all for a restart, that say whose word on a caller counts; ``identity`` leans on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsChanges:
    """What is different between the settings in force and others.

    ``settings`` is what holds when the live ones are taken over: those that need a restart are as they were. ``live``
    and ``restart`` name settings as ``section.key``, sorted.
    """

    settings: Settings
    live: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    added: tuple[ToolId, ...] = ()
    changed: tuple[ToolId, ...] = ()
    removed: tuple[ToolId, ...] = ()

    @property
    def sections(self) -> frozenset[str]:
        """The sections of which something is taken over."""
        return frozenset(name.partition(".")[0] for name in self.live)

    @property
    def tools(self) -> bool:
        """Whether the file's tools are others."""
        return bool(self.added or self.changed or self.removed)

    @property
    def nothing(self) -> bool:
        """Whether they are the same."""
        return not (self.live or self.restart or self.tools)


def applies(section: str, key: str) -> Applies:
    """When a change of this setting holds. Tools are live."""
    if section in _WHOLE or (section in _AT_THE_START and key not in _AT_THE_START[section]):
        return Applies.LIVE
    return Applies.RESTART


def changes_between(now: Settings, wanted: Settings) -> SettingsChanges:
    """What becomes of the settings in force when others are read.

    Raises :class:`ConfigurationError` if what would hold then must not: the new of the one kind with the old of the
    other.
    """
    live: list[str] = []
    restart: list[str] = []
    update: dict[str, Any] = {"tools": wanted.tools}
    for section in SECTIONS:
        before, after = getattr(now, section), getattr(wanted, section)
        differ = _differing(before, after)
        taken = [key for key in differ if applies(section, key) is Applies.LIVE]
        if section == "identity" and _held_back(now, wanted):
            taken = []
        live += [f"{section}.{key}" for key in taken]
        restart += [f"{section}.{key}" for key in differ if key not in taken]
        if taken:
            values = {key: getattr(after, key) for key in taken}
            update[section] = after if taken == differ else before.model_copy(update=values)
    old, new = _digests(now.tools), _digests(wanted.tools)
    return SettingsChanges(
        settings=_allowed(now.model_copy(update=update)),
        live=tuple(sorted(live)),
        restart=tuple(sorted(restart)),
        added=tuple(sorted(new.keys() - old.keys())),
        changed=tuple(sorted(name for name in new.keys() & old.keys() if new[name] != old[name])),
        removed=tuple(sorted(old.keys() - new.keys())),
    )


def _differing(before: Section, after: Section) -> list[str]:
    found = [key for key in type(before).model_fields if getattr(before, key) != getattr(after, key)]
    # A tenant's null is "no bound", and no key is the bound of all: as values the two are the same.
    if "listed" not in found and _layers(before) != _layers(after):
        found.append("listed")
    return found


def _layers(section: Section) -> object:
    return section.layers if isinstance(section, TenantsSettings) else None


def _allowed(merged: Settings) -> Settings:
    """Held against the rules across sections, as a file is. A file that is good itself says nothing of the mixture."""
    try:
        Settings.model_validate(dict(merged))
    except ValidationError as error:
        reason = "; ".join(str(each["msg"]).removeprefix("Value error, ") for each in error.errors())
        raise ConfigurationError(f"with what needs a restart as it was: {reason}; restart instead") from None
    return merged


def _held_back(now: Settings, wanted: Settings) -> bool:
    """Whether ``identity`` is taken over as a whole by a restart, or not at all: its parts lean on each other, and on
    who may say who calls.
    """
    start, before, after = _AT_THE_START["identity"], now.identity, wanted.identity
    return (
        any(getattr(now.web, key) != getattr(wanted.web, key) for key in _BESIDE_IDENTITY)
        or any(getattr(before, key) != getattr(after, key) for key in start)
        or before.resolver == NOBODY
        or (before.oauth is None) is not (after.oauth is None)
    )


def _digests(tools: tuple[Tool, ...]) -> dict[ToolId, str]:
    return {tool.id: tool.digest() for tool in tools}
