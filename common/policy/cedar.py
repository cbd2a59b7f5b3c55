"""The evaluator ``cedar``: policies in Cedar, parsed once. It needs the extra ``canalgate[cedar]``.

The principal is ``Client::"<tenant>/<client>"``, both percent-encoded, in ``Tenant::"<tenant>"``; the action
``Action::"<method>"``; the resource ``Tool::"<tool>"``. All else of the question is in ``context``, what is empty left
out.

Cedar passes over a policy that fails for a request, also one that forbids: here such a request is denied.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote

from common.domain.errors import ConfigurationError
from common.domain.policy import Question
from common.ports import PolicyAnswer

_LARGEST: Final = 1 << 63
_DECIMAL: Final = Decimal("922337203685477.5807")


class CedarEvaluator:
    """Runs where it is asked: Cedar has no loops."""

    def __init__(self, name: str, policies: str) -> None:
        """Raises :class:`ConfigurationError` for policies that cannot be parsed, and if the extra is not there."""
        try:
            import cedarpy
        except ImportError:
            raise ConfigurationError(
                f"policy evaluator {name!r} needs Cedar: install canalgate[cedar]", field="policy.evaluators"
            ) from None
        self._authorise = cedarpy.is_authorized
        try:
            self._policies = cedarpy.PolicySet.from_str(policies)
        except ValueError as error:
            raise ConfigurationError(
                f"the policies of policy evaluator {name!r} do not parse: "
                f"{_place(cedarpy.PolicySet.from_str, policies)}{str(error)[:200]}",
                field="policy.evaluators",
            ) from None

    def evaluate(self, question: Question) -> PolicyAnswer:
        """Raises ValueError if a policy failed, or the question has no form in Cedar."""
        found = self._authorise(_request(question), self._policies, _entities(question))
        if found.diagnostics.errors:
            raise ValueError("a policy failed")
        return PolicyAnswer(allow=bool(found.allowed), rule=", ".join(sorted(found.diagnostics.reasons)))


def _client(question: Question) -> str:
    return "/".join(quote(part, safe="") for part in (question.caller.tenant, question.caller.client))


def _request(question: Question) -> dict[str, Any]:
    given = question.as_json()
    context = {name: given[name] for name in ("subject", "scopes", "kind", "name", "arguments", "request_id")}
    if question.counters is not None:
        context["counters"] = given["counters"]
    return {
        "principal": {"type": "Client", "id": _client(question)},
        "action": {"type": "Action", "id": question.method},
        "resource": {"type": "Tool", "id": question.tool},
        "context": _value(context),
    }


def _entities(question: Question) -> list[dict[str, Any]]:
    tenant = {"type": "Tenant", "id": question.caller.tenant}
    attributes = {"tenant": question.caller.tenant, "client": question.caller.client}
    return [
        {"uid": {"type": "Client", "id": _client(question)}, "attrs": attributes, "parents": [tenant]},
        {"uid": tenant, "attrs": {}, "parents": []},
        {"uid": {"type": "Tool", "id": question.tool}, "attrs": {}, "parents": []},
    ]


def _value(value: Any) -> Any:
    """A value as Cedar has it: no null, whole numbers of 64 bits, decimals of four digits; other numbers are text."""
    if isinstance(value, Mapping):
        # A member of these names would be read as an entity or an extension value.
        if value.keys() & {"__entity", "__extn", "__expr"}:
            raise ValueError("an argument has a name that Cedar keeps for itself")
        return {name: _value(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_value(item) for item in value if item is not None]
    if isinstance(value, float):
        exact = Decimal(repr(value))
        if abs(exact) < _DECIMAL and exact == exact.quantize(Decimal("0.0001")):
            return {"__extn": {"fn": "decimal", "arg": f"{exact:.4f}"}}
        return repr(value)
    if isinstance(value, int) and not isinstance(value, bool) and not -_LARGEST <= value < _LARGEST:
        return str(value)
    return value


_STATEMENT: Final = re.compile(r"""(?:"(?:\\.|[^"\\])*"|//[^\n]*|[^;"/]|/)*;?""")
_BLANK: Final = re.compile(r"(?:\s|//[^\n]*)*")


def _place(parse: Callable[[str], object], policies: str) -> str:
    """Where the first policy begins that does not parse by itself: the parser does not say where its fault is."""
    at = 0
    while at < len(policies):
        found = _STATEMENT.match(policies, at)
        end = at + 1 if found is None or found.end() == at else found.end()
        blank = _BLANK.match(policies, at, end)
        begins = at if blank is None else blank.end()
        try:
            parse(policies[begins:end])
        except ValueError:
            line = policies.count("\n", 0, begins) + 1
            return f"line {line}, column {begins - policies.rfind(chr(10), 0, begins)}: "
        at = end
    return ""
