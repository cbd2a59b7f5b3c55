"""What a tenant may use: rates, calls and sessions at a time. Layers of it lie over one another.

A layer is a mapping of :class:`Quota`'s fields to values, and sets only what it holds; None in it means "no bound".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any

from common.domain.errors import InvalidRequest
from common.domain.glob import Glob
from common.domain.ids import checked_id
from common.domain.limits import Rate, check_rate
from common.domain.rules import check_count

MOST_CAPABILITIES = 100
"""So many rates for capabilities one tenant may have: each call is held against those of its tool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityRate:
    """What a tenant may call of one tool: all names that match the glob ``name`` share it.

    A name is that of an MCP tool or a prompt, or the URI of a resource, as the tool itself has it; ``*`` stands for
    any text.
    """

    tool: str
    name: str = "*"
    requests_per_minute: int
    burst: int | None = None

    def __post_init__(self) -> None:
        checked_id(self.tool, field="capabilities.tool")
        checked_id(self.name, field="capabilities.name")
        check_rate(self.requests_per_minute, self.burst, "capabilities.")

    @property
    def rate(self) -> Rate:
        """As a rate."""
        return Rate.of(self.requests_per_minute, self.burst)

    def matches(self, tool: str, names: Collection[str] | None) -> bool:
        """Whether a call counts here that may go by any of these names; None: nobody can tell which."""
        return tool == self.tool and (
            names is None or self.name == "*" or any(map(_glob(self.name).matches, names))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Bounds of one tenant in the whole cluster; None: no bound.

    ``requests_per_minute`` and ``burst`` (requests that may come at once; absent: as many as in a minute) bound all its
    requests, ``max_calls`` its calls under way, waiting ones included; ``client_*`` the same for each of its clients.
    ``max_sessions`` bounds its tool sessions, ``max_mcp_sessions`` the sessions that its clients have with us.
    ``enabled`` False refuses it altogether.
    """

    enabled: bool = True
    requests_per_minute: int | None = None
    burst: int | None = None
    max_calls: int | None = None
    client_requests_per_minute: int | None = None
    client_burst: int | None = None
    client_max_calls: int | None = None
    max_sessions: int | None = None
    max_mcp_sessions: int | None = None
    capabilities: tuple[CapabilityRate, ...] = ()

    def __post_init__(self) -> None:
        check_rate(self.requests_per_minute, self.burst)
        check_rate(self.client_requests_per_minute, self.client_burst, "client_")
        for name in ("max_calls", "client_max_calls", "max_sessions", "max_mcp_sessions"):
            if (value := getattr(self, name)) is not None:
                check_count(name, value)
        if len(self.capabilities) > MOST_CAPABILITIES:
            raise InvalidRequest(
                f"capabilities must not hold more than {MOST_CAPABILITIES} rates", field="capabilities"
            )
        named = [(rate.tool, rate.name) for rate in self.capabilities]
        for tool, name in named:
            if named.count((tool, name)) > 1:
                raise InvalidRequest(
                    f"capabilities names {name!r} of tool {tool!r} twice; remove one of the two",
                    field="capabilities",
                )

    @property
    def rate(self) -> Rate | None:
        """Of all the tenant's requests."""
        return Rate.maybe(self.requests_per_minute, self.burst)

    @property
    def rated(self) -> bool:
        """Whether any rate bounds it."""
        return bool(self.requests_per_minute or self.client_requests_per_minute or self.capabilities)

    @property
    def client_rate(self) -> Rate | None:
        """Of the requests of each of its clients."""
        return Rate.maybe(self.client_requests_per_minute, self.client_burst)


Layer = Mapping[str, Any]
FIELDS: tuple[str, ...] = tuple(field.name for field in fields(Quota))
_TOGETHER: Mapping[str, str] = {
    "burst": "requests_per_minute",
    "client_burst": "client_requests_per_minute",
}


def layered(below: Quota, layer: Layer) -> Quota:
    """The quota with what a layer sets in place of its own. A rate is set as a whole: without burst it has its default.

    Raises :class:`InvalidRequest` that names the field.
    """
    changes = dict(layer)
    for name in changes:
        if name not in FIELDS:
            raise InvalidRequest(
                f"unknown field {name!r} of a quota; there are {', '.join(FIELDS)}", field=name
            )
    for burst, rate in _TOGETHER.items():
        if changes.get(burst) is not None and changes.get(rate) is None:
            raise InvalidRequest(f"{burst} goes with {rate}: set both", field=burst)
        if rate in changes:
            changes.setdefault(burst, None)
    return replace(below, **changes)


def layer_to_wire(layer: Layer) -> dict[str, Any]:
    """A layer as plain JSON."""
    return {
        name: [asdict(rate) for rate in value] if name == "capabilities" else value
        for name, value in layer.items()
    }


def layer_from_wire(wire: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of :func:`layer_to_wire`, checked. What a newer writer has added is left out.

    Raises :class:`InvalidRequest` that names the field.
    """
    layer = values_from_wire(wire)
    layered(Quota(), layer)
    return layer


def values_from_wire(wire: Mapping[str, Any]) -> dict[str, Any]:
    """Each value in its type; whether they are good ones, and go together, is not asked here. Raises as above."""
    layer = {name: value for name, value in wire.items() if name in FIELDS}
    for name, value in layer.items():
        if name == "enabled":
            if not isinstance(value, bool):
                raise InvalidRequest("enabled must be true or false", field=name)
        elif name == "capabilities":
            layer[name] = _capabilities(value)
        elif value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise InvalidRequest(f"{name} must be a whole number, or null for no bound", field=name)
    return layer


def _capabilities(value: Any) -> tuple[CapabilityRate, ...]:
    if not isinstance(value, list | tuple):
        raise InvalidRequest("capabilities must be a list", field="capabilities")
    try:
        return tuple(CapabilityRate(**item) for item in value)
    except TypeError as error:
        raise InvalidRequest(
            "each of capabilities must have tool and requests_per_minute, and may have name and burst",
            field="capabilities",
        ) from error


@lru_cache(maxsize=4096)
def _glob(pattern: str) -> Glob:
    return Glob(pattern)
