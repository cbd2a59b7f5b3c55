"""The rules: who may use what, decided in memory, for calls and for lists alike.

There is one list for all tools, and one for each tool. A rule fits a call if all that it names fits: the caller's
tenant, client, subject, one of the scopes, the tool, and the capability. A denial goes before any permission. A list
that has a permission at all denies whatever none of its permissions fits; both lists must agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from common.domain.glob import Glob, any_matches
from common.domain.invocation import Caller
from common.domain.policy import ALLOWED, Capability, CapabilityKind, Decision, Ground
from common.domain.uri_readings import Readings, plain, readings_of

MOST_CACHED = 20_000
"""Decisions, and callers, that are remembered; then all are forgotten, and worked out again."""
LONGEST_CACHED = 512
"""Characters of a name that is remembered."""
_STAR = "\ue000"
"""Stands for the star of a pattern while its text is read as a URI; no printable URI holds it."""
_URIS = frozenset({CapabilityKind.RESOURCE, CapabilityKind.TEMPLATE})
K = TypeVar("K")
V = TypeVar("V")


class Effect(StrEnum):
    """What a rule does to what fits it."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class UriGlob:
    """A pattern for URIs; it is held against their readings."""

    exact: Glob
    plain: Glob

    @classmethod
    def of(cls, text: str) -> UriGlob:
        """From its text. Raises ValueError for a pattern that no URI with readings could fit."""
        if readings_of(text) is None:
            raise ValueError(
                "must be plain: no '.' or '..' between slashes, no backslash, no '%' that encodes nothing"
            )
        return cls(Glob(text), Glob(plain(text.replace("*", _STAR)).replace(_STAR, "*")))

    def may_match(self, readings: Readings) -> bool:
        """Whether one of the readings fits: so a denial is held against a URI."""
        return self.exact.matches(readings.exact) or any(map(self.plain.matches, readings.all))

    def must_match(self, readings: Readings) -> bool:
        """Whether all readings fit: so a permission is held against a URI.

        Query and fragment count only if the pattern speaks of them: else a backend may look at what stands before.
        """
        texts = readings.whole
        if "?" not in self.exact.text and "#" not in self.exact.text:
            texts |= readings.bare
        return self.exact.matches(readings.exact) and all(map(self.plain.matches, texts))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rule:
    """One rule. None: whatever it is, it fits. ``id`` is what records call it. No two rules are equal.

    If it names any of ``mcp_tools``, ``resources`` (URIs, of templates as well) and ``prompts``, it fits those alone,
    else all that a tool offers.
    """

    id: str
    effect: Effect
    tenants: tuple[Glob, ...] | None = None
    clients: tuple[Glob, ...] | None = None
    subjects: tuple[Glob, ...] | None = None
    scopes: tuple[Glob, ...] | None = None
    tools: tuple[Glob, ...] | None = None
    mcp_tools: tuple[Glob, ...] | None = None
    resources: tuple[UriGlob, ...] | None = None
    prompts: tuple[Glob, ...] | None = None

    def fits_caller(self, caller: Caller) -> bool:
        """Whether it is about this caller."""
        return (
            (self.tenants is None or any_matches(self.tenants, caller.tenant))
            and (self.clients is None or any_matches(self.clients, caller.client))
            and (self.subjects is None or any_matches(self.subjects, caller.subject))
            and (self.scopes is None or any(any_matches(self.scopes, scope) for scope in caller.scopes))
        )

    def fits_tool(self, tool: str) -> bool:
        """Whether it is about this tool."""
        return self.tools is None or any_matches(self.tools, tool)

    @property
    def fits_everything(self) -> bool:
        """Whether it is about all that a tool offers."""
        return self.mcp_tools is None and self.resources is None and self.prompts is None

    def fits(self, capability: Capability, readings: Readings | None) -> bool:
        """Whether it is about this capability; ``readings`` are those of a URI."""
        if self.fits_everything:
            return True
        match capability.kind:
            case CapabilityKind.TOOL:
                return self.mcp_tools is not None and any_matches(self.mcp_tools, capability.name)
            case CapabilityKind.PROMPT:
                return self.prompts is not None and any_matches(self.prompts, capability.name)
        if self.resources is None or readings is None:
            return False
        if self.effect is Effect.DENY:
            return any(glob.may_match(readings) for glob in self.resources)
        return any(glob.must_match(readings) for glob in self.resources)


