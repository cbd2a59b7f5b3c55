"""The rules of the settings, made ready."""

from __future__ import annotations

from collections.abc import Iterable

from common.domain.glob import Glob
from common.domain.policy_rules import Effect, Rule, RuleSet, UriGlob
from common.settings import PolicySettings, RuleSettings

_PLAIN = ("tenants", "clients", "subjects", "scopes", "tools", "mcp_tools", "prompts")


def rules_of(settings: PolicySettings) -> RuleSet:
    """All rules of the section, in their order."""
    named = list(settings.named_rules())
    common, own = named[: len(settings.rules)], iter(named[len(settings.rules) :])
    return RuleSet(
        tuple(_rule(*entry) for entry in common),
        {tool: _rules(next(own) for _ in rules) for tool, rules in settings.tools.items()},
    )


def _rules(named: Iterable[tuple[str, RuleSettings]]) -> tuple[Rule, ...]:
    return tuple(_rule(*entry) for entry in named)


def _rule(name: str, settings: RuleSettings) -> Rule:
    return Rule(
        id=name,
        effect=Effect(settings.effect),
        resources=None if settings.resources is None else tuple(map(UriGlob.of, settings.resources)),
        **{field: _globs(getattr(settings, field)) for field in _PLAIN},
    )


def _globs(patterns: tuple[str, ...] | None) -> tuple[Glob, ...] | None:
    return None if patterns is None else tuple(map(Glob, patterns))
