"""A tool: one registered backend MCP server, and what is known of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from common.domain.errors import InvalidRequest
from common.domain.ids import ToolId, checked_id

DEFAULT_REQUEST_TIMEOUT = 30.0
DEFAULT_STARTUP_TIMEOUT = 20.0
DEFAULT_IDLE_TIMEOUT = 300.0
DEFAULT_QUEUE_MAX_LENGTH = 10_000
MAX_QUEUE_LENGTH = 1_000_000
MAX_TIMEOUT = 24 * 3600.0
MASK = "********"


class ToolState(StrEnum):
    """What an operator (enabled, disabled) or the health probe (degraded, unavailable) says of a tool."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    DEGRADED = "degraded"
    UNAVAILABLE = "unavailable"


class Origin(StrEnum):
    """Where a tool was registered."""

    FILE = "file"
    RUNTIME = "runtime"


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioTransport:
    """A child process that speaks MCP on its standard streams. ``env`` is all it gets beside a minimal base."""

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTransport:
    """An MCP endpoint over Streamable HTTP. ``headers`` are sent with every request."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


Transport = StdioTransport | HttpTransport


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """The definition of a tool. All timeouts are in seconds.

    ``request_timeout`` bounds one call from acceptance to answer, ``startup_timeout`` the way to a usable
    session, ``idle_timeout`` how long a session without calls is kept. ``queue_max_length`` and ``queue_max_age``
    bound what waits for a worker: the number of calls, and how long the oldest of them has waited.
    """

    id: ToolId
    transport: Transport
    state: ToolState = ToolState.ENABLED
    description: str = ""
    request_timeout: float = DEFAULT_REQUEST_TIMEOUT
    startup_timeout: float = DEFAULT_STARTUP_TIMEOUT
    idle_timeout: float = DEFAULT_IDLE_TIMEOUT
    queue_max_length: int = DEFAULT_QUEUE_MAX_LENGTH
    queue_max_age: float = DEFAULT_REQUEST_TIMEOUT

    def __post_init__(self) -> None:
        checked_id(self.id, field="id")
        if isinstance(self.transport, StdioTransport) and not self.transport.command:
            raise InvalidRequest("command must not be empty", field="command")
        if isinstance(self.transport, HttpTransport) and not self.transport.url.startswith(
            ("http://", "https://")
        ):
            raise InvalidRequest("url must begin with http:// or https://", field="url")
        if not 0 < self.queue_max_length <= MAX_QUEUE_LENGTH:
            raise InvalidRequest(
                f"queue_max_length must be above 0 and at most {MAX_QUEUE_LENGTH}", field="queue_max_length"
            )
        for name in ("request_timeout", "startup_timeout", "idle_timeout", "queue_max_age"):
            value = getattr(self, name)
            if not 0 < value <= MAX_TIMEOUT:
                raise InvalidRequest(
                    f"{name} must be above 0 and at most {MAX_TIMEOUT:.0f} seconds", field=name
                )
        self._check_text()

    def _check_text(self) -> None:
        """What has no UTF-8 form could not be registered: one such tool would keep back all the others."""
        wire = tool_to_wire(self)
        for name, value in {**wire, **wire["transport"], "transport": None}.items():
            try:
                json.dumps(value, ensure_ascii=False).encode("utf-8")
            except UnicodeEncodeError as error:
                raise InvalidRequest(
                    f"{name} holds a lone surrogate and has no UTF-8 form", field=name
                ) from error

    @property
    def enabled(self) -> bool:
        """False only when an operator switched the tool off."""
        return self.state is not ToolState.DISABLED

    def with_state(self, state: ToolState) -> Tool:
        """The same tool in another state."""
        return replace(self, state=state)

    def digest(self) -> str:
        """A fingerprint of the definition, by which a changed one is recognised."""
        return hashlib.sha256(json.dumps(tool_to_wire(self), sort_keys=True).encode()).hexdigest()[:16]


def tool_to_wire(tool: Tool) -> dict[str, Any]:
    """The definition as plain JSON, as kept in the registry. It holds what the file held, secrets included."""
    transport: dict[str, Any]
    if isinstance(tool.transport, StdioTransport):
        transport = {
            "type": "stdio",
            "command": tool.transport.command,
            "args": list(tool.transport.args),
            "env": dict(tool.transport.env),
            "cwd": tool.transport.cwd,
        }
    else:
        transport = {"type": "http", "url": tool.transport.url, "headers": dict(tool.transport.headers)}
    return {
        "id": tool.id,
        "transport": transport,
        "state": tool.state.value,
        "description": tool.description,
        "request_timeout": tool.request_timeout,
        "startup_timeout": tool.startup_timeout,
        "idle_timeout": tool.idle_timeout,
        "queue_max_length": tool.queue_max_length,
        "queue_max_age": tool.queue_max_age,
    }


def tool_from_wire(wire: Mapping[str, Any]) -> Tool:
    """Inverse of :func:`tool_to_wire`."""
    raw = dict(wire["transport"])
    transport: Transport
    if raw.pop("type") == "stdio":
        transport = StdioTransport(
            command=raw["command"], args=tuple(raw["args"]), env=raw["env"], cwd=raw["cwd"]
        )
    else:
        transport = HttpTransport(url=raw["url"], headers=raw["headers"])
    return Tool(
        id=ToolId(wire["id"]),
        transport=transport,
        state=ToolState(wire["state"]),
        description=wire["description"],
        request_timeout=wire["request_timeout"],
        startup_timeout=wire["startup_timeout"],
        idle_timeout=wire["idle_timeout"],
        queue_max_length=wire.get("queue_max_length", DEFAULT_QUEUE_MAX_LENGTH),
        queue_max_age=wire.get("queue_max_age", wire["request_timeout"]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredTool:
    """A tool as the registry holds it. ``version`` grows with each change of the definition."""

    tool: Tool
    version: int
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a tool offers, as its backend said it, page for page and byte for byte; or why that is not known.

    ``tool_version`` is the definition it was asked under. ``eras`` are those the backend speaks, newest
    revision of each. ``discovered_at`` and ``retry_at`` are milliseconds of Redis time; ``attempts`` counts
    failures in a row.
    """

    tool_version: int
    discovered_at: int
    eras: Mapping[str, str] = field(default_factory=dict)
    server_info: Mapping[str, Any] = field(default_factory=dict)
    server_capabilities: Mapping[str, Any] = field(default_factory=dict)
    instructions: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    error: str | None = None
    attempts: int = 0
    retry_at: int = 0


def capabilities_to_wire(capabilities: Capabilities) -> dict[str, Any]:
    """Capabilities as plain JSON."""
    return {
        "tool_version": capabilities.tool_version,
        "discovered_at": capabilities.discovered_at,
        "eras": dict(capabilities.eras),
        "server_info": dict(capabilities.server_info),
        "server_capabilities": dict(capabilities.server_capabilities),
        "instructions": capabilities.instructions,
        "tools": [dict(tool) for tool in capabilities.tools],
        "error": capabilities.error,
        "attempts": capabilities.attempts,
        "retry_at": capabilities.retry_at,
    }


def capabilities_from_wire(wire: Mapping[str, Any]) -> Capabilities:
    """Inverse of :func:`capabilities_to_wire`. What a newer writer has added is left out."""
    known = {field.name: wire[field.name] for field in fields(Capabilities) if field.name in wire}
    return Capabilities(**{**known, "tools": tuple(wire["tools"])})
