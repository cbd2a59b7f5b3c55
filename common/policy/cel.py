"""The evaluator ``cel``: one expression in the Common Expression Language, compiled once.

It runs where it is asked, since it cannot wait for anything. That it ends soon is made sure before: by a bound on the
expression, and by one on how much its macros (``all``, ``exists``, ``filter``, ``map``) could have to do with what the
call brings. The library holds on to the interpreter while it evaluates, so a deadline could not help.

Source: https://github.com/google/cel-spec, "Macros".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import cel

from common.domain.errors import ConfigurationError
from common.domain.ids import ClientId, TenantId, ToolId
from common.domain.invocation import Caller
from common.domain.policy import Question
from common.policy.evaluation import TooMuch
from common.ports import PolicyAnswer

LONGEST: Final = 16 * 1024
"""Characters of an expression."""
MOST_STEPS: Final = 1_000_000
"""Of the macros of an expression in one evaluation, by a careful estimate: about a tenth of a second."""
TEXT_PER_VALUE: Final = 256
"""So many characters of text count as a value more: they are copied as well."""

_MACRO: Final = re.compile(r"\.\s*(all|exists|exists_one|filter|map|transformList|transformMap)\s*\(")
_BOUND: Final = re.compile(
    r"\.\s*(?:all|exists|exists_one|filter|map|transformList|transformMap)\s*\(\s*(\w+)\s*(?:,\s*(\w+)\s*,)?"
)
_LITERAL: Final = re.compile(
    r"""[rRbB]{0,2}(?:\"\"\".*?\"\"\"|'''.*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|//[^\n]*""",
    re.DOTALL,
)
_PLACE: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?([^\n]*)")
_TYPES: Final = frozenset(
    {"int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"}
)
_SAMPLE: Final = Question(
    caller=Caller(tenant=TenantId("t"), client=ClientId("c")),
    tool=ToolId("tool"),
    method="tools/call",
    capability=None,
)


class CelEvaluator:
    """Allows what makes the expression true; false denies. Anything else is a fault, which denies as well."""

    def __init__(self, name: str, expression: str) -> None:
        """Raises :class:`ConfigurationError` that names line and column of what does not compile."""
        self._program = compiled(name, expression)
        bare = _LITERAL.sub('""', expression)
        self._wanted = frozenset(self._program.variables()) & _SAMPLE.as_json().keys()
        self._power = _power(bare)
        _check_names(name, bare, self._program.variables())
        _try(name, self._program)

    def evaluate(self, question: Question) -> PolicyAnswer:
        """Raises :class:`TooMuch`, and whatever is wrong with the expression for this question."""
        given = question.as_json()
        wanted = {member: given[member] for member in self._wanted}
        if self._power and _size(wanted) ** self._power > MOST_STEPS:
            raise TooMuch
        found = self._program.execute(wanted)
        if not isinstance(found, bool):
            raise TypeError("the expression came to no boolean")
        return PolicyAnswer(allow=found)


def compiled(name: str, expression: str) -> Any:
    """The expression made ready. Raises :class:`ConfigurationError`."""
    if len(expression) > LONGEST:
        raise _fault(name, f"has {len(expression)} characters, more than {LONGEST}")
    try:
        return cel.compile(expression)
    except ValueError as error:
        found = _PLACE.search(str(error))
        place = "" if found is None else f"line {found[1]}, column {found[2]}: {found[3][:200]}"
        raise _fault(name, f"does not compile: {place or 'it cannot be parsed'}") from None


def _check_names(name: str, bare: str, variables: list[str]) -> None:
    bound = {word for found in _BOUND.findall(bare) for word in found if word}
    known = _SAMPLE.as_json().keys()
    for variable in variables:
        if variable not in known and variable not in bound and variable not in _TYPES:
            at = re.search(rf"(?<![\w.]){re.escape(variable)}\b", bare)
            line = 1 if at is None else bare.count("\n", 0, at.start()) + 1
            raise _fault(
                name, f"names {variable!r} in line {line}, which is none of {', '.join(sorted(known))}"
            )


def _try(name: str, program: Any) -> None:
    """Find functions that nobody has, as far as a question without anything in it leads to them."""
    try:
        program.execute(_SAMPLE.as_json())
    except RuntimeError as error:
        if "ndefined variable or function" in str(error):
            raise _fault(name, str(error).partition(". ")[0]) from None
    except Exception:  # noqa: BLE001, S110 - the sample lacks what real questions have
        pass


def _power(bare: str) -> int:
    """With which power of what a call brings the work of the macros may grow; 0 if there is none."""
    depth, deepest, opened = 0, 0, []
    macros = {found.end() - 1: found[1] for found in _MACRO.finditer(bare)}
    for at, character in enumerate(bare):
        if character == "(":
            opened.append(at in macros)
            depth += opened[-1]
            deepest = max(deepest, depth)
        elif character == ")" and opened:
            depth -= opened.pop()
    # A step may copy all that the call brought, and what `map` collects may be as large in each of its items.
    copies = 2 if any(kind.startswith(("map", "transform")) for kind in macros.values()) else 1
    return deepest + copies if macros else 0


def _size(value: object) -> int:
    """How many values there are in one, long texts counted as several."""
    left, count = [value], 0
    while left:
        item = left.pop()
        count += 1
        if isinstance(item, str):
            count += len(item) // TEXT_PER_VALUE
        elif isinstance(item, Mapping):
            left.extend(item.values())
            count += len(item)
        elif isinstance(item, list | tuple):
            left.extend(item)
    return count


def _fault(name: str, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"the expression of policy evaluator {name!r} {problem}", field="policy.evaluators"
    )
