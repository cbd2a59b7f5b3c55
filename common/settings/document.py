"""YAML text to a tree of plain data, strictly: no duplicate keys, no bombs, and the line of every key.

Two liberties are taken with YAML 1.1, which reads ``on`` as true and ``0123`` as 83: keys are always the
text that was written, and so are the values of a tool's ``args``, ``env`` and ``headers``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from common.domain.errors import ConfigurationError

KeyPath = tuple[str | int, ...]

MAX_TEXT = 4 * 1024 * 1024
"""Longest text in characters."""
MAX_NODES = 100_000
"""Most nodes, aliases expanded: a bound on "billion laughs"."""
MAX_DEPTH = 64

_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_TEXT_FIELDS = frozenset({"args", "env", "headers"})
_RETAGGED = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "timestamp"))
_MAY_SHOW = re.compile(r"'(?:\\?.|\\[xuU][0-9a-fA-F]+|<[a-z ]+>)'")
_IN_QUOTES = re.compile(r"'[^']*'|\"[^\"]*\"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The data, and the line (from 1) on which each key path begins."""

    tree: Any
    lines: Mapping[KeyPath, int]


def parse(text: str, *, name: str) -> Document:
    """Read one YAML document. :class:`ConfigurationError` names ``name`` and the line, never any content."""
    if len(text) > MAX_TEXT:
        raise ConfigurationError(f"{name}: longer than {MAX_TEXT} characters")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(tree=None, lines={})
        survey = _Survey(name=name)
        survey.visit(node, (), node.start_mark.line + 1)
        return Document(tree=loader.construct_document(node), lines=survey.lines)
    except yaml.reader.ReaderError as error:
        raise ConfigurationError(
            f"{name}: holds a character that YAML does not allow (U+{_code(error)})"
        ) from None
    except yaml.MarkedYAMLError as error:
        raise ConfigurationError(_explain(error, name)) from None
    except RecursionError:
        raise ConfigurationError(f"{name}: nested too deeply") from None
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
        # SafeLoader's constructors trust explicit tags: `!!timestamp x` fails on None.
        raise ConfigurationError(
            f"{name}: holds a number, date or tagged value that YAML cannot read"
        ) from None


@dataclass(slots=True, kw_only=True)
class _Survey:
    """One walk over the composed nodes, before anything is built from them."""

    name: str
    lines: dict[KeyPath, int] = field(default_factory=dict)
    seen: int = 0

    def visit(self, node: yaml.Node, path: KeyPath, line: int, *, depth: int = 0) -> None:
        self.seen += 1
        if self.seen > MAX_NODES:
            raise ConfigurationError(f"{self.name}: more than {MAX_NODES} values (aliases counted each time)")
        if depth > MAX_DEPTH:
            raise ConfigurationError(f"{self.name}:{line}: nested deeper than {MAX_DEPTH} levels")
        self.lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode):
            self._mapping(node, path, depth=depth)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.visit(item, (*path, index), item.start_mark.line + 1, depth=depth + 1)
        elif node.tag in _RETAGGED and _is_text(path):
            node.tag = _TEXT

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, *, depth: int) -> None:
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigurationError(f"{self.name}:{line}: a key must be text, not a list or a mapping")
            if key.tag == _MERGE:
                self._merge(value, path, line, depth=depth + 1)
                continue
            key.tag = _TEXT
            if key.value in first:
                where = f"{self.name}:{line}: {key.value!r} is given twice"
                raise ConfigurationError(f"{where} (first on line {first[key.value]}); remove one of the two")
            first[key.value] = line
            self.visit(value, (*path, key.value), line, depth=depth + 1)

    def _merge(self, node: yaml.Node, path: KeyPath, line: int, *, depth: int) -> None:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for part in parts:
            self.visit(part, path, line, depth=depth)


def _is_text(path: KeyPath) -> bool:
    return len(path) == 4 and path[0] == "tools" and path[2] in _TEXT_FIELDS


def _explain(error: yaml.MarkedYAMLError, name: str) -> str:
    """The parser's words without what it quotes from the text, which may be a password."""
    mark = error.problem_mark or error.context_mark
    where = f"{name}:{mark.line + 1}" if mark else name
    problem = _IN_QUOTES.sub(
        lambda found: found[0] if _MAY_SHOW.fullmatch(found[0]) else "(not shown)",
        error.problem or error.context or "not YAML",
    )
    hint = "; text that begins with one of * & ! % @ ` or holds ': ' or ' #' must be in quotes"
    return f"{where}: not valid YAML: {problem}{hint}"


def _code(error: yaml.reader.ReaderError) -> str:
    character = error.character
    return f"{character if isinstance(character, int) else ord(character):04X}"
