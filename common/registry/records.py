"""How a tool and its capabilities stand in Redis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from common.domain.errors import GatewayError
from common.domain.ids import ToolId
from common.domain.tool import (
    Capabilities,
    Origin,
    RegisteredTool,
    Tool,
    capabilities_from_wire,
    capabilities_to_wire,
    tool_from_wire,
    tool_to_wire,
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tool of the catalogue, and what its backend offers; None before the first discovery ended."""

    registered: RegisteredTool
    capabilities: Capabilities | None = None

    @property
    def tool(self) -> Tool:
        return self.registered.tool

    @property
    def id(self) -> ToolId:
        return self.registered.tool.id

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


def definition_to_json(tool: Tool, origin: Origin) -> bytes:
    """The value in ``registry:tools``."""
    return orjson.dumps({"origin": origin.value, "tool": tool_to_wire(tool)})


def definition_from_json(raw: bytes, version: int) -> RegisteredTool:
    """Inverse of :func:`definition_to_json`."""
    record: dict[str, Any] = orjson.loads(raw)
    return RegisteredTool(
        tool=tool_from_wire(record["tool"]), version=version, origin=Origin(record["origin"])
    )


def capabilities_to_json(capabilities: Capabilities) -> bytes:
    """The value in ``registry:capabilities``."""
    return orjson.dumps(capabilities_to_wire(capabilities))


def entry_from_redis(definition: bytes, version: bytes, capabilities: bytes | None) -> Entry:
    """One entry from the three hashes."""
    known = None if capabilities is None else capabilities_from_wire(orjson.loads(capabilities))
    return Entry(registered=definition_from_json(definition, int(version)), capabilities=known)


def readable_entry(
    name: bytes, definition: bytes, version: bytes, capabilities: bytes | None
) -> Entry | None:
    """The same, or None if this reader cannot read it: one tool's record must not hide all the others."""
    try:
        return entry_from_redis(definition, version, capabilities)
    except (GatewayError, LookupError, TypeError, ValueError) as error:
        log.error("tool_unreadable", tool=name.decode(errors="replace"), error=repr(error))
        return None
