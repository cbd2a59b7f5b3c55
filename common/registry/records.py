"""How a tool and its capabilities stand in Redis."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import orjson
import structlog

from common.domain.capabilities import Capabilities, capabilities_from_wire, capabilities_to_wire
from common.domain.errors import GatewayError
from common.domain.formats import check_format
from common.domain.health import Health, health_from_wire
from common.domain.ids import ToolId
from common.domain.tool import (
    HttpTransport,
    Origin,
    RegisteredTool,
    Tool,
    ToolState,
    tool_from_wire,
    tool_to_wire,
)
from common.domain.tool_status import (
    UNTOUCHED,
    OperatorState,
    is_enabled,
    operator_from_wire,
    runs_calls,
    shown_state,
)
from common.registry.withheld import NOTHING, Withheld, withheld_of
from common.store.keys import Keys

log = structlog.get_logger(__name__)

DEFINITION = "definition"
"""What is sealed under the id of the tool."""
_PLAIN = Keys()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tool of the catalogue, and how it stands.

    ``capabilities`` is what its backend offers, without what is ``withheld`` from clients; None before the first
    discovery ended. ``operator`` is what an operator said of it; ``health`` what the last probe found that changed its
    grade, None if it is not probed.
    """

    registered: RegisteredTool
    capabilities: Capabilities | None = None
    operator: OperatorState = UNTOUCHED
    health: Health | None = None
    withheld: Withheld = field(default=NOTHING)

    @property
    def tool(self) -> Tool:
        return self.registered.tool

    @property
    def id(self) -> ToolId:
        return self.registered.tool.id

    @property
    def enabled(self) -> bool:
        """Whether it may be called. Whoever asks the definition instead does not hear the operator."""
        return is_enabled(self.registered.tool, self.operator)

    @property
    def runs_calls(self) -> bool:
        """Whether calls that were accepted may run: also while it is retiring."""
        return runs_calls(self.registered.tool, self.operator)

    @property
    def draining(self) -> bool:
        """Whether it takes no new sessions."""
        return self.operator.draining

    @property
    def state(self) -> ToolState:
        """The one word for its state; that it is draining is said beside it."""
        return shown_state(self.registered.tool, self.operator, self.health)

    @property
    def known(self) -> Capabilities | None:
        """The capabilities if they are those of the present definition."""
        found = self.capabilities
        return found if found and found.tool_version == self.registered.version else None

    def definition(self, name: str) -> Mapping[str, Any] | None:
        """What the backend says of one of its capabilities; None if it names none such."""
        known = self.known
        return (
            None if known is None else next((tool for tool in known.tools if tool.get("name") == name), None)
        )


def definition_to_json(tool: Tool, origin: Origin, keys: Keys = _PLAIN, source: str = "") -> bytes:
    """The value in ``registry:tools``; a payload, since it holds the secrets of environment and headers."""
    marked = {"source": source} if source else {}
    record = orjson.dumps({"origin": origin.value, **marked, "tool": tool_to_wire(tool)})
    return keys.sealed(record, DEFINITION, tool.id)


def definition_from_json(raw: bytes, version: int, keys: Keys = _PLAIN, name: str = "") -> RegisteredTool:
    """Inverse of :func:`definition_to_json`, for the tool of that name. Raises :class:`PayloadUnreadable`."""
    opened = keys.opened(raw, DEFINITION, name)
    record: dict[str, Any] = orjson.loads(opened)
    check_format(record, what=f"the definition of tool {name!r}")
    origin = Origin(record["origin"])
    tool = tool_from_wire(record["tool"])
    if isinstance(tool.transport, HttpTransport):
        local, discovered = origin is Origin.FILE, origin is Origin.DISCOVERED
        tool = replace(tool, transport=replace(tool.transport, local=local, discovered=discovered))
    digest = hashlib.sha256(opened).hexdigest()
    return RegisteredTool(
        tool=tool, version=version, digest=digest, origin=origin, source=record.get("source", "")
    )


def capabilities_to_json(capabilities: Capabilities) -> bytes:
    """The value in ``registry:capabilities``."""
    return orjson.dumps(capabilities_to_wire(capabilities))


class RawEntry(NamedTuple):
    """What the registry's hashes hold of one tool."""

    definition: bytes
    version: bytes
    capabilities: bytes | None = None
    operator: bytes | None = None
    health: bytes | None = None
    unapproved: bytes | None = None


def hashes(keys: Keys) -> tuple[str, ...]:
    """The hashes that make up an entry, in the order of :class:`RawEntry`."""
    return (
        keys.registry_tools,
        keys.registry_versions,
        keys.registry_capabilities,
        keys.registry_states,
        keys.health,
        keys.registry_unapproved,
    )


def entry_from_redis(raw: RawEntry, keys: Keys, name: str) -> Entry:
    """One entry. Raises LookupError, TypeError, ValueError or GatewayError for what cannot be read."""
    registered = definition_from_json(raw.definition, int(raw.version), keys, name)
    offered = None if raw.capabilities is None else capabilities_from_wire(orjson.loads(raw.capabilities))
    withheld = withheld_of(registered.tool.content, raw.unapproved, offered)
    return Entry(
        registered=registered,
        capabilities=None if offered is None else withheld.without(offered),
        operator=UNTOUCHED if raw.operator is None else operator_from_wire(orjson.loads(raw.operator)),
        health=None if raw.health is None else _health(raw.health),
        withheld=withheld,
    )


def _health(raw: bytes) -> Health | None:
    try:
        return health_from_wire(orjson.loads(raw))
    except orjson.JSONDecodeError:
        return None


def readable_entry(name: bytes, raw: RawEntry, keys: Keys) -> Entry | None:
    """The same, or None if this reader cannot read it: one tool's record must not hide all the others."""
    try:
        return entry_from_redis(raw, keys, name.decode())
    except (GatewayError, LookupError, TypeError, ValueError, AttributeError) as error:
        log.error("tool_unreadable", tool=name.decode(errors="replace"), error=repr(error))
        return None


def readable_entries(
    keys: Keys, tools: Mapping[bytes, bytes], *others: Mapping[bytes, bytes]
) -> Iterator[Entry]:
    """The entries of whole :func:`hashes` that can be read, sorted by id."""
    for name, definition in sorted(tools.items()):
        raw = RawEntry(definition, *(values.get(name) for values in others))  # type: ignore[arg-type]
        entry = readable_entry(name, raw, keys)
        if entry is not None:
            yield entry
