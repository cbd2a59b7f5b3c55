"""The section ``policy``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, WithJsonSchema, model_validator

from common.domain.policy_rules import UriGlob
from common.settings.fields import (
    AsList,
    AsMapping,
    Calls,
    Id,
    Seconds,
    SecondsOrZero,
    SecretUrl,
    checked_http_url,
)
from common.settings.section import Section

DEFAULT_TIMEOUT = 1.0
FIELDS_OF: dict[str, tuple[str, ...]] = {
    "cel": ("expression",),
    "opa": ("url", "token", "cache_ttl"),
    "cedar": ("policies",),
    "custom": ("implementation", "options"),
}
"""What each type of evaluator has of its own, the one it cannot be without first."""


def _named(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values or not all(values):
        raise ValueError("must hold at least one pattern, and none that is empty; leave it out for any")
    return values


def _uris(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        UriGlob.of(value)
    return values


Patterns = Annotated[tuple[str, ...], AsList, AfterValidator(_named)]
UriPatterns = Annotated[Patterns, AfterValidator(_uris)]


class RuleSettings(Section):
    """A rule fits a call if everything fits that it names. In a pattern `*` stands for any text."""

    id: Id | None = Field(default=None, description="What records call it. Absent: its place in the file.")
    effect: Literal["allow", "deny"] = Field(
        description="deny goes before every allow; a list that has an allow denies whatever none of them fits."
    )
    tenants: Patterns | None = Field(default=None, description="Patterns of tenants; absent: any.")
    clients: Patterns | None = Field(default=None, description="Patterns of clients; absent: any.")
    subjects: Patterns | None = Field(default=None, description="Patterns of subjects; absent: any.")
    scopes: Patterns | None = Field(
        default=None, description="Patterns of which one of the caller's scopes fits one; absent: any caller."
    )
    tools: Patterns | None = Field(
        default=None, description="Patterns of ids of tools; absent: any. Not in `policy.tools`."
    )
    mcp_tools: Patterns | None = Field(
        default=None,
        description="Patterns of MCP tools' own names. Absent, with the next two: all that a tool offers.",
    )
    resources: UriPatterns | None = Field(
        default=None, description="Patterns of URIs of resources, and of templates of such."
    )
    prompts: Patterns | None = Field(default=None, description="Patterns of prompts' own names.")


class EvaluatorSettings(Section):
    """Who is asked about each call that the rules let pass. Whatever goes wrong denies the call."""

    id: Id = Field(description="By which `policy.evaluator` and `policy.tenants` name it.")
    type: Literal["cel", "opa", "cedar", "custom"] = Field(
        description="cel: an expression. opa: an Open Policy Agent. cedar: policies in Cedar. custom: your own class."
    )
    expression: str | None = Field(default=None, description="cel: what must come to true, in CEL.")
    url: Annotated[SecretUrl, AfterValidator(checked_http_url), WithJsonSchema({"type": "string"})] | None = (
        Field(default=None, description="opa: the decision's address, http://host:8181/v1/data/package/rule.")
    )
    token: SecretStr | None = Field(default=None, description="opa: sent as a bearer token.")
    cache_ttl: SecondsOrZero | None = Field(
        default=None,
        description="opa: how long an answer holds for calls that differ in nothing but their id; absent: not at all.",
    )
    policies: str | None = Field(default=None, description="cedar: the policies, in Cedar.")
    implementation: str | None = Field(
        default=None,
        description="custom: package.module:Class, or the name of an entry point of the group canalgate.policy.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="custom: what the class is made with.")
    timeout: Seconds = Field(
        default=DEFAULT_TIMEOUT, description="Longest time for one answer; what takes longer is denied."
    )
    max_in_flight: Calls = Field(
        default=16,
        description="Most questions at a time in a web process, half of them of one tenant; one more is denied. "
        "Not for cel and cedar, which answer at once.",
    )
    counters: bool = Field(
        default=False,
        description="Whether it is told how much the tool has to do, which costs a round trip to Redis a call.",
    )

    @model_validator(mode="after")
    def _goes_together(self) -> EvaluatorSettings:
        own = FIELDS_OF[self.type]
        if not getattr(self, own[0]):
            raise ValueError(f"an evaluator of type {self.type} needs {own[0]}")
        for kind, names in FIELDS_OF.items():
            for name in names:
                if kind != self.type and name not in own and getattr(self, name):
                    raise ValueError(f"{name} goes with type {kind}, not with {self.type}")
        return self


class PolicySettings(Section):
    """Who may use what. Without rules and evaluators every caller who is let in may use every tool."""

    rules: Annotated[tuple[RuleSettings, ...], AsList] = Field(
        default=(), description="Rules on all tools, each with effect and whatever it is about."
    )
    tools: Annotated[dict[str, Annotated[tuple[RuleSettings, ...], AsList]], AsMapping] = Field(
        default_factory=dict, description="Further rules by the id of the tool that they are about."
    )
    evaluators: Annotated[tuple[EvaluatorSettings, ...], AsList] = Field(
        default=(), description="Who can be asked about calls, each with id and type."
    )
    evaluator: Id | None = Field(
        default=None, description="Id of the evaluator of tenants that have none of their own; absent: none."
    )
    tenants: Annotated[dict[str, str], AsMapping] = Field(
        default_factory=dict, description="Tenant -> id of the evaluator that is asked about its calls."
    )

    @model_validator(mode="after")
    def _agrees(self) -> PolicySettings:
        known = [entry.id for entry in self.evaluators]
        if len(set(known)) != len(known):
            raise ValueError("evaluators has an id twice; give each its own")
        wanted = [self.evaluator, *self.tenants.values()]
        for name in wanted:
            if name is not None and name not in known:
                raise ValueError("evaluator and tenants must name evaluators that stand in policy.evaluators")
        if any(rule.tools is not None for rules in self.tools.values() for rule in rules):
            raise ValueError(
                "rules under policy.tools must not name tools: they are about the one above them"
            )
        names = [name for name, _ in self.named_rules()]
        if len(set(names)) != len(names):
            raise ValueError("two rules have the same id; give each its own, or none")
        return self

    def named_rules(self) -> Iterator[tuple[str, RuleSettings]]:
        """All rules, each with its id, or else its place."""
        for index, rule in enumerate(self.rules):
            yield rule.id or f"rules[{index}]", rule
        for tool, rules in self.tools.items():
            for index, rule in enumerate(rules):
                yield rule.id or f"tools.{tool}[{index}]", rule
