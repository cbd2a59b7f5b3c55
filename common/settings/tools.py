"""The ``tools`` of the file: each entry becomes a tool, or a problem that names what to mend.

One bad entry never keeps the others from starting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from common.domain.custom import CustomTransport
from common.domain.errors import InvalidRequest
from common.domain.ids import ToolId
from common.domain.rules import Affinity, CircuitRules, HealthRules, ProcessLimits, Retry, Routing
from common.domain.tool import (
    DEFAULT_POOL_SIZE,
    HttpTransport,
    StdioTransport,
    Tool,
    ToolState,
    Transport,
)
from common.settings import content
from common.settings.document import KeyPath
from common.settings.entry import (
    ENTRY_KEYS,
    KINDS,
    TYPES,
    AnyEntry,
    CustomEntry,
    StdioEntry,
    ToolEntry,
    own_keys,
)
from common.settings.model import RuntimeSettings, ToolProblem
from common.settings.problems import dotted, explain, shown, unknown_key

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


def read_entry(name: str, entry: Any) -> AnyEntry | list[ToolFault]:
    """The entry with each key and value checked, or all that is wrong with them.

    Whether they go together, with each other and with the ``runtime`` section, is not asked here.
    """
    path: KeyPath = ("tools", name)
    if not isinstance(entry, Mapping):
        return [(path, f"{dotted(path)} must be a mapping with command, url or factory")]
    faults = _unknown(entry, path)
    if not faults or any(key in entry for key in KINDS):
        # Whoever has misspelt `command` has not forgotten it as well.
        faults += _kind(entry, path)
    model = _model(entry)
    try:
        read = model.model_validate({key: entry[key] for key in model.model_fields if key in entry})
    except ValidationError as error:
        told = {at for at, _ in faults}
        found = (_fault(found["loc"], path, explain(found)) for found in error.errors())
        return faults + [fault for fault in found if fault[0] not in told]
    if isinstance(read, AnyEntry) and not faults:
        return read
    return faults


def _model(entry: Mapping[str, Any]) -> type[ToolEntry]:
    """The kind of the entry; what all kinds have, if that is all that can be said."""
    given = [model for key, model in KINDS.items() if key in entry]
    return given[0] if len(given) == 1 else ToolEntry


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
    if kind is not None and not any(kind in types for types in TYPES.values()):
        known = "stdio (command), http and streamable-http (url), custom (factory)"
        return [((*path, "type"), f"unknown type in {place}: supported are {known}")]
    given = [key for key in KINDS if key in entry]
    if len(given) != 1:
        fault = f"has both {given[0]} and {given[1]}" if given else "has neither command nor url nor factory"
        fix = "give command for a child process, url for an HTTP endpoint, or factory for a transport of your own"
        return [(path, f"{place} {fault}: {fix}")]
    faults: list[ToolFault] = [
        ((*path, key), f"{shown(key)} in {place} goes with {head}, not with {given[0]}")
        for head in KINDS
        for key in entry
        if key in own_keys(head) - own_keys(given[0])
    ]
    if kind is not None and kind not in TYPES[given[0]]:
        faults.append(((*path, "type"), f"type {kind} in {place} does not go with {given[0]}"))
    return faults


def _tool(name: str, entry: AnyEntry, runtime: RuntimeSettings) -> Tool:
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


def _transport(entry: AnyEntry) -> Transport:
    if isinstance(entry, CustomEntry):
        return CustomTransport(factory=entry.factory, options=entry.options)
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


def _limits(entry: AnyEntry) -> ProcessLimits:
    if not isinstance(entry, StdioEntry):
        return ProcessLimits()
    return ProcessLimits(
        open_files=entry.limit_open_files,
        processes=entry.limit_processes,
        file_bytes=entry.limit_file_bytes,
        memory_bytes=entry.limit_memory_bytes,
    )


def _either(own: T | None, common: T) -> T:
    return common if own is None else own
