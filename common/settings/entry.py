"""The ``tools`` of the file: each entry becomes a tool, or a problem that names what to mend.

One bad entry never keeps the others from starting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from common.domain.errors import InvalidRequest
from common.domain.ids import ToolId
from common.domain.tool import HttpTransport, StdioTransport, Tool, ToolState
from common.settings.document import KeyPath
from common.settings.fields import Calls, Seconds, checked_header_name, checked_http_url
from common.settings.model import RuntimeSettings, Section, ToolProblem
from common.settings.problems import dotted, explain, shown, unknown_key

HTTP_TYPES = ("http", "streamable-http")


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


_Text = Annotated[str, AfterValidator(_no_nul)]


class ToolEntry(Section):
    """What both kinds of tool have. A timeout that is absent comes from the `runtime` section."""

    description: str = Field(default="", description="What the tool is for, for people.")
    request_timeout: Seconds | None = Field(
        default=None, description="Longest time from a call's acceptance to its answer."
    )
    startup_timeout: Seconds | None = Field(
        default=None, description="Longest way to a usable session with this tool."
    )
    idle_timeout: Seconds | None = Field(default=None, description="How long an idle session is kept.")
    queue_max_length: Calls | None = Field(
        default=None, description="Most calls that may wait for a worker; one more is refused."
    )
    queue_max_age: Seconds | None = Field(
        default=None,
        description="Calls are refused while the oldest one has waited longer; absent everywhere: `request_timeout`.",
    )
    enabled: bool = Field(default=True, description="False switches the tool off.")


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
    type: Literal["stdio"] = Field(default="stdio", description="May be left out.")


class HttpEntry(ToolEntry):
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


T = TypeVar("T")

ENTRY_KEYS: tuple[str, ...] = tuple(dict.fromkeys([*StdioEntry.model_fields, *HttpEntry.model_fields]))


def read_tools(
    entries: Mapping[str, Any],
    runtime: RuntimeSettings,
    *,
    where: Callable[[KeyPath], str] = lambda _path: "",
) -> tuple[tuple[Tool, ...], tuple[ToolProblem, ...]]:
    """Turn entries into tools; ``where`` names the place of a key path for the messages."""
    tools: list[Tool] = []
    problems: list[ToolProblem] = []
    for name, entry in entries.items():
        found = read_tool(str(name), entry, runtime)
        if isinstance(found, Tool):
            tools.append(found)
            continue
        messages = [f"{place}: {text}" if (place := where(path)) else text for path, text in found]
        problems.append(ToolProblem(id=str(name), message="; ".join(messages)))
    return tuple(tools), tuple(problems)


def read_tool(name: str, entry: Any, runtime: RuntimeSettings) -> Tool | list[tuple[KeyPath, str]]:
    """One entry as a tool, or the key paths at fault with what is wrong with each."""
    path: KeyPath = ("tools", name)
    if not isinstance(entry, Mapping):
        return [(path, f"{dotted(path)} must be a mapping with command or url")]
    faults = _unknown(entry, path) or _kind(entry, path)
    if faults:
        return faults
    model = StdioEntry if "command" in entry else HttpEntry
    try:
        return _tool(name, model.model_validate(dict(entry)), runtime)
    except ValidationError as error:
        return [_fault(found["loc"], path, explain(found)) for found in error.errors()]
    except InvalidRequest as error:
        return [(path, f"{dotted(path)}: {error.message}")]


def _fault(loc: tuple[str | int, ...], path: KeyPath, text: str) -> tuple[KeyPath, str]:
    whole = (*path, *(part for part in loc if part != "[key]"))
    return whole, f"{dotted(whole)} {text}"


def _unknown(entry: Mapping[str, Any], path: KeyPath) -> list[tuple[KeyPath, str]]:
    return [
        ((*path, str(key)), unknown_key((*path, str(key)), ENTRY_KEYS))
        for key in entry
        if key not in ENTRY_KEYS
    ]


def _kind(entry: Mapping[str, Any], path: KeyPath) -> list[tuple[KeyPath, str]]:
    """What keeps the entry from being of exactly one supported kind."""
    place = dotted(path)
    kind = entry.get("type")
    if kind == "sse":
        fix = "give the server's Streamable HTTP endpoint (type: http), or a command"
        return [((*path, "type"), f"type sse in {place} is not supported by the gateway: {fix}")]
    if kind not in (None, "stdio", *HTTP_TYPES):
        return [
            (
                (*path, "type"),
                f"unknown type in {place}: supported are stdio (command), http and streamable-http (url)",
            )
        ]
    if ("command" in entry) == ("url" in entry):
        fault = "has both command and url" if "command" in entry else "has neither command nor url"
        return [(path, f"{place} {fault}: give command for a child process, or url for an HTTP endpoint")]
    wanted, given = ("command", "url") if "url" in entry else ("url", "command")
    alien = set((HttpEntry if given == "command" else StdioEntry).model_fields) - set(ToolEntry.model_fields)
    alien -= set((StdioEntry if given == "command" else HttpEntry).model_fields)
    faults: list[tuple[KeyPath, str]] = [
        ((*path, key), f"{shown(key)} in {place} goes with {wanted}, not with {given}")
        for key in entry
        if key in alien
    ]
    if kind is not None and (kind == "stdio") != (given == "command"):
        faults.append(((*path, "type"), f"type {kind} in {place} does not go with {given}"))
    return faults


def _tool(name: str, entry: StdioEntry | HttpEntry, runtime: RuntimeSettings) -> Tool:
    transport: StdioTransport | HttpTransport
    if isinstance(entry, StdioEntry):
        transport = StdioTransport(command=entry.command, args=entry.args, env=entry.env, cwd=entry.cwd)
    else:
        transport = HttpTransport(url=entry.url, headers=entry.headers)
    request_timeout = _either(entry.request_timeout, runtime.request_timeout)
    max_age = _either(entry.queue_max_age, runtime.queue_max_age)
    return Tool(
        id=ToolId(name),
        transport=transport,
        state=ToolState.ENABLED if entry.enabled else ToolState.DISABLED,
        description=entry.description,
        request_timeout=request_timeout,
        startup_timeout=_either(entry.startup_timeout, runtime.startup_timeout),
        idle_timeout=_either(entry.idle_timeout, runtime.idle_timeout),
        queue_max_length=_either(entry.queue_max_length, runtime.queue_max_length),
        queue_max_age=_either(max_age, request_timeout),
    )


def _either(own: T | None, common: T) -> T:
    return common if own is None else own
