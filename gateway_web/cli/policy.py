"""``canalgate policy``: is it well made, and what would it say."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import orjson
import typer

from common.domain.errors import ConfigurationError
from common.domain.ids import ClientId, TenantId, ToolId, checked_id
from common.domain.invocation import Caller
from common.domain.policy import Counters, Decision
from common.mcp.asked import NAMED
from common.policy.judge import Judge
from common.policy.loading import evaluator_problems
from common.settings import load
from gateway_web.cli.output import Exit, err, errors_as_exit_codes, out, say_json

cli = typer.Typer(help="Check policy, and ask it.", no_args_is_help=True)
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
IDLE = Counters(tool_calls=0, tool_waiting=0, tenant_sessions=0)


@cli.command("check")
@errors_as_exit_codes
def check(config: ConfigOption = None) -> None:
    """Compile all rules and evaluators; exit code 1 if one does not, 2 if the settings are wrong."""
    policy = load(config).policy
    problems = evaluator_problems(policy)
    for text in problems:
        err.print(text, markup=False)
    if problems:
        raise typer.Exit(Exit.FAILED)
    rules = len(list(policy.named_rules()))
    out.print(f"good: {rules} rules, {len(policy.evaluators)} evaluators")


@cli.command("test")
@errors_as_exit_codes
def ask(
    tenant: Annotated[str, typer.Option(help="The caller's tenant.")],
    client: Annotated[str, typer.Option(help="The caller's client.")],
    tool: Annotated[str, typer.Option(help="Id of the tool.")],
    name: Annotated[str, typer.Option(help="The MCP tool's or prompt's own name, or the resource's URI.")],
    method: Annotated[str, typer.Option(help="What is asked: tools/call, resources/read ...")] = "tools/call",
    subject: Annotated[str, typer.Option(help="The caller's subject.")] = "",
    scope: Annotated[
        list[str] | None, typer.Option(help="One of the caller's scopes; may be given several times.")
    ] = None,
    arguments: Annotated[str, typer.Option(help="The arguments, as a JSON object.")] = "{}",
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the decision as JSON.")] = False,  # noqa: FBT002
) -> None:
    """Say what policy would decide of one call, and by what; exit code 1 for a denial.

    No gateway is asked, only the evaluator, if there is one; its counters are all zero.
    """
    caller = Caller(
        tenant=TenantId(checked_id(tenant, field="--tenant")),
        client=ClientId(checked_id(client, field="--client")),
        subject=subject,
        scopes=frozenset(scope or ()),
    )
    params = _params(method, name, arguments)
    settings = load(config)
    judge = Judge(settings.policy, settings.egress.rules, lambda *_: IDLE)
    with redirect_stdout(sys.stderr):  # what is wrong with an evaluator is logged
        decision = judge.judge(caller, ToolId(checked_id(tool, field="--tool")), method, params)
    told = _told(decision)
    if as_json:
        say_json(told)
    else:
        out.print("\n".join(f"{key}: {value}" for key, value in told.items() if value), markup=False)
    if not decision.allowed:
        raise typer.Exit(Exit.FAILED)


def _params(method: str, name: str, arguments: str) -> dict[str, object]:
    if method not in NAMED:
        raise ConfigurationError(f"--method must be one of {', '.join(NAMED)}")
    try:
        given = orjson.loads(arguments)
    except orjson.JSONDecodeError as error:
        raise ConfigurationError(f"--arguments must be JSON: {error}") from None
    if not isinstance(given, dict):
        raise ConfigurationError("--arguments must be a JSON object")
    return {NAMED[method][1]: name, "arguments": given}


def _told(decision: Decision) -> dict[str, str]:
    return {
        "decision": "allow" if decision.allowed else "deny",
        "rule": decision.rule,
        "evaluator": decision.evaluator,
        "ground": "" if decision.ground is None else decision.ground.value,
        "reason": decision.reason,
    }
