"""A tool: one registered backend MCP server, and what is known of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from common.domain.content_rules import ContentRules, content_rules_from_wire, content_rules_to_wire
from common.domain.credential_rules import (
    CredentialRules,
    TransportKind,
    check_goes_with,
    credentials_from_wire,
    credentials_to_wire,
)
from common.domain.custom import CustomTransport, custom_from_wire, custom_to_wire
from common.domain.errors import InvalidRequest
from common.domain.ids import ToolId, checked_id
from common.domain.limits import Rate, check_rate
from common.domain.rules import (
    Affinity,
    CircuitRules,
    HealthRules,
    ProcessLimits,
    Retry,
    Routing,
    check_count,
    check_seconds,
    choice,
    rules_from_wire,
)
from common.domain.tls import PLAIN_TLS, TlsRules

DEFAULT_REQUEST_TIMEOUT = 30.0
DEFAULT_STARTUP_TIMEOUT = 20.0
DEFAULT_IDLE_TIMEOUT = 300.0
DEFAULT_INPUT_TIMEOUT = 300.0
DEFAULT_QUEUE_MAX_LENGTH = 10_000
MAX_QUEUE_LENGTH = 1_000_000
MAX_TIMEOUT = 24 * 3600.0
DEFAULT_POOL_SIZE = 4
MAX_POOL_SIZE = 256
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
    CHANGED = "changed"
    """The file's, but its transport was changed at run time: trusted no more than a tool of run time."""
    RUNTIME = "runtime"
    DISCOVERED = "discovered"
    """A source named it (``RegisteredTool.source``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioTransport:
    """A child process that speaks MCP on its standard streams. ``env`` is all it gets beside a minimal base."""

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTransport:
    """An MCP endpoint over Streamable HTTP. ``headers`` are sent with every request.

    ``local`` says that it may be on this machine or in a private network: the operator's own settings file names it.
    ``discovered`` says that a source names it. They are no part of the definition: the registry knows where a tool
    comes from.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: TlsRules = PLAIN_TLS
    local: bool = field(default=True, compare=False)
    discovered: bool = field(default=False, compare=False)

    @property
    def host(self) -> str:
        """The host in the URL, without brackets; empty if there is none."""
        try:
            return urlsplit(self.url).hostname or ""
        except ValueError:
            return ""


Transport = StdioTransport | HttpTransport | CustomTransport


def kind_of(transport: Transport) -> TransportKind:
    """Its name in words."""
    if isinstance(transport, CustomTransport):
        return "custom"
    return "stdio" if isinstance(transport, StdioTransport) else "http"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """The definition of a tool. All timeouts are in seconds.

    ``request_timeout`` bounds one call from acceptance to answer, ``startup_timeout`` the way to a usable
    session, ``idle_timeout`` how long a session without calls is kept. ``queue_max_length`` and ``queue_max_age``
    bound what waits for a worker: the number of calls, and how long the oldest of them has waited.

    ``max_sessions`` bounds the tool's sessions in the whole cluster; reaching it refuses new sessions, never calls
    of one that lives. ``max_in_flight`` bounds the calls that workers hold at a time in the whole cluster, the
    others wait in the queue; ``max_in_flight_per_session`` those that one session is given at a time. A session
    older than ``max_session_age`` is given no further call. None: no bound.

    ``requests_per_minute`` bounds the calls of all tenants together, ``burst`` how many of them may come at once (None:
    as many as in a minute); one more is refused.

    ``required_scopes`` are those that a caller must have for any call of the tool.

    ``trust_annotations`` takes the backend's ``readOnlyHint`` and ``idempotentHint`` for an operator's
    ``retry: safe`` on that capability.

    ``credentials`` says which secrets its sessions are given; None: none beside what the transport holds.
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
    routing: Routing = Routing.STICKY
    affinity: Affinity = Affinity.CLIENT
    pool_size: int = DEFAULT_POOL_SIZE
    retry: Retry = Retry.UNSENT
    trust_annotations: bool = False
    required_scopes: tuple[str, ...] = ()
    max_sessions: int | None = None
    max_in_flight: int | None = None
    max_in_flight_per_session: int | None = None
    max_session_age: float | None = None
    requests_per_minute: int | None = None
    burst: int | None = None
    input_timeout: float = DEFAULT_INPUT_TIMEOUT
    circuit: CircuitRules = field(default_factory=CircuitRules)
    health: HealthRules = field(default_factory=HealthRules)
    limits: ProcessLimits = field(default_factory=ProcessLimits)
    credentials: CredentialRules | None = None
    content: ContentRules = field(default_factory=ContentRules)

    def __post_init__(self) -> None:
        checked_id(self.id, field="id")
        if isinstance(self.transport, StdioTransport) and not self.transport.command:
            raise InvalidRequest("command must not be empty", field="command")
        if isinstance(self.transport, HttpTransport) and not self.transport.url.startswith(
            ("http://", "https://")
        ):
            raise InvalidRequest("url must begin with http:// or https://", field="url")
        if (
            isinstance(self.transport, HttpTransport)
            and self.transport.tls != PLAIN_TLS
            and not self.transport.url.startswith("https://")
        ):
            raise InvalidRequest("tls_* keys go with a url of https://", field="url")
        if not 0 < self.queue_max_length <= MAX_QUEUE_LENGTH:
            raise InvalidRequest(
                f"queue_max_length must be above 0 and at most {MAX_QUEUE_LENGTH}", field="queue_max_length"
            )
        for name in ("request_timeout", "startup_timeout", "idle_timeout", "queue_max_age", "input_timeout"):
            value = getattr(self, name)
            if not 0 < value <= MAX_TIMEOUT:
                raise InvalidRequest(
                    f"{name} must be above 0 and at most {MAX_TIMEOUT:.0f} seconds", field=name
                )
        self._check_bounds()
        if self.credentials is not None:
            check_goes_with(self.credentials, self.routing, kind_of(self.transport))
        self._check_text()

    def _check_bounds(self) -> None:
        """Bounds in their range, and no two settings that contradict each other."""
        for name in ("max_sessions", "max_in_flight", "max_in_flight_per_session"):
            if (value := getattr(self, name)) is not None:
                check_count(name, value)
        check_rate(self.requests_per_minute, self.burst)
        if not 0 < self.pool_size <= MAX_POOL_SIZE:
            raise InvalidRequest(f"pool_size must be from 1 to {MAX_POOL_SIZE}", field="pool_size")
        if self.max_session_age is not None:
            check_seconds("max_session_age", self.max_session_age)
            if self.idle_timeout > self.max_session_age:
                raise InvalidRequest(
                    f"idle_timeout ({self.idle_timeout:g} s) must not be above max_session_age "
                    f"({self.max_session_age:g} s): no session would ever be idle for so long",
                    field="idle_timeout",
                )
        if self.routing is Routing.LEAST_LOADED:
            self._check_pool()

    def _check_pool(self) -> None:
        if self.affinity is not Affinity.CLIENT:
            raise InvalidRequest(
                "affinity goes with routing: sticky; the sessions of least_loaded are everybody's",
                field="affinity",
            )
        if self.max_sessions is not None and self.max_sessions < self.pool_size:
            raise InvalidRequest(
                f"max_sessions ({self.max_sessions}) must not be below pool_size ({self.pool_size})",
                field="max_sessions",
            )

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
        """Whether the definition lets the tool be called; an operator's word (``Entry.enabled``) goes before it."""
        return self.state is not ToolState.DISABLED

    @property
    def rate(self) -> Rate | None:
        """How many calls of it are taken; None: any number."""
        return Rate.maybe(self.requests_per_minute, self.burst)

    def with_state(self, state: ToolState) -> Tool:
        """The same tool in another state."""
        return replace(self, state=state)

    def digest(self) -> str:
        """A fingerprint of the definition, by which a changed one is recognised."""
        return hashlib.sha256(json.dumps(tool_to_wire(self), sort_keys=True).encode()).hexdigest()[:16]


