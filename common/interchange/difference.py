"""What is different between two definitions of a tool, for people: secrets are masked, and seen to be others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.domain.tool import Tool
from common.settings.definitions import masked_definition
from common.settings.entry_of import entry_of


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One key, dotted where it lies in a mapping. None stands for "not there"; a secret is masked.

    ``hidden`` says that the values are others though what is shown of them is the same.
    """

    field: str
    before: Any
    after: Any
    hidden: bool = False


def definition_changes(before: Tool | None, after: Tool) -> list[FieldChange]:
    """The keys of ``after`` that are others than in ``before``, sorted; without one, those that are set."""
    old, new = _flat(before, entry_of), _flat(after, entry_of)
    shown_old, shown_new = _flat(before, masked_definition), _flat(after, masked_definition)
    changes = []
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) == new.get(name):
            continue
        seen = shown_old.get(name), shown_new.get(name)
        changes.append(FieldChange(field=name, before=seen[0], after=seen[1], hidden=seen[0] == seen[1]))
    return changes


def _flat(tool: Tool | None, entry: Any) -> dict[str, Any]:
    return {} if tool is None else dict(_leaves(entry(tool)))


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        elif value is not None and value != []:
            yield f"{above}{name}", value
