"""The protocol's revisions, their two eras, and which methods each revision has.

Source: the schema of each revision at modelcontextprotocol.io/specification. Tasks are not listed: an
experiment in 2025-11-25, an extension in 2026-07-28.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

LEGACY_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""Revisions opened by `initialize`, oldest first."""
MODERN_VERSIONS: Final = ("2026-07-28",)
"""Revisions where every request describes itself, oldest first."""
LATEST_LEGACY: Final = LEGACY_VERSIONS[-1]
LATEST_MODERN: Final = MODERN_VERSIONS[-1]

_ORDER: Final = MappingProxyType(
    {version: rank for rank, version in enumerate((*LEGACY_VERSIONS, *MODERN_VERSIONS))}
)


class Era(StrEnum):
    """legacy: opened by `initialize`, with a session. modern: stateless, since 2026-07-28."""

    LEGACY = "legacy"
    MODERN = "modern"


def era_of_header(version: str | None) -> Era:
    """The era an HTTP request belongs to, by its `MCP-Protocol-Version` header (None: absent).

    Anything that is not a known legacy version is modern, also garbage: the modern ladder then answers it
    with a structured 400 that tells the client which versions are served.
    """
    return Era.LEGACY if version is None or version in LEGACY_VERSIONS else Era.MODERN


def era_of_version(version: str) -> Era:
    """The era of a known revision. Raises ValueError for an unknown one."""
    if version not in _ORDER:
        raise ValueError(f"unknown protocol version {version!r}; known are {', '.join(_ORDER)}")
    return Era.LEGACY if version in LEGACY_VERSIONS else Era.MODERN


def negotiate_legacy(requested: object) -> str:
    """The version to answer `initialize` with: a known legacy one is echoed, all else gets the newest."""
    return requested if isinstance(requested, str) and requested in LEGACY_VERSIONS else LATEST_LEGACY


def at_least(version: str, minimum: str) -> bool:
    """Whether `version` is a known revision not older than `minimum`; an unknown one never is.

    Raises ValueError if `minimum` is unknown: that is a mistake in our own code.
    """
    if minimum not in _ORDER:
        raise ValueError(f"minimum must be a known protocol version, not {minimum!r}")
    return version in _ORDER and _ORDER[version] >= _ORDER[minimum]


REMOVED_IN_MODERN: Final = frozenset(
    {"initialize", "logging/setLevel", "ping", "resources/subscribe", "resources/unsubscribe"}
)
"""Client requests that end with the legacy era."""
ADDED_IN_MODERN: Final = frozenset({"server/discover", "subscriptions/listen"})
"""Client requests that begin with the modern era."""
COMMON_REQUESTS: Final = frozenset(
    {
        "completion/complete",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "tools/call",
        "tools/list",
    }
)
"""Client requests of every revision."""

CLIENT_REQUESTS: Final[Mapping[Era, frozenset[str]]] = MappingProxyType(
    {Era.LEGACY: COMMON_REQUESTS | REMOVED_IN_MODERN, Era.MODERN: COMMON_REQUESTS | ADDED_IN_MODERN}
)
CLIENT_NOTIFICATIONS: Final[Mapping[Era, frozenset[str]]] = MappingProxyType(
    {
        Era.LEGACY: frozenset(
            {
                "notifications/cancelled",
                "notifications/initialized",
                "notifications/progress",
                "notifications/roots/list_changed",
            }
        ),
        Era.MODERN: frozenset({"notifications/cancelled"}),
    }
)

_ALWAYS: Final = LEGACY_VERSIONS[0]
_SERVER_REQUESTS_SINCE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ping": _ALWAYS,
        "roots/list": _ALWAYS,
        "sampling/createMessage": _ALWAYS,
        "elicitation/create": "2025-06-18",
    }
)
_COMMON_SERVER_NOTIFICATIONS: Final = frozenset(
    {
        "notifications/cancelled",
        "notifications/message",
        "notifications/progress",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
        "notifications/tools/list_changed",
    }
)


def client_requests(version: str) -> frozenset[str]:
    """What a client may ask of a server at `version`. Raises ValueError for an unknown version."""
    return CLIENT_REQUESTS[era_of_version(version)]


def client_notifications(version: str) -> frozenset[str]:
    """What a client may tell a server at `version`. Raises ValueError for an unknown version."""
    return CLIENT_NOTIFICATIONS[era_of_version(version)]


def server_requests(version: str) -> frozenset[str]:
    """What a server may ask of a client at `version`; nothing since 2026-07-28 (`input_required` results
    instead).

    Raises ValueError for an unknown version.
    """
    if era_of_version(version) is Era.MODERN:
        return frozenset()
    return frozenset(m for m, since in _SERVER_REQUESTS_SINCE.items() if at_least(version, since))


def server_notifications(version: str) -> frozenset[str]:
    """What a server may tell a client at `version`. Raises ValueError for an unknown version."""
    if era_of_version(version) is Era.MODERN:
        return _COMMON_SERVER_NOTIFICATIONS | {"notifications/subscriptions/acknowledged"}
    if version == "2025-11-25":
        return _COMMON_SERVER_NOTIFICATIONS | {"notifications/elicitation/complete"}
    return _COMMON_SERVER_NOTIFICATIONS
