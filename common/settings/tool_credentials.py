"""The key ``credentials`` of a tool's entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from common.domain.credential_rules import (
    WITHOUT_SUBJECTS,
    CredentialMode,
    CredentialRules,
    CredentialScope,
    Injection,
)
from common.domain.tool import Tool
from common.settings.document import KeyPath
from common.settings.fields import AsList
from common.settings.model import ToolProblem
from common.settings.problems import dotted, nearest
from common.settings.section import Section

EXCHANGE = "token_exchange"
"""The provider that is built in for what is each subject's."""


class CredentialInjection(Section):
    """Where a tool's secrets are put. A key is the name under which the provider knows a secret."""

    env: dict[str, str] = Field(
        default_factory=dict,
        description="Variable of the child's environment -> key. Names that loaders and runtimes obey are refused.",
    )
    headers: dict[str, str] = Field(
        default_factory=dict,
        description="Header of every request -> template with keys in braces, such as `Bearer {token}`.",
    )
    meta: dict[str, str] = Field(
        default_factory=dict,
        description="Member of every request's `_meta` (a name, or a JSON pointer such as /a/b) -> key.",
    )
    secrets: dict[str, str] = Field(
        default_factory=dict,
        description="Name -> key, for a tool with a `factory`: what that is given for each session.",
    )


class ToolCredentials(Section):
    """Which secrets the sessions with a tool are given, and what a call is worth without them."""

    mode: Literal["required", "optional"] = Field(
        default="required",
        description="required: a call is refused if they cannot be had. optional: it goes on without.",
    )
    scope: Literal["tool", "tenant", "client", "subject"] = Field(
        default="tenant",
        description="Whose they are: the tool's own for all callers, each tenant's, each client's, or each subject's "
        "(`token_exchange`; a session serves one subject then).",
    )
    providers: Annotated[tuple[str, ...], AsList] = Field(
        default=(), description="Providers to ask, of `credentials.providers`; absent: all of them."
    )
    inject: CredentialInjection = Field(
        description="Where they are put: `env`, `headers`, `meta`, `secrets`."
    )

    def rules(self) -> CredentialRules:
        """As the domain has it. Raises :class:`InvalidRequest` naming the key at fault."""
        return CredentialRules(
            mode=CredentialMode(self.mode),
            scope=CredentialScope(self.scope),
            providers=self.providers,
            inject=Injection(
                env=self.inject.env,
                headers=self.inject.headers,
                meta=self.inject.meta,
                secrets=self.inject.secrets,
            ),
        )


def with_providers(
    tools: Sequence[Tool], providers: Sequence[str], *, where: Callable[[KeyPath], str]
) -> tuple[tuple[Tool, ...], tuple[ToolProblem, ...]]:
    """The tools whose credentials somebody can be asked for, and what is wrong with the others."""
    good: list[Tool] = []
    problems: list[ToolProblem] = []
    for tool in tools:
        fault = None if tool.credentials is None else _provider_fault(tool.credentials, providers)
        if fault is None:
            good.append(tool)
            continue
        path: KeyPath = ("tools", tool.id, "credentials", "providers")
        text = f"{dotted(path)}: {fault}"
        place = where(path)
        problems.append(ToolProblem(id=tool.id, message=f"{place}: {text}" if place else text))
    return tuple(good), tuple(problems)


def _provider_fault(rules: CredentialRules, providers: Sequence[str]) -> str | None:
    if not providers:
        return "nobody can be asked: name those who know secrets in credentials.providers"
    unknown = [name for name in rules.providers if name not in providers]
    if unknown:
        return f"'{unknown[0]}' is not among credentials.providers{nearest(unknown[0], providers)}"
    if rules.scope is not CredentialScope.SUBJECT:
        if EXCHANGE in rules.providers:
            return f"'{EXCHANGE}' goes with scope: subject, whose tokens it knows"
        return None
    blind = [name for name in rules.providers if name in WITHOUT_SUBJECTS]
    if blind or not set(rules.providers or providers) - WITHOUT_SUBJECTS:
        named = f"'{blind[0]}' knows" if blind else "those named know"
        return (
            f"{named} nothing of subjects, which scope: subject is about: name {EXCHANGE}, or one of your own"
        )
    return None
