"""The section ``policy``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from common.domain.policy_rules import UriGlob
from common.settings.fields import AsList, AsMapping, Id
from common.settings.section import Section


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


class PolicySettings(Section):
    """Who may use what. Without rules every caller who is let in may use every tool."""

    rules: Annotated[tuple[RuleSettings, ...], AsList] = Field(
        default=(), description="Rules on all tools, each with effect and whatever it is about."
    )
    tools: Annotated[dict[str, Annotated[tuple[RuleSettings, ...], AsList]], AsMapping] = Field(
        default_factory=dict, description="Further rules by the id of the tool that they are about."
    )

    @model_validator(mode="after")
    def _agrees(self) -> PolicySettings:
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
