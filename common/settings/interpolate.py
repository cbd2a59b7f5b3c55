"""References to environment variables in the strings of the file.

``${NAME}`` and ``${env:NAME}`` stand for a variable's value, ``${NAME:-default}`` for the default if the
variable is unset or empty, ``$$`` for one dollar sign. Anything else after a dollar sign is left as it is
(``$HOME``, ``$5``). An unset variable without a default is a fault: no token ``${TOKEN}`` is sent to anybody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.settings.document import MAX_DEPTH, MAX_NODES, KeyPath

_DOLLAR = re.compile(r"\$\$|\$\{(?P<body>[^{}]*)\}|\$\{")
_BODY = re.compile(r"(?:env:)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<rest>:-(?P<default>.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A reference that stands for nothing."""

    path: KeyPath
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpolated:
    """The tree with every good reference replaced, and what was wrong with the others.

    In the place of a variable that is not set stands a word, so that what is around it can still be examined: nothing
    would be an empty text, or one that ends with a space. A tree with faults is never used.
    """

    tree: Any
    faults: tuple[Fault, ...]


def interpolate(tree: Any, environ: Mapping[str, str]) -> Interpolated:
    """Replace the references in every string of ``tree``, in one pass; keys are left alone."""
    walk = _Walk(environ=environ)
    return Interpolated(tree=walk.value(tree, ()), faults=tuple(walk.faults))


@dataclass(slots=True, kw_only=True)
class _Walk:
    environ: Mapping[str, str]
    faults: list[Fault] = field(default_factory=list)
    seen: int = 0

    def value(self, value: Any, path: KeyPath) -> Any:
        self.seen += 1
        if self.seen > MAX_NODES or len(path) > MAX_DEPTH:
            if self.seen <= MAX_NODES + 1:
                self.faults.append(Fault(path=(), message="too many values, or nested too deeply"))
            self.seen = MAX_NODES + 1
            return None
        if isinstance(value, str):
            return self.text(value, path)
        if isinstance(value, Mapping):
            return {key: self.value(item, (*path, str(key))) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item, (*path, index)) for index, item in enumerate(value)]
        return value

    def text(self, text: str, path: KeyPath) -> str:
        return _DOLLAR.sub(lambda found: self.replacement(found, path), text)

    def replacement(self, found: re.Match[str], path: KeyPath) -> str:
        if found[0] == "$$":
            return "$"
        body = _BODY.fullmatch(found["body"] or "")
        if body is None:
            self.fault(
                path,
                "holds '${' that begins no reference: write ${NAME}, ${NAME:-default}, or $$ for a dollar",
            )
            return ""
        name, default = body["name"], body["default"]
        value = self.environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            self.fault(
                path, f"the environment variable {name} is not set: set it, or write ${{{name}:-default}}"
            )
            return f"unset-{name}"
        return value

    def fault(self, path: KeyPath, message: str) -> None:
        self.faults.append(Fault(path=path, message=message))
