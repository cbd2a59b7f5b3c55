"""``canalgate apply``: bring the gateway that runs to what a file says, and show before what that would change."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from common.control.apply import Applying, ApplyPlan, TenantStep, ToolStep
from common.domain.errors import ConfigurationError
from common.domain.quota import layer_to_wire
from common.interchange.difference import FieldChange, definition_changes
from common.settings import Settings, find_file
from common.settings.document import Document
from common.settings.layers import PREFIX
from common.settings.load import assemble, read_file
from common.settings.problems import shown
from gateway_web.cli.output import Exit, remark, say, say_json
from gateway_web.cli.where import Store, store
from gateway_web.supervisor import RunRecord, running_instance, state_dir_path

SIGNS = {"create": "+", "change": "~", "remove": "-"}


def apply(
    file: Annotated[Path, typer.Argument(help="A settings file: its tools and tenants are applied.")],
    config: Annotated[Path | None, typer.Option("--config", help="The gateway's settings file.")] = None,
    diff: Annotated[  # noqa: FBT002
        bool,
        typer.Option("--diff", help="Change nothing; say what would change. Exit code 5 if anything would."),
    ] = False,
    prune: Annotated[  # noqa: FBT002
        bool, typer.Option("--prune", help="Remove what was set at run time and the file does not name.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
) -> None:
    """Bring the running gateway to what a file says of tools and tenants; only what is different is changed."""
    where = store(config)
    running = running_instance(state_dir_path(os.environ))
    own = _is_own(file, config, running)
    wanted = _read(file, None if own else where.settings)
    applying = Applying(where.client, where.keys, where.settings)
    plan = applying.plan(wanted, own=own, prune=prune)
    if as_json:
        say_json(_told(plan))
    else:
        _show(plan)
    for note in _notes(wanted, own=own):
        remark(f"note: {note}")
    if diff:
        raise typer.Exit(Exit.PENDING if not plan.nothing else Exit.REFUSED if plan.refused else Exit.OK)
    _do(applying, plan, where, running if own else None)


def _do(applying: Applying, plan: ApplyPlan, where: Store, running: RunRecord | None) -> None:
    applying.apply(plan, actor=where.actor)
    if not plan.nothing:
        remark("applied")
    if running is not None:
        os.kill(running.pid, signal.SIGHUP)
        remark("the gateway reads its other settings anew: its output says how that went")
    if plan.refused:
        raise typer.Exit(Exit.REFUSED)


def _is_own(file: Path, config: Path | None, running: RunRecord | None) -> bool:
    """Whether it is the file that the gateway itself has: of the command's settings, or of the one that runs here."""
    named = find_file(config, os.environ)
    candidates = [
        *([named] if named else []),
        *([Path(running.config)] if running and running.config else []),
    ]
    return any(file.resolve() == candidate.resolve() for candidate in candidates)


def _read(file: Path, gateway: Settings | None) -> Settings:
    """The settings in the file, which must be good to the last tool.

    What it leaves open of tools' defaults is as the ``gateway`` has it, if it is not the gateway's own; its
    environment is this command's, but for the variables that are settings.
    """
    document = read_file(file)
    tree: Any = document.tree
    if gateway is not None and isinstance(tree, dict):
        tree = {"runtime": gateway.runtime.model_dump(), **tree}
        if not isinstance(tree.get("credentials"), dict):
            tree["credentials"] = {"providers": list(gateway.credentials.providers)}
    environ = {
        name: value for name, value in os.environ.items() if gateway is None or not name.startswith(PREFIX)
    }
    settings = assemble(Document(tree=tree, lines=document.lines), environ, name=shown(file))
    if settings.tool_problems:
        raise ConfigurationError(
            "\n".join(f"tool {problem.id}: {problem.message}" for problem in settings.tool_problems)
        )
    return settings


def _notes(wanted: Settings, *, own: bool) -> Iterator[str]:
    if own:
        yield "this is the gateway's own file: of its other settings it takes over at a SIGHUP what is live"
        return
    given = {"tools", "runtime", "credentials"}
    others = [name for name in wanted.model_fields_set if name not in given | {"tenants"}]
    others += [f"tenants.{key}" for key in wanted.tenants.model_fields_set if key != "listed"]
    if others:
        yield f"not applied, since only the gateway's own settings can say it: {', '.join(sorted(others))}"


def _show(plan: ApplyPlan) -> None:
    for step in plan.tools:
        say(f"{SIGNS[step.verb]} tool {step.id}")
        _lines(_of_tool(step))
    for tenant in plan.tenants:
        say(f"{SIGNS[tenant.verb]} tenant {tenant.id}")
        _lines(_of_tenant(tenant))
    for name, why in plan.refused.items():
        remark(f"! tool {name} is not changed: {why}")
    if plan.nothing:
        say(f"nothing to change: {plan.unchanged} tools are as the file says")


def _lines(changes: list[FieldChange]) -> None:
    for change in changes:
        before, after = _value(change.before), _value(change.after)
        if change.hidden:
            after = f"{after} (another value)"
        say(f"    {change.field}: {before} -> {after}")


def _value(value: object) -> str:
    return "-" if value is None else orjson.dumps(value).decode()


def _of_tool(step: ToolStep) -> list[FieldChange]:
    before = None if step.found is None else step.found.tool
    return [] if step.wanted is None else definition_changes(before, step.wanted)


def _of_tenant(step: TenantStep) -> list[FieldChange]:
    before = {} if step.found is None else layer_to_wire(step.found.layer)
    after = {} if step.wanted is None else layer_to_wire(step.wanted)
    return [
        FieldChange(field=name, before=_set(before, name), after=_set(after, name))
        for name in sorted(before.keys() | after.keys())
        if _set(before, name) != _set(after, name)
    ]


def _set(layer: Mapping[str, Any], name: str) -> Any:
    """A null in a layer is no bound, which is not the same as nothing said."""
    return ("no bound" if layer[name] is None else layer[name]) if name in layer else None


def _told(plan: ApplyPlan) -> dict[str, Any]:
    """The plan for scripts."""

    def told(changes: list[FieldChange]) -> list[dict[str, Any]]:
        return [{"field": change.field, "before": change.before, "after": change.after} for change in changes]

    return {
        "own": plan.own,
        "tools": [{"id": step.id, "verb": step.verb, "changes": told(_of_tool(step))} for step in plan.tools],
        "tenants": [
            {"id": step.id, "verb": step.verb, "changes": told(_of_tenant(step))} for step in plan.tenants
        ],
        "unchanged": plan.unchanged,
        "refused": dict(plan.refused),
    }
