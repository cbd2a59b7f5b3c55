"""``canalgate config``: is the file right, and what does it come to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from common.domain.errors import ConfigurationError
from common.policy.loading import evaluator_problems
from common.settings import find_file, load, masked
from common.settings.document import parse
from common.settings.interpolate import interpolate
from common.settings.schema import json_schema
from gateway_web.cli.connection import chosen_url, control
from gateway_web.cli.output import Exit, errors_as_exit_codes, remark, say, say_json, say_text, working
from gateway_web.identity import identity_problems

cli = typer.Typer(help="Check and show settings; export and import tools.", no_args_is_help=True)
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]


@cli.command("check")
@errors_as_exit_codes
def check(
    file: Annotated[Path | None, typer.Argument(help="Settings file; the same as --config.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Settings file.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print what it comes to, secrets masked.")] = False,  # noqa: FBT002
) -> None:
    """Check a settings file; exit code 2 if the gateway would not start, 1 if it would skip a tool."""
    if file is not None and config is not None:
        raise ConfigurationError("the settings file is given twice: as an argument and with --config")
    path = file or config
    settings = load(path)
    if show:
        say_json(masked(settings))
    for problem in settings.tool_problems:
        remark(f"tool {problem.id} would be skipped: {problem.message}")
    unusable = [*identity_problems(settings), *evaluator_problems(settings.policy)]
    for text in unusable:
        remark(text)
    if settings.tool_problems or unusable:
        raise typer.Exit(Exit.FAILED)
    if not show:
        found = find_file(path, os.environ)
        say(f"{found or 'no file'}: good, {len(settings.tools)} tools")


@cli.command("show")
@errors_as_exit_codes
def show(config: ConfigOption = None) -> None:
    """Print the settings in force as JSON, without secrets: those of the gateway at --url, or those here."""
    if chosen_url() is None or config is not None:
        say_json(masked(load(config)))
    else:
        say_json(control().ask("GET", "/config").body["settings"])


@cli.command("export")
@errors_as_exit_codes
def export(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not YAML.")] = False,  # noqa: FBT002
) -> None:
    """Print all tools as they are registered, in the shape of the settings file, without secrets."""
    found = control(config).ask("GET", "/config/export").body
    if as_json:
        say_json(found)
    else:
        say_text(yaml.safe_dump(found, sort_keys=False, allow_unicode=True).rstrip())


@cli.command("import")
@errors_as_exit_codes
def import_tools(
    file: Annotated[Path, typer.Argument(help="Settings file; only its tools are taken.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,  # noqa: FBT002
    prune: Annotated[  # noqa: FBT002
        bool, typer.Option("--prune", help="Remove the tools that the file does not name.")
    ] = False,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
) -> None:
    """Register and change the tools of a file while the gateway runs; nothing is done if an entry is at fault.

    A masked value (********) stands for the one that the tool has. A tool that others change meanwhile is left as it
    is: exit code 9 names it.
    """
    body, query = {"tools": _tools_of(file)}, {"dry_run": dry_run, "prune": prune}
    with working(f"importing {len(body['tools'])} tools"):
        done = control(config).ask("POST", "/config/import", query=query, body=body).body
    if as_json:
        say_json(done)
        return
    would = "would be " if dry_run else ""
    for word in ("created", "changed", "unchanged", "removed"):
        for tool in done[word]:
            say(f"{tool} {'' if word == 'unchanged' else would}{word}")


def _tools_of(file: Path) -> dict[str, Any]:
    """The tools of a settings file, references resolved from this environment. Raises :class:`ConfigurationError`."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {file}: {error}") from None
    tree = parse(text, name=str(file)).tree
    tools = tree.get("tools") if isinstance(tree, dict) else None
    if not isinstance(tools, dict):
        raise ConfigurationError(f"{file}: tools must be a mapping of ids to definitions", field="tools")
    found = interpolate(tools, os.environ)
    if found.faults:
        raise ConfigurationError("; ".join(fault.message for fault in found.faults))
    return dict(found.tree)


@cli.command("schema")
def schema() -> None:
    """Print the JSON schema of the settings file, for editors."""
    say_json(json_schema())
