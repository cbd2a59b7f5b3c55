"""The ``tools`` of the file: each entry becomes a tool, or a problem that names what to mend.

One bad entry never keeps the others from starting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from common.domain.errors import InvalidRequest
from common.domain.ids import ToolId
from common.domain.rules import Affinity, CircuitRules, HealthRules, ProcessLimits, Retry, Routing
from common.domain.tool import (
    DEFAULT_POOL_SIZE,
    HttpTransport,
    StdioTransport,
    Tool,
    ToolState,
)
from common.settings import content
from common.settings.document import KeyPath
from common.settings.entry import ENTRY_KEYS, HttpEntry, StdioEntry, ToolEntry
from common.settings.model import RuntimeSettings, ToolProblem
from common.settings.problems import dotted, explain, shown, unknown_key

HTTP_TYPES = ("http", "streamable-http")

T = TypeVar("T")

ToolFault = tuple[KeyPath, str]
"""The key path at fault in the file, and what is wrong with it."""


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


def read_tool(name: str, entry: Any, runtime: RuntimeSettings) -> Tool | list[ToolFault]:
    """One entry as a tool, or all that is wrong with it."""
    read = read_entry(name, entry)
    if isinstance(read, list):
        return read
    try:
        return _tool(name, read, runtime)
    except InvalidRequest as error:
        path: KeyPath = ("tools", name)
        # The domain's fields are spelled as the keys are, so the line of the key at fault is found.
        keys = str(error.data.get("field", "")).split(".")
        return [((*path, *keys), f"{dotted(path)}: {error.message}")]


def read_entry(name: str, entry: Any) -> StdioEntry | HttpEntry | list[ToolFault]:
    """The entry with each key and value checked, or all that is wrong with them.

    Whether they go together, with each other and with the ``runtime`` section, is not asked here.
    """
    path: KeyPath = ("tools", name)
    if not isinstance(entry, Mapping):
        return [(path, f"{dotted(path)} must be a mapping with command or url")]
    faults = _unknown(entry, path)
    if not faults or "command" in entry or "url" in entry:
        # Whoever has misspelt `command` has not forgotten it as well.
        faults += _kind(entry, path)
    model = _model(entry)
    try:
        read = model.model_validate({key: entry[key] for key in model.model_fields if key in entry})
    except ValidationError as error:
        told = {at for at, _ in faults}
        found = (_fault(found["loc"], path, explain(found)) for found in error.errors())
        return faults + [fault for fault in found if fault[0] not in told]
    if isinstance(read, StdioEntry | HttpEntry) and not faults:
        return read
    return faults


def _model(entry: Mapping[str, Any]) -> type[ToolEntry]:
    """The kind of the entry; what both kinds have, if that is all that can be said."""
    if ("command" in entry) == ("url" in entry):
        return ToolEntry
    return StdioEntry if "command" in entry else HttpEntry


def _fault(loc: tuple[str | int, ...], path: KeyPath, text: str) -> ToolFault:
    whole = (*path, *(part for part in loc if part != "[key]"))
    return whole, f"{dotted(whole)} {text}"


def _unknown(entry: Mapping[str, Any], path: KeyPath) -> list[ToolFault]:
    return [
        ((*path, str(key)), unknown_key((*path, str(key)), ENTRY_KEYS))
        for key in entry
        if key not in ENTRY_KEYS
    ]


def _kind(entry: Mapping[str, Any], path: KeyPath) -> list[ToolFault]:
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
    faults: list[ToolFault] = [
        ((*path, key), f"{shown(key)} in {place} goes with {wanted}, not with {given}")
        for key in entry
        if key in alien
    ]
    if kind is not None and (kind == "stdio") != (given == "command"):
        faults.append(((*path, "type"), f"type {kind} in {place} does not go with {given}"))
    return faults


def _tool(name: str, entry: StdioEntry | HttpEntry, runtime: RuntimeSettings) -> Tool:
    request_timeout = _either(entry.request_timeout, runtime.request_timeout)
    max_age = _either(entry.queue_max_age, runtime.queue_max_age)
    return Tool(
        id=ToolId(name),
        transport=_transport(entry),
        state=ToolState.ENABLED if entry.enabled else ToolState.DISABLED,
        description=entry.description,
        request_timeout=request_timeout,
        startup_timeout=_either(entry.startup_timeout, runtime.startup_timeout),
        idle_timeout=_idle_timeout(entry, runtime),
        queue_max_length=_either(entry.queue_max_length, runtime.queue_max_length),
        queue_max_age=_either(max_age, request_timeout),
        routing=Routing(entry.routing),
        affinity=Affinity(entry.affinity),
        pool_size=_pool_size(entry),
        retry=Retry(entry.retry),
        trust_annotations=entry.trust_annotations,
        required_scopes=entry.required_scopes,
        max_sessions=entry.max_sessions,
        max_in_flight=entry.max_in_flight,
        max_in_flight_per_session=entry.max_in_flight_per_session,
        max_session_age=entry.max_session_age,
        input_timeout=entry.input_timeout,
        requests_per_minute=entry.requests_per_minute,
        burst=entry.burst,
        circuit=_circuit(entry, runtime),
        health=_health(entry, runtime),
        limits=_limits(entry),
        credentials=None if entry.credentials is None else entry.credentials.rules(),
        content=content.rules_of(entry, runtime),
    )


def _transport(entry: StdioEntry | HttpEntry) -> StdioTransport | HttpTransport:
    if isinstance(entry, StdioEntry):
        return StdioTransport(command=entry.command, args=entry.args, env=entry.env, cwd=entry.cwd)
    return HttpTransport(url=entry.url, headers=entry.headers, tls=entry.tls_rules())


def _idle_timeout(entry: ToolEntry, runtime: RuntimeSettings) -> float:
    """An inherited one gives way to the tool's own greatest age; one that the tool sets itself must fit it."""
    if entry.idle_timeout is None and entry.max_session_age is not None:
        return min(runtime.idle_timeout, entry.max_session_age)
    return _either(entry.idle_timeout, runtime.idle_timeout)


def _pool_size(entry: ToolEntry) -> int:
    if entry.pool_size is not None and Routing(entry.routing) is Routing.STICKY:
        raise InvalidRequest(
            "pool_size goes with routing: least_loaded; a sticky session is its caller's own",
            field="pool_size",
        )
    return _either(entry.pool_size, DEFAULT_POOL_SIZE)


def _circuit(entry: ToolEntry, runtime: RuntimeSettings) -> CircuitRules:
    return CircuitRules(
        failures=_either(entry.circuit_failures, runtime.circuit_failures),
        open_for=_either(entry.circuit_open_for, runtime.circuit_open_for),
        probes=_either(entry.circuit_probes, runtime.circuit_probes),
    )


def _health(entry: ToolEntry, runtime: RuntimeSettings) -> HealthRules:
    return HealthRules(
        interval=_either(entry.health_interval, runtime.health_interval),
        timeout=_either(entry.health_timeout, runtime.health_timeout),
        degraded_after=_either(entry.health_degraded_after, runtime.health_degraded_after),
    )


def _limits(entry: StdioEntry | HttpEntry) -> ProcessLimits:
    if isinstance(entry, HttpEntry):
        return ProcessLimits()
    return ProcessLimits(
        open_files=entry.limit_open_files,
        processes=entry.limit_processes,
        file_bytes=entry.limit_file_bytes,
        memory_bytes=entry.limit_memory_bytes,
    )


def _either(own: T | None, common: T) -> T:
    return common if own is None else own
