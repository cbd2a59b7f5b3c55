"""What the admin API is asked and answers; its OpenAPI document is made of these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, RootModel

from common.domain.audit import EventKind
from common.domain.ids import MAX_ID_LENGTH
from gateway_web.admin.paging import PageQuery


class Answer(BaseModel):
    """An answer; it has these members and no others."""

    model_config = ConfigDict(extra="forbid")


class Asked(BaseModel):
    """A request; unknown members are refused."""

    model_config = ConfigDict(extra="forbid")


# -- tools ------------------------------------------------------------------------------------------------


class ToolPath(Asked):
    """Which tool."""

    tool: str = Field(min_length=1, max_length=MAX_ID_LENGTH, description="Id of the tool.")


class Circuit(Answer):
    """A tool's circuit breaker."""

    state: Literal["closed", "open", "half_open"]
    failures: int = Field(description="Failures in a row.")
    tripped: bool = Field(description="Whether an operator opened it.")
    retry_after: float | None = Field(description="Seconds until it is tried again.")
    note: str | None


class ToolSummary(Answer):
    """A tool, and how it stands."""

    id: str
    version: int = Field(description="Version of its definition, which is its ETag too.")
    origin: str = Field(description="file, changed, runtime or discovered.")
    source: str = Field(default="", description="Who discovered it; empty if nobody did.")
    state: str
    draining: bool
    operator: dict[str, Any] = Field(description="What operators said of it.")
    health: dict[str, Any] | None
    circuit: Circuit
    sessions: int
    waiting: int
    in_flight: int
    transport: Literal["stdio", "http", "custom"]
    offers: list[str] | None = Field(description="Names of its MCP tools; null before it was asked.")
    lists: dict[str, int] = Field(description="How many of each kind it offers.")
    quarantined: list[dict[str, Any]]
    unapproved: list[list[str]] = Field(description="List and name of each item that waits for an approval.")
    flags: list[dict[str, Any]] = Field(description="What is conspicuous in its definitions.")
    eras: list[str]
    problem: str | None


class ToolDetail(ToolSummary):
    """A tool, how it stands, and its definition without secrets."""

    definition: dict[str, Any] = Field(description="As in the settings file; secrets are masked.")


class ToolPage(Answer):
    """A page of tools."""

    items: list[ToolSummary]
    next_cursor: str | None


class ToolDefinition(RootModel[dict[str, Any]]):
    """An entry of ``tools`` as in the settings file. A masked value stands for the one that the tool has."""


class ToolSchemas(Answer):
    """What a tool's backend offers, as it said it."""

    tools: list[dict[str, Any]]
    resources: list[dict[str, Any]]
    resource_templates: list[dict[str, Any]]
    prompts: list[dict[str, Any]]
    discovered_at: int | None = Field(
        description="Milliseconds of Redis time; null before the first discovery."
    )


class DefinitionHeaders(BaseModel):
    """Which version is changed."""

    if_match: str | None = Field(
        default=None, alias="If-Match", description='The ETag that was read, or "*".'
    )
    if_none_match: str | None = Field(
        default=None, alias="If-None-Match", description='"*": only if there is no such tool.'
    )


class PatchHeaders(BaseModel):
    """Which version is changed; a patch without it is made of whatever is the present one."""

    if_match: str | None = Field(
        default=None, alias="If-Match", description='The ETag that was read, or "*".'
    )


class PatchQuery(Asked):
    """What a patch may do."""

    change_transport: bool = Field(
        default=False, description="Let a command become a URL, or a URL a command."
    )


class Changed(Answer):
    """Whether a verb changed anything: said twice, it changes nothing the second time."""

    tool: str
    changed: bool


class Accepted(Answer):
    """What was asked for happens by and by."""

    tool: str
    accepted: bool = True


class DrainQuery(Asked):
    """How long to wait."""

    wait: float = Field(default=0.0, ge=0, le=60, description="Seconds to wait until nothing is left.")


class Drain(Answer):
    """What a tool still has."""

    tool: str
    sessions: int
    waiting: int
    in_flight: int
    drained: bool


class TripBody(Asked):
    """Why a circuit is opened."""

    reason: str = Field(min_length=1, max_length=500, description="Why, for other operators.")


# -- sessions ---------------------------------------------------------------------------------------------


class SessionQuery(PageQuery):
    """Which sessions."""

    tool: str | None = Field(default=None, max_length=MAX_ID_LENGTH)
    tenant: str | None = Field(default=None, max_length=MAX_ID_LENGTH)
    client: str | None = Field(default=None, max_length=MAX_ID_LENGTH)
    node: str | None = Field(default=None, max_length=MAX_ID_LENGTH)


