"""``/admin/v1/policy``: the rules and evaluators in force, and what they would say of a call."""

from __future__ import annotations

import threading
from typing import Any, Literal

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag
from pydantic import Field

from common.domain.ids import MAX_ID_LENGTH, ClientId, TenantId, ToolId, checked_id
from common.domain.invocation import Caller
from common.domain.policy import Counters
from common.identity.operators import Role
from common.mcp.asked import NAMED
from common.policy.counters import counters_of, counters_script
from common.policy.judge import Judge
from common.settings import PolicySettings
from common.settings.masking import masked
from common.store.client import store_errors
from common.store.scripts import run
from gateway_web.admin.answers import answer
from gateway_web.admin.models import Answer, Asked
from gateway_web.admin.plane import Plane
from gateway_web.admin.session import acting_as

TAG = Tag(name="policy", description="Who may use what.")


class PolicyInForce(Answer):
    """The section `policy` of this web process, without secrets."""

    policy: dict[str, Any]


class Case(Asked):
    """A call that nobody makes."""

    tenant: str = Field(min_length=1, max_length=MAX_ID_LENGTH)
    client: str = Field(min_length=1, max_length=MAX_ID_LENGTH)
    subject: str = Field(default="", max_length=MAX_ID_LENGTH)
    scopes: list[str] = Field(default=[], max_length=100)
    tool: str = Field(min_length=1, max_length=MAX_ID_LENGTH, description="Id of the tool.")
    method: Literal[
        "tools/call", "prompts/get", "resources/read", "resources/subscribe", "resources/unsubscribe"
    ] = "tools/call"
    name: str = Field(description="The MCP tool's or prompt's own name, or the resource's URI.")
    arguments: dict[str, Any] = Field(default={})


class Said(Answer):
    """What would be decided, and by what."""

    decision: Literal["allow", "deny"]
    rule: str = Field(description="Id of the rule that decided; empty: none did.")
    evaluator: str = Field(description="Id of the evaluator that was asked; empty: none was.")
    ground: str | None = Field(description="Why it is denied, in a word.")
    reason: str = Field(description="The evaluator's own, or what was wrong with it.")


class DryRun:
    """Asks rules and evaluators of its own, so that no record and no counter takes its questions for calls."""

    def __init__(self, gateway: Plane) -> None:
        self._gateway = gateway
        self._lock = threading.Lock()
        self._made: tuple[PolicySettings, Judge] | None = None

    def judge(self) -> Judge:
        """The one of this process; made when first asked for under these settings, since most are never."""
        with self._lock:
            settings = self._gateway.settings
            if self._made is None or self._made[0] is not settings.policy:
                if self._made is not None:
                    self._made[1].retire()
                judge = Judge(settings.policy, settings.egress.rules, self._counters)
                self._made = settings.policy, judge
            return self._made[1]

    def _counters(self, tenant: TenantId, tool: ToolId) -> Counters:
        name, keys = counters_script(self._gateway.keys, tenant, tool)
        with store_errors("reading how much is going on"):
            return counters_of(run(self._gateway.client, name, keys, []))


def add_policy(api: APIBlueprint, gateway: Plane) -> None:
    """Give the API the routes of policy."""
    dry_run = DryRun(gateway)

    @api.get("/policy", tags=[TAG], responses={200: PolicyInForce})
    def get_policy() -> Response:
        """Get the rules and evaluators in force, without secrets."""
        acting_as(Role.VIEWER)
        return answer(PolicyInForce(policy=masked(gateway.settings)["policy"]))

    @api.post("/policy/test", tags=[TAG], responses={200: Said})
    def test_policy(body: Case) -> Response:
        """Say what policy would decide of one call. Nothing is called, counted or recorded; evaluators are asked."""
        acting_as(Role.OPERATOR)
        caller = Caller(
            tenant=TenantId(checked_id(body.tenant, field="body.tenant")),
            client=ClientId(checked_id(body.client, field="body.client")),
            subject=body.subject,
            scopes=frozenset(body.scopes),
        )
        tool = ToolId(checked_id(body.tool, field="body.tool"))
        params = {NAMED[body.method][1]: body.name, "arguments": body.arguments}
        found = dry_run.judge().judge(caller, tool, body.method, params)
        return answer(
            Said(
                decision="allow" if found.allowed else "deny",
                rule=found.rule,
                evaluator=found.evaluator,
                ground=None if found.ground is None else found.ground.value,
                reason=found.reason,
            )
        )
