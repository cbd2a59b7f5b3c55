"""Adding entries to the text of a canalgate.yaml.

Where ``tools`` is absent, or is a mapping in block style and no entry replaces another, the new entries are
put into the text and everything else, comments included, stays as it is. Otherwise the whole document is
written anew: its data stay, its comments and its layout are lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from common.domain.errors import ConfigurationError
from common.settings import document
from common.settings.problems import shown

_NAME = "canalgate.yaml"


def merge_into_yaml(text: str, entries: Mapping[str, Mapping[str, Any]], *, replace: bool = False) -> str:
    """``text`` with ``entries`` among its tools.

    :class:`ConfigurationError` if the text is no such document, or if a name is taken and ``replace`` is not
    set.
    """
    tree = document.parse(text, name=_NAME).tree
    tree = {} if tree is None else tree
    tools = tree.get("tools") if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or not isinstance(tools, dict | None):
        raise ConfigurationError(f"{_NAME}: tools must be a mapping inside a mapping")
    taken = [name for name in entries if name in (tools or {})]
    if taken and not replace:
        names = ", ".join(shown(name) for name in taken)
        raise ConfigurationError(
            f"{_NAME} already has a tool of this name: {names}; rename it, or replace it"
        )
    wanted = {**tree, "tools": {**(tools or {}), **entries}}
    if not entries:
        return text
    if not taken:
        grown = _insert(text, entries)
        if grown is not None and _same(grown, wanted):
            return grown
    return _dump(wanted)


def _dump(data: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(_plain(data), sort_keys=False, allow_unicode=True, width=110)
    if _same(text, data):
        return text
    # PyYAML writes some line separators (U+0085) in a way that it reads back as spaces.
    return yaml.safe_dump(_plain(data), sort_keys=False, width=110)


def _plain(value: Any) -> Any:
    """Fresh dicts and lists, so that nothing is written as an alias of something else."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _same(text: str, wanted: Mapping[str, Any]) -> bool:
    try:
        return bool(document.parse(text, name=_NAME).tree == _plain(wanted))
    except ConfigurationError:
        return False


def _insert(text: str, entries: Mapping[str, Any]) -> str | None:
    """``text`` with the entries' lines put in; None where that cannot be done."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    tools = _value_of(root, "tools")
    if root is None or (isinstance(root, yaml.MappingNode) and tools is None and not root.flow_style):
        return "".join(lines) + _dump({"tools": entries})
    if not isinstance(tools, yaml.MappingNode) or tools.flow_style or not tools.value:
        return None
    indent = tools.value[0][0].start_mark.column
    # A block ends where the next token begins: at column 0 of a later line, or where the text stops.
    after = tools.end_mark.line if tools.end_mark.column == 0 else len(lines)
    while after > 0 and _belongs_below(lines[after - 1], indent):
        after -= 1
    block = "".join(" " * indent + line for line in _dump(entries).splitlines(keepends=True))
    return "".join([*lines[:after], block, *lines[after:]])


def _belongs_below(line: str, indent: int) -> bool:
    """True for blank lines, and for comments that stand further left than the tools do."""
    bare = line.strip()
    return not bare or (bare.startswith("#") and len(line) - len(line.lstrip(" ")) < indent)


def _value_of(root: yaml.Node | None, key: str) -> yaml.Node | None:
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    return next((value for name, value in pairs if getattr(name, "value", None) == key), None)