class Session(Answer):
    """A tool session. Times are in seconds; what only its worker knows is null until it has told."""

    id: str = Field(description="By which it is closed.")
    tool: str
    session: str
    tenant: str | None
    client: str | None
    mcp_session: str | None
    node: str | None
    fence: int | None
    age: float | None
    idle: float | None = None
    in_flight: int | None = None
    pid: int | None = None
    version: str | None = None


class SessionPage(Answer):
    """A page of sessions."""

    items: list[Session]
    next_cursor: str | None


class SessionPath(Asked):
    """Which session."""

    session: str = Field(min_length=1, max_length=3000, description="Its `id`.")


class CloseQuery(Asked):
    """How it is closed."""

    force: bool = Field(default=False, description="At once, with the calls that run there.")


class Closed(Answer):
    """Whether a session is closed already, or will be when its calls have ended."""

    session: str
    closed: bool


# -- calls ------------------------------------------------------------------------------------------------


class CallQuery(PageQuery):
    """Which calls."""

    tool: str | None = Field(default=None, max_length=MAX_ID_LENGTH)
    tenant: str | None = Field(default=None, max_length=MAX_ID_LENGTH)
    client: str | None = Field(default=None, max_length=MAX_ID_LENGTH)
    state: Literal["waiting", "running"] | None = None


class CallModel(Answer):
    """A call that waits or runs. Times are in seconds."""

    id: str
    tool: str
    state: Literal["waiting", "running"]
    node: str
    tenant: str
    client: str
    mcp_session: str
    method: str
    attempt: int
    age: float
    left: float = Field(description="Until its deadline.")


class CallPage(Answer):
    """A page of calls."""

    items: list[CallModel]
    next_cursor: str | None


class CallPath(Asked):
    """Which call."""

    call: str = Field(min_length=1, max_length=MAX_ID_LENGTH, description="Its `id`.")


class Cancelled(Answer):
    """The call is taken back: it ends with INVOCATION_CANCELLED."""

    id: str
    tool: str


# -- the audit journal ------------------------------------------------------------------------------------


class AuditFilter(Asked):
    """Which events; without any: all."""

    tenant: str | None = Field(default=None, max_length=MAX_ID_LENGTH)
    tool: str | None = Field(default=None, max_length=MAX_ID_LENGTH)
    kind: list[EventKind] = Field(default=[], description="Of these kinds; repeat it for more.")


def _written(value: object) -> object:
    """A number is no time: it could be of seconds or of milliseconds."""
    if isinstance(value, str) and "T" not in value.upper():
        raise ValueError("must be a date and a time with its zone, as 2026-01-31T12:00:00Z")
    return value


class AuditQuery(AuditFilter, PageQuery):
    """Which events, and which page of them."""

    since: Annotated[AwareDatetime, BeforeValidator(_written)] | None = Field(
        default=None, description="Only those since then, as 2026-01-31T12:00:00Z."
    )


class StreamHeaders(BaseModel):
    """Behind which event a stream goes on."""

    last_event_id: str | None = Field(
        default=None, alias="Last-Event-ID", description="The id of the last event that was had."
    )


class AuditEntry(Answer):
    """An event; its fields are listed in docs/audit.md."""

    id: str
    time: str
    event: dict[str, str]


class AuditPage(Answer):
    """A page of events."""

    items: list[AuditEntry]
    next_cursor: str | None


# -- the cluster ------------------------------------------------------------------------------------------


class Status(Answer):
    """The gateway as a whole."""

    version: str
    ready: bool
    missing: list[str] = Field(description="What keeps calls from being served; empty: nothing.")
    redis: bool
    tools: int
    enabled: int
    open_circuits: int
    sessions: int
    waiting: int
    in_flight: int
    workers: int
    dead_letters: int


class Worker(Answer):
    """A worker's present incarnation."""

    node: str
    host: str
    lease: float = Field(description="Seconds until it counts as dead if it is not heard of.")
    sessions: int
    calls: int


class WorkerList(Answer):
    """All workers."""

    items: list[Worker]


class Queue(Answer):
    """A tool's queue."""

    queue: str
    tool: str
    waiting: int
    waiting_direct: int = Field(description="Waiting for the worker that owns their session.")
    in_flight: int
    age: float | None = Field(description="Seconds that the oldest has waited.")
    drained: float = Field(description="Calls a second that workers took, lately.")


class QueueList(Answer):
    """All queues."""

    items: list[Queue]


class Configuration(Answer):
    """The settings in force, without secrets."""

    settings: dict[str, Any]
