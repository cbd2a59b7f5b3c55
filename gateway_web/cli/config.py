"""``canalgate config``: is the file right, and what does it come to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from common.domain.errors import ConfigurationError
from common.policy.loading import evaluator_problems
from common.settings import find_file, load, masked
from common.settings.schema import json_schema
from gateway_web.cli.output import Exit, err, errors_as_exit_codes, out, say_json
from gateway_web.identity import identity_problems

cli = typer.Typer(help="Check and show settings.", no_args_is_help=True)


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
        err.print(f"tool {problem.id} would be skipped: {problem.message}", markup=False)
    unusable = [*identity_problems(settings), *evaluator_problems(settings.policy)]
    for text in unusable:
        err.print(text, markup=False)
    if settings.tool_problems or unusable:
        raise typer.Exit(Exit.FAILED)
    if not show:
        found = find_file(path, os.environ)
        out.print(f"{found or 'no file'}: good, {len(settings.tools)} tools", markup=False)


@cli.command("schema")
def schema() -> None:
    """Print the JSON schema of the settings file, for editors."""
    say_json(json_schema())
