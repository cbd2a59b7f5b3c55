"""All verbs, one line each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from common import __version__
from gateway_web.cli import apply as apply_verb
from gateway_web.cli import (
    audit,
    calls,
    credentials,
    dead_letters,
    interchange,
    keys,
    policy,
    sessions,
    tenants,
    tools,
)
from gateway_web.cli import call as call_verb
from gateway_web.cli import config as config_verbs
from gateway_web.cli.anywhere import AnywhereGroup
from gateway_web.cli.client_config import client_config
from gateway_web.cli.cluster import queues, workers
from gateway_web.cli.completion import completion
from gateway_web.cli.connection import choose
from gateway_web.cli.flower import flower
from gateway_web.cli.output import errors_as_exit_codes, say
from gateway_web.cli.status import show_status

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Settings file; default: CANALGATE_CONFIG, then ./canalgate.yaml."),
]
HostOption = Annotated[str | None, typer.Option("--host", help="Address to listen on (web.host).")]
PortOption = Annotated[int | None, typer.Option("--port", help="Port to listen on (web.port); 0 is any.")]
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

cli = typer.Typer(
    cls=AnywhereGroup,
    help="Canalgate: a gateway between MCP clients and MCP servers.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may hold secrets
)
cli.callback()(choose)
cli.add_typer(tools.cli, name="tools")
cli.add_typer(sessions.cli, name="sessions")
cli.add_typer(calls.cli, name="calls")
cli.add_typer(tenants.cli, name="tenants")
cli.add_typer(config_verbs.cli, name="config")
cli.add_typer(dead_letters.cli, name="dead-letters")
cli.add_typer(policy.cli, name="policy")
cli.add_typer(audit.cli, name="audit")
cli.add_typer(credentials.cli, name="credentials")
cli.add_typer(keys.cli, name="keys")
cli.command("status")(errors_as_exit_codes(show_status))
cli.command("queues")(errors_as_exit_codes(queues))
cli.command("workers")(errors_as_exit_codes(workers))
cli.command("completion")(completion)
cli.command("client-config")(errors_as_exit_codes(client_config))
cli.command("flower")(errors_as_exit_codes(flower))
cli.command("call")(errors_as_exit_codes(call_verb.call))
cli.command("import")(errors_as_exit_codes(interchange.import_file))
cli.command("apply")(errors_as_exit_codes(apply_verb.apply))
cli.command("export")(errors_as_exit_codes(interchange.export))


@cli.command()
@errors_as_exit_codes
def up(
    config: ConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the children's logs.")] = False,  # noqa: FBT002
    flower: Annotated[bool, typer.Option("--flower", help="Run Flower as well (flower.port).")] = False,  # noqa: FBT002
) -> None:
    """Run everything on this machine: Redis if none is configured, workers, web."""
    from gateway_web.cli.up import run_up

    run_up(config, host=host, port=port, verbose=verbose, flower=flower)


@cli.command(context_settings=PASS_ON)
@errors_as_exit_codes
def web(
    context: typer.Context, config: ConfigOption = None, host: HostOption = None, port: PortOption = None
) -> None:
    """Run the web program alone; further arguments go to gunicorn."""
    from gateway_web.cli.programs import exec_web

    exec_web(config, host=host, port=port, extra=context.args)


@cli.command(context_settings=PASS_ON)
@errors_as_exit_codes
def worker(context: typer.Context, config: ConfigOption = None) -> None:
    """Run one worker alone; further arguments (-Q tool.a, -c 256, -n name@host) go to celery."""
    from gateway_web.cli.programs import exec_worker

    exec_worker(config, extra=context.args)


@cli.command()
@errors_as_exit_codes
def doctor(config: ConfigOption = None) -> None:
    """Look at this machine and these settings, and say what would not work."""
    from gateway_web.cli.doctor import examine

    raise typer.Exit(examine(config))


@cli.command()
def version() -> None:
    """Print the version."""
    say(f"canalgate {__version__} (Python {sys.version.split()[0]})")


def main(**options: Any) -> None:
    """The console script."""
    cli(prog_name="canalgate", **options)
