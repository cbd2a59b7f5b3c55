"""What policy speaks of: the capability that is asked for, the question on a call, and what was decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from common.domain.errors import GatewayError, PolicyDenied, ToolNotFound
from common.domain.ids import ToolId
from common.domain.invocation import Caller


class CapabilityKind(StrEnum):
    """What a tool offers, as rules tell it apart."""

    TOOL = "tool"
    RESOURCE = "resource"
    TEMPLATE = "resource_template"
    PROMPT = "prompt"


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that a tool offers, or may offer: the name of an MCP tool or prompt, the URI of a resource or template.

    Names are the tool's own, never those with a prefix.
    """

    kind: CapabilityKind
    name: str


class Ground(StrEnum):
    """Why a call was denied; a word for records and counters."""

    RULE = "rule"
    """A rule denies it."""
    NOT_ALLOWED = "not_allowed"
    """There is a list of what is allowed, and it is not on it."""
    UNCLEAR = "unclear"
    """It cannot be held against the rules: a URI with several readings, a method that names no capability."""
    EVALUATOR = "evaluator"
    """The evaluator says no."""
    EVALUATOR_ERROR = "evaluator_error"
    """The evaluator raised, took too long, had no room or answered nonsense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What policy says of one call. ``rule`` is the id of the rule that decided, ``evaluator`` who was asked.

    ``reason`` is the evaluator's own, or what was wrong with it; it goes into records. Only an answer's is told to the
    caller, who learns nothing of rules.
    """

    allowed: bool
    ground: Ground | None = None
    rule: str = ""
    evaluator: str = ""
    reason: str = ""

    def error(self) -> PolicyDenied:
        """What the caller of a denied call is told: the same whether there is such a capability or not."""
        error = self._told()
        parts = {"rule": self.rule, "evaluator": self.evaluator, "fault": self.fault}
        error.note = ", ".join(f"{name} {value}" for name, value in parts.items() if value)
        return error

    @property
    def fault(self) -> str:
        """What was wrong with the evaluator; empty if nothing was."""
        return self.reason if self.ground is Ground.EVALUATOR_ERROR else ""

    def _told(self) -> PolicyDenied:
        match self.ground:
            case Ground.UNCLEAR:
                return PolicyDenied(
                    "policy denies this call: the name of what it asks for has more than one reading; "
                    "send it as the list gives it",
                    reason=self.ground,
                )
            case Ground.EVALUATOR if self.reason:
                return PolicyDenied(f"policy denies this call: {self.reason}", reason=self.ground)
            case Ground.EVALUATOR_ERROR:
                return PolicyDenied(
                    "policy denies this call: it could not be decided", reason=self.ground.value
                )
        return PolicyDenied("policy denies this call", reason=self.ground)


ALLOWED = Decision(allowed=True)


def no_tool(tool: str, *, hidden: bool = False) -> ToolNotFound:
    """A tool that is not there, or (``hidden``) not there for this caller: only the records tell which."""
    error = ToolNotFound(f"no tool {tool!r} is registered")
    if hidden:
        record_as_hidden(error)
    return error


def record_as_hidden(error: GatewayError) -> None:
    """The error stands for what policy hides from the caller: records say so."""
    error.note = "hidden from the caller by policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """How much is going on in the whole cluster, for evaluators that ask for it."""

    tool_calls: int
    """Calls of the tool that workers hold."""
    tool_waiting: int
    """Calls in the tool's queue that any worker may take."""
    tenant_sessions: int
    """Tool sessions of the tenant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What an evaluator is asked about one call. Its arguments may be secret: they belong into no log and no error."""

    caller: Caller
    tool: ToolId
    method: str
    capability: Capability | None
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    request_id: str | int | None = None
    counters: Counters | None = None

    def as_json(self) -> dict[str, Any]:
        """The question as plain JSON, as OPA, Cedar and CEL are given it: every key is always there.

        ``counters`` is null where nobody asked for them, ``kind`` and ``name`` are empty for what names no capability.
        """
        counters = self.counters
        return {
            "tenant": self.caller.tenant,
            "client": self.caller.client,
            "subject": self.caller.subject,
            "scopes": sorted(self.caller.scopes),
            "tool": self.tool,
            "kind": "" if self.capability is None else self.capability.kind.value,
            "name": "" if self.capability is None else self.capability.name,
            "method": self.method,
            "arguments": dict(self.arguments),
            "request_id": "" if self.request_id is None else str(self.request_id),
            "counters": None if counters is None else asdict(counters),
        }
