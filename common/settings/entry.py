"""An entry of the file's ``tools``: its keys, each with its values and what it means."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, Field, WithJsonSchema

from common.domain.tool import (
    DEFAULT_INPUT_TIMEOUT,
    DEFAULT_POOL_SIZE,
)
from common.settings import content
from common.settings.fields import (
    Calls,
    Failures,
    LimitBytes,
    LimitFiles,
    LimitProcesses,
    Plugin,
    PoolSize,
    Scopes,
    Seconds,
    SecondsOrZero,
    Sessions,
    checked_header_name,
    checked_http_url,
)
from common.settings.rates import RateSettings
from common.settings.tls import BackendTlsKeys
from common.settings.tool_credentials import ToolCredentials


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    return value


def _command(value: str) -> str:
    if not value.strip():
        raise ValueError("must name a program")
    return _no_nul(value)


def _variables(values: dict[str, str]) -> dict[str, str]:
    if any(not name or "=" in name or "\0" in name for name in values):
        raise ValueError("must map names of environment variables (not empty, without '=') to text")
    return values


def _headers(values: dict[str, str]) -> dict[str, str]:
    for name, value in values.items():
        checked_header_name(name)
        if value != value.strip(" \t") or any(character in value for character in "\r\n\0"):
            raise ValueError("must hold values without line breaks and without spaces around them")
    return values


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it: the registry keeps it so. A date, for one, is to be written with quotes."""
    try:
        json.dumps(value, allow_nan=False)  # a date is none, nor is NaN
        plain: dict[str, Any] = orjson.loads(orjson.dumps(value))
    except (TypeError, ValueError):
        raise ValueError(
            "must hold what JSON can: text, numbers, true, false, null, lists, mappings"
        ) from None
    return plain


_Text = Annotated[str, AfterValidator(_no_nul)]


class ToolEntry(RateSettings):
    """What all kinds of tool have. A key that the `runtime` section has too comes from there if it is absent."""

    description: str = Field(default="", description="What the tool is for, for people.")
    request_timeout: Seconds | None = Field(
        default=None, description="Longest time from a call's acceptance to its answer."
    )
    startup_timeout: Seconds | None = Field(
        default=None, description="Longest way to a usable session with this tool."
    )
    idle_timeout: Seconds | None = Field(default=None, description="How long an idle session is kept.")
    queue_max_length: Calls | None = Field(
        default=None,
        description="Most calls that may wait for any worker, and for each that owns sessions; one more is refused.",
    )
    queue_max_age: Seconds | None = Field(
        default=None,
        description="Calls are refused while the oldest one has waited longer; absent everywhere: `request_timeout`.",
    )
    routing: Literal["sticky", "least_loaded"] = Field(
        default="sticky",
        description=(
            "sticky: each caller has a session of its own. least_loaded: all share `pool_size` sessions, and "
            "a call goes to the one with the fewest; for tools without state."
        ),
    )
    affinity: Literal["client", "mcp_session"] = Field(
        default="client",
        description=(
            "Whose session a sticky one is: the client's, or that of each of its MCP sessions. What comes without "
            "an MCP session (MCP 2026-07-28, Celery) shares the client's."
        ),
    )
    pool_size: PoolSize | None = Field(
        default=None,
        description=f"Sessions that all callers share, with routing least_loaded; absent: {DEFAULT_POOL_SIZE}.",
    )
    retry: Literal["never", "unsent", "safe"] = Field(
        default="unsent",
        description=(
            "When a call whose connection broke is sent again. unsent: if certainly no byte of it was sent. "
            "safe: always, since running it twice does no harm."
        ),
    )
    trust_annotations: bool = Field(
        default=False,
        description="True takes `readOnlyHint` and `idempotentHint` of the backend for `retry: safe`.",
    )
    required_scopes: Scopes = Field(
        default=(),
        description="Scopes that a caller must have for any call, beside identity.required_scopes.",
    )
    max_sessions: Sessions | None = Field(
        default=None,
        description="Most sessions with the tool in the whole cluster; one more is refused. Absent: any number.",
    )
    max_in_flight: Calls | None = Field(
        default=None,
        description="Most calls at a time in the whole cluster; the others wait in the queue. Absent: any number.",
    )
    max_in_flight_per_session: Calls | None = Field(
        default=None, description="Most calls at a time on one session; the others wait. Absent: any number."
    )
    max_session_age: Seconds | None = Field(
        default=None, description="Age from which a session is given no further call. Absent: any age."
    )
    input_timeout: Seconds = Field(
        default=DEFAULT_INPUT_TIMEOUT,
        description="How long a client has for each answer to what the tool asks it during a call, "
        "whose own time stands still meanwhile.",
    )
    circuit_failures: Failures | None = Field(
        default=None, description="Failures in a row after which the circuit opens."
    )
    circuit_open_for: Seconds | None = Field(
        default=None, description="How long the open circuit refuses calls before it lets some try."
    )
    circuit_probes: Calls | None = Field(
        default=None,
        description="Most calls at a time, in the whole cluster, that try whether the tool works again.",
    )
    health_interval: SecondsOrZero | None = Field(
        default=None, description="Time between two probes; 0: the tool is not probed."
    )
    health_timeout: Seconds | None = Field(
        default=None, description="Longest wait for the answer to a probe; beyond it the tool is unavailable."
    )
    health_degraded_after: Seconds | None = Field(
        default=None, description="A tool that takes this long to answer a probe, or longer, is degraded."
    )
    credentials: ToolCredentials | None = Field(
        default=None,
        description="Secrets its sessions are given: `mode`, `scope`, `providers`, `inject`. Absent: none.",
    )
    pinning: content.PinningWord | None = Field(default=None, description=content.PINNING_TEXT)
    approve_first: bool | None = Field(default=None, description=content.APPROVE_FIRST_TEXT)
    hidden_characters: content.HiddenWord | None = Field(default=None, description=content.HIDDEN_TEXT)
    enabled: bool = Field(
        default=True,
        description="False switches the tool off, unless an operator has switched it on while the gateway runs.",
    )


