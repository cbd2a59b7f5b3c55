"""Applying a file to the gateway that runs: what it says of tools and tenants, and only what is different.

Everything is planned from what stands in Redis, each change at the version that was read. Who changes the same thing
meanwhile wins: it is left as it is, and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from common.domain.errors import InvalidRequest, ToolNotFound, VersionConflict
from common.domain.ids import TenantId, ToolId
from common.domain.quota import Layer, layer_to_wire
from common.domain.tool import Origin, RegisteredTool, Tool, changed_fields
from common.mcp.naming import clash
from common.registry.lifecycle import Lifecycle
from common.registry.records import Entry
from common.registry.registry import ABSENT, Registry
from common.settings import Settings
from common.store.client import Client
from common.store.keys import Keys
from common.tenants.records import ABSENT as NO_RECORD
from common.tenants.records import TenantRecord, TenantRecords


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStep:
    """A tool that is to be registered or changed (``wanted``), or to go (None). ``found`` is what was read."""

    id: ToolId
    wanted: Tool | None
    found: RegisteredTool | None
    retiring: bool = False

    @property
    def verb(self) -> str:
        """create, change or remove."""
        return "remove" if self.wanted is None else "create" if self.found is None else "change"


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantStep:
    """What is to be set for a tenant (``wanted``), or to be forgotten (None). ``found`` is what was read."""

    id: TenantId
    wanted: Layer | None
    found: TenantRecord | None

    @property
    def verb(self) -> str:
        """create, change or remove."""
        return "remove" if self.wanted is None else "create" if self.found is None else "change"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyPlan:
    """What applying does, in this order. ``refused`` are tools that only their own file can change, by why."""

    own: bool
    tools: tuple[ToolStep, ...] = ()
    tenants: tuple[TenantStep, ...] = ()
    unchanged: int = 0
    refused: dict[ToolId, str] = field(default_factory=dict)

    @property
    def nothing(self) -> bool:
        """Whether all is so already."""
        return not (self.tools or self.tenants)


class Applying:
    """Fails closed: without Redis each method raises ``StoreUnavailable``."""

    def __init__(self, client: Client, keys: Keys, settings: Settings) -> None:
        """``settings`` are those of the gateway: its rules say what may be registered at run time."""
        self._registry = Registry(client, keys, settings.egress.rules)
        self._lifecycle = Lifecycle(client, keys)
        self._records = TenantRecords(client, keys)
        self._settings = settings

    def plan(self, wanted: Settings, *, own: bool, prune: bool = False) -> ApplyPlan:
        """What the settings in a file make of what there is. Changes nothing.

        ``own`` says that it is the gateway's own file: its tools are the operator's, whatever may be registered at run
        time, and those that it has no more retire. Any other file registers as ``canalgate tools add`` does, sets
        tenants, and leaves what it does not name, but with ``prune``; the tools of the gateway's file it never touches.

        Raises :class:`InvalidRequest` that names the first entry at fault: nothing of the file can be done then.
        """
        entries = {entry.id: entry for entry in self._registry.entries()}
        named = {tool.id for tool in wanted.tools}
        tools, refused, unchanged = [], {}, 0
        for tool in wanted.tools:
            entry = entries.get(tool.id)
            found = None if entry is None else entry.registered
            retiring = entry is not None and entry.operator.retiring
            if found is not None and found.tool == tool and _belongs(found, own=own) and not retiring:
                unchanged += 1
            elif not own and found is not None and found.origin is Origin.FILE:
                refused[tool.id] = "it is of the gateway's own settings file: change it there"
            else:
                tools.append(ToolStep(id=tool.id, wanted=tool, found=found, retiring=retiring))
        self._check(tools, entries, own=own)
        gone = [
            entry
            for name, entry in entries.items()
            if name not in named and _goes(entry, own=own, prune=prune)
        ]
        tools += [ToolStep(id=entry.id, wanted=None, found=entry.registered) for entry in gone]
        tenants = [] if own else self._tenants(wanted, prune=prune)
        return ApplyPlan(
            own=own, tools=tuple(tools), tenants=tuple(tenants), unchanged=unchanged, refused=refused
        )

    def apply(self, plan: ApplyPlan, *, actor: str) -> None:
        """Do what was planned.

        Raises :class:`VersionConflict` in the end if others changed some of it meanwhile: its ``conflicts`` names that,
        which was left as it is; all else is done.
        """
        steps: list[tuple[str, Callable[[], object]]] = [
            *((f"tool {step.id}", partial(self._tool, step, actor, own=plan.own)) for step in plan.tools),
            *((f"tenant {step.id}", partial(self._tenant, step, actor)) for step in plan.tenants),
        ]
        conflicts = [name for name, step in steps if not _done(step)]
        if conflicts:
            raise VersionConflict(
                f"others changed {', '.join(conflicts)} meanwhile, which stays as they left it; the rest is done: "
                "look at the difference and apply again",
                conflicts=conflicts,
            )

    def _tool(self, step: ToolStep, actor: str, *, own: bool) -> None:
        found = step.found
        if step.wanted is None:
            if own:
                self._retire(step, actor)
            elif found is not None:
                self._registry.remove(step.id, expected=found.version, actor=actor)
            return
        if step.retiring:
            # Before it has a new version: else a process may remove that one (common/registry/retirement.py).
            self._lifecycle.keep(step.id, actor=actor)
        self._registry.put(
            step.wanted,
            origin=Origin.FILE if own else Origin.RUNTIME,
            expected=ABSENT if found is None else found.version,
            actor=actor,
            changed=() if found is None else changed_fields(found.tool, step.wanted),
        )

    def _retire(self, step: ToolStep, actor: str) -> None:
        now = self._registry.get(step.id).registered
        if step.found is not None and now.version != step.found.version:
            raise VersionConflict(f"tool {step.id!r} was changed", version=now.version)
        self._lifecycle.retire(step.id, actor=actor)

    def _tenant(self, step: TenantStep, actor: str) -> None:
        expected = NO_RECORD if step.found is None else step.found.version
        if step.wanted is None:
            self._records.remove(step.id, actor=actor, expected=expected)
        else:
            self._records.put(step.id, step.wanted, actor=actor, expected=expected)

    def _check(self, steps: list[ToolStep], entries: dict[ToolId, Entry], *, own: bool) -> None:
        pair = clash({*entries, *(step.id for step in steps)})
        if pair is not None and not set(pair) <= set(entries):
            raise InvalidRequest(
                f"the names of tool {pair[0]!r} could be taken for those of {pair[1]!r}: choose another id",
                field="tools",
            )
        if own:
            return
        for step in steps:
            if step.wanted is not None:
                try:
                    self._settings.egress.rules.check_runtime(step.wanted)
                except InvalidRequest as error:
                    where = f"tools.{step.id}.{error.data.get('field', '')}".rstrip(".")
                    raise InvalidRequest(f"{where}: {error.message}", field=where) from error

    def _tenants(self, wanted: Settings, *, prune: bool) -> Iterator[TenantStep]:
        records = self._records.all()
        listed, layers = self._settings.listed_tenants, wanted.tenants.layers
        for name, layer in layers.items():
            tenant, found = TenantId(name), records.get(TenantId(name))
            if found is None and not layer and name in listed:
                continue  # the gateway's file lists it, and nothing more is asked for
            if found is None or layer_to_wire(found.layer) != layer_to_wire(layer):
                yield TenantStep(id=tenant, wanted=layer, found=found)
        if prune and "listed" in wanted.tenants.model_fields_set:
            for tenant, found in records.items():
                if tenant not in layers:
                    yield TenantStep(id=tenant, wanted=None, found=found)


def _belongs(found: RegisteredTool, *, own: bool) -> bool:
    """Whether it is registered as it would be, or as what may stay so: the gateway's file goes before others."""
    return found.origin is Origin.FILE or not own


def _goes(entry: Entry, *, own: bool, prune: bool) -> bool:
    if own:
        return entry.registered.origin is Origin.FILE and not entry.operator.retiring
    return prune and entry.registered.origin is Origin.RUNTIME


def _done(step: Callable[[], Any]) -> bool:
    """Take a step; False if somebody else was quicker."""
    try:
        step()
    except (VersionConflict, ToolNotFound):
        return False
    return True