@dataclass(frozen=True, slots=True)
class Scope:
    """The rules on one tool for callers of one kind. ``closed`` are the lists that allow nothing here at all.

    ``permissions`` has an entry for each list that allows something anywhere: what it allows here.
    """

    denials: tuple[Rule, ...]
    permissions: tuple[tuple[Rule, ...], ...]

    @property
    def shut(self) -> Decision | None:
        """Why nothing of the tool may be used, whatever it offers; None if something may."""
        for rule in self.denials:
            if rule.fits_everything:
                return Decision(allowed=False, ground=Ground.RULE, rule=rule.id)
        if not all(self.permissions):
            return Decision(allowed=False, ground=Ground.NOT_ALLOWED)
        return None

    def decide(self, capability: Capability | None) -> Decision:
        """What the rules say of one capability; None is what names none, and is allowed only with everything else."""
        if (shut := self.shut) is not None:
            return shut
        if capability is None:
            return self._unnamed()
        readings = None
        if capability.kind in _URIS and any(rule.resources is not None for rule in self._rules()):
            readings = readings_of(capability.name)
            if readings is None:
                return Decision(allowed=False, ground=Ground.UNCLEAR)
        for rule in self.denials:
            if rule.fits(capability, readings):
                return Decision(allowed=False, ground=Ground.RULE, rule=rule.id)
        by = ""
        for rules in self.permissions:
            found = next((rule for rule in rules if rule.fits(capability, readings)), None)
            if found is None:
                return Decision(allowed=False, ground=Ground.NOT_ALLOWED)
            by = found.id
        return Decision(allowed=True, rule=by) if by else ALLOWED

    def _rules(self) -> Iterator[Rule]:
        yield from self.denials
        for rules in self.permissions:
            yield from rules

    def _unnamed(self) -> Decision:
        clear = not self.denials and all(
            any(rule.fits_everything for rule in rules) for rules in self.permissions
        )
        return ALLOWED if clear else Decision(allowed=False, ground=Ground.UNCLEAR)


@dataclass(frozen=True, slots=True)
class Kind:
    """Callers whom the same rules are about: whatever is decided for one of them holds for all."""

    fitting: frozenset[Rule]


@dataclass(slots=True)
class RuleSet:
    """All rules, compiled. Safe from any thread: what is remembered can be worked out again at any time."""

    common: tuple[Rule, ...] = ()
    by_tool: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    _kinds: dict[Caller, Kind] = field(default_factory=dict, init=False, repr=False)
    _scopes: dict[tuple[Kind, str], Scope] = field(default_factory=dict, init=False, repr=False)
    _decided: dict[tuple[Kind, str, Capability], Decision] = field(
        default_factory=dict, init=False, repr=False
    )

    def __bool__(self) -> bool:
        """Whether there is any rule."""
        return bool(self.common) or any(self.by_tool.values())

    def kind_of(self, caller: Caller) -> Kind:
        """Which of the rules are about a caller."""
        found = self._kinds.get(caller)
        if found is None:
            found = Kind(frozenset(rule for rule in self._all() if rule.fits_caller(caller)))
            _remember(self._kinds, caller, found)
        return found

    def scope_of(self, kind: Kind, tool: str) -> Scope:
        """The rules on a tool for callers of a kind."""
        found = self._scopes.get((kind, tool))
        if found is None:
            found = self._scope(kind, tool)
            _remember(self._scopes, (kind, tool), found)
        return found

    def decide(self, caller: Caller, tool: str, capability: Capability | None) -> Decision:
        """What the rules say of one call."""
        return self.decide_for(self.kind_of(caller), tool, capability)

    def decide_for(self, kind: Kind, tool: str, capability: Capability | None) -> Decision:
        """The same for any caller of a kind."""
        if capability is None or len(capability.name) > LONGEST_CACHED:
            return self.scope_of(kind, tool).decide(capability)
        found = self._decided.get((kind, tool, capability))
        if found is None:
            found = self.scope_of(kind, tool).decide(capability)
            _remember(self._decided, (kind, tool, capability), found)
        return found

    def _all(self) -> Iterator[Rule]:
        yield from self.common
        for rules in self.by_tool.values():
            yield from rules

    def _scope(self, kind: Kind, tool: str) -> Scope:
        lists = [rules for rules in (self.common, self.by_tool.get(tool, ())) if rules]
        here = [[rule for rule in rules if rule in kind.fitting and rule.fits_tool(tool)] for rules in lists]
        denials = [rule for rules in here for rule in rules if rule.effect is Effect.DENY]
        permissions = [
            tuple(rule for rule in fitting if rule.effect is Effect.ALLOW)
            for rules, fitting in zip(lists, here, strict=True)
            if any(rule.effect is Effect.ALLOW for rule in rules)
        ]
        return Scope(tuple(denials), tuple(permissions))


def _remember(known: dict[K, V], key: K, value: V) -> None:
    if len(known) >= MOST_CACHED:
        known.clear()
    known[key] = value