class StdioEntry(ToolEntry):
    """A tool that runs as a child process and speaks MCP on its standard streams."""

    command: Annotated[str, AfterValidator(_command)] = Field(
        description="Program to run, looked up on PATH."
    )
    args: tuple[_Text, ...] = Field(default=(), description="Its arguments.")
    env: Annotated[dict[str, _Text], AfterValidator(_variables)] = Field(
        default_factory=dict, description="Environment variables it gets beside a minimal base."
    )
    cwd: _Text | None = Field(default=None, description="Directory it runs in; absent: the worker's own.")
    limit_open_files: LimitFiles | None = Field(
        default=None, description="Most files that each of its processes may have open (RLIMIT_NOFILE)."
    )
    limit_processes: LimitProcesses | None = Field(
        default=None,
        description="Most processes of the worker's user (RLIMIT_NPROC); it does not bind root.",
    )
    limit_file_bytes: LimitBytes | None = Field(
        default=None, description="Largest file that each of its processes may write (RLIMIT_FSIZE)."
    )
    limit_memory_bytes: LimitBytes | None = Field(
        default=None, description="Largest address space of each of its processes (RLIMIT_AS)."
    )
    type: Literal["stdio"] = Field(default="stdio", description="May be left out.")


class HttpEntry(BackendTlsKeys, ToolEntry):
    """A tool behind an MCP endpoint over Streamable HTTP."""

    url: Annotated[str, AfterValidator(checked_http_url)] = Field(
        description="The endpoint, http:// or https://."
    )
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = Field(
        default_factory=dict, description="Headers sent with every request."
    )
    type: Literal["http", "streamable-http"] = Field(
        default="http", description="May be left out; both words mean the same."
    )


class CustomEntry(ToolEntry):
    """A tool that is reached by a transport of your own (plugins.md)."""

    factory: Plugin = Field(
        description="What opens its sessions: a class as package.module:Class, or the name of an entry point in "
        "canalgate.executors."
    )
    options: Annotated[dict[str, Any], AfterValidator(_plain), WithJsonSchema({"type": "object"})] = Field(
        default_factory=dict, description="What the factory wants to know.", repr=False
    )
    type: Literal["custom"] = Field(default="custom", description="May be left out.")


AnyEntry = StdioEntry | HttpEntry | CustomEntry

KINDS: Mapping[str, type[AnyEntry]] = {"command": StdioEntry, "url": HttpEntry, "factory": CustomEntry}
"""By the key that only they have, and must have."""
TYPES: Mapping[str, Sequence[str]] = {
    "command": ("stdio",),
    "url": ("http", "streamable-http"),
    "factory": ("custom",),
}
"""What ``type`` may say beside that key."""
ENTRY_KEYS: tuple[str, ...] = tuple(
    dict.fromkeys(key for model in KINDS.values() for key in model.model_fields)
)


def own_keys(kind: str) -> frozenset[str]:
    """The keys that this kind has beside those of all tools."""
    return frozenset(KINDS[kind].model_fields) - set(ToolEntry.model_fields) - {"type"}