_PLAIN = (
    *("pool_size", "trust_annotations", "max_sessions", "max_in_flight"),
    *("max_in_flight_per_session", "max_session_age", "input_timeout", "requests_per_minute", "burst"),
)
_RULES = ("circuit", "health", "limits")


def tool_to_wire(tool: Tool) -> dict[str, Any]:
    """The definition as plain JSON, as kept in the registry. It holds what the file held, secrets included."""
    transport: dict[str, Any]
    if isinstance(tool.transport, CustomTransport):
        transport = custom_to_wire(tool.transport)
    elif isinstance(tool.transport, StdioTransport):
        transport = {
            "type": "stdio",
            "command": tool.transport.command,
            "args": list(tool.transport.args),
            "env": dict(tool.transport.env),
            "cwd": tool.transport.cwd,
        }
    else:
        transport = {"type": "http", "url": tool.transport.url, "headers": dict(tool.transport.headers)}
        if tool.transport.tls != PLAIN_TLS:
            transport["tls"] = asdict(tool.transport.tls)
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
        "routing": tool.routing.value,
        "affinity": tool.affinity.value,
        "retry": tool.retry.value,
        **{name: getattr(tool, name) for name in _PLAIN},
        "required_scopes": list(tool.required_scopes),
        **{name: asdict(getattr(tool, name)) for name in _RULES},
        "credentials": credentials_to_wire(tool.credentials),
        "content": content_rules_to_wire(tool.content),
    }


def tool_from_wire(wire: Mapping[str, Any]) -> Tool:
    """Inverse of :func:`tool_to_wire`."""
    raw = dict(wire["transport"])
    transport: Transport
    kind = raw.pop("type")
    if kind == "custom":
        transport = custom_from_wire(raw)
    elif kind == "stdio":
        transport = StdioTransport(
            command=raw["command"], args=tuple(raw["args"]), env=raw["env"], cwd=raw["cwd"]
        )
    else:
        transport = HttpTransport(url=raw["url"], headers=raw["headers"], tls=TlsRules(**raw.get("tls", {})))
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
        routing=choice(Routing, wire.get("routing", Routing.STICKY), field="routing"),
        affinity=choice(Affinity, wire.get("affinity", Affinity.CLIENT), field="affinity"),
        retry=choice(Retry, wire.get("retry", Retry.UNSENT), field="retry"),
        circuit=rules_from_wire(CircuitRules, wire.get("circuit", {})),
        health=rules_from_wire(HealthRules, wire.get("health", {})),
        limits=rules_from_wire(ProcessLimits, wire.get("limits", {})),
        credentials=credentials_from_wire(wire.get("credentials")),
        content=content_rules_from_wire(wire.get("content", {})),
        required_scopes=tuple(wire.get("required_scopes", ())),
        **{name: wire[name] for name in _PLAIN if name in wire},
    )


def changed_fields(before: Tool, after: Tool) -> tuple[str, ...]:
    """The names of the fields in which two definitions differ, without what is in them."""
    return tuple(
        field.name for field in fields(Tool) if getattr(before, field.name) != getattr(after, field.name)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredTool:
    """A tool as the registry holds it.

    ``version`` grows with each change of the definition; ``digest`` tells one definition from another, also where
    versions began anew since the registry was lost. ``source`` names who discovered it, if somebody did.
    """

    tool: Tool
    version: int
    digest: str
    origin: Origin
    source: str = ""
