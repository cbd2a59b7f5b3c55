"""``canalgate policy``: is it well made, and what would it say."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

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
from gateway_web.cli.connection import chosen_url, control
from gateway_web.cli.output import Exit, errors_as_exit_codes, remark, say, say_json

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
        remark(text)
    if problems:
        raise typer.Exit(Exit.FAILED)
    rules = len(list(policy.named_rules()))
    say(f"good: {rules} rules, {len(policy.evaluators)} evaluators")


@cli.command("show")
@errors_as_exit_codes
def show(config: ConfigOption = None) -> None:
    """Print the rules and evaluators in force as JSON, without secrets."""
    say_json(control(config).ask("GET", "/policy").body["policy"])


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

    With --url the gateway there says it. Else no gateway is asked, only the settings' evaluator, if there is one; its
    counters are all zero.
    """
    case = {
        "tenant": checked_id(tenant, field="--tenant"),
        "client": checked_id(client, field="--client"),
        "subject": subject,
        "scopes": scope or [],
        "tool": checked_id(tool, field="--tool"),
        "method": method,
        "name": name,
        "arguments": _arguments(method, arguments),
    }
    if chosen_url() is None or config is not None:
        told = _judged_here(case, config)
    else:
        told = control().ask("POST", "/policy/test", body=case).body
    if as_json:
        say_json(told)
    else:
        for key, value in told.items():
            if value:
                say(f"{key}: {value}")
    if told["decision"] != "allow":
        raise typer.Exit(Exit.FAILED)


def _arguments(method: str, arguments: str) -> dict[str, Any]:
    if method not in NAMED:
        raise ConfigurationError(f"--method must be one of {', '.join(NAMED)}")
    try:
        given = orjson.loads(arguments)
    except orjson.JSONDecodeError as error:
        raise ConfigurationError(f"--arguments must be JSON: {error}") from None
    if not isinstance(given, dict):
        raise ConfigurationError("--arguments must be a JSON object")
    return given


def _judged_here(case: Mapping[str, Any], config: Path | None) -> dict[str, Any]:
    """By the settings of this machine; Redis need not be there."""
    caller = Caller(
        tenant=TenantId(case["tenant"]),
        client=ClientId(case["client"]),
        subject=case["subject"],
        scopes=frozenset(case["scopes"]),
    )
    params = {NAMED[case["method"]][1]: case["name"], "arguments": case["arguments"]}
    settings = load(config)
    judge = Judge(settings.policy, settings.egress.rules, lambda *_: IDLE)
    with redirect_stdout(sys.stderr):  # what is wrong with an evaluator is logged
        return _told(judge.judge(caller, ToolId(case["tool"]), case["method"], params))


def _told(decision: Decision) -> dict[str, Any]:
    return {
        "decision": "allow" if decision.allowed else "deny",
        "rule": decision.rule,
        "evaluator": decision.evaluator,
        "ground": None if decision.ground is None else decision.ground.value,
        "reason": decision.reason,
    }
