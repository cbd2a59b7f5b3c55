"""What is wrong with a configuration, told so that it can be mended: where, which key, what, nearest name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic_core import ErrorDetails

from common.domain.errors import ConfigurationError
from common.settings.document import KeyPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing to mend. ``where`` is ``file:line``, a variable's name, or the command line."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


def refusal(problems: Sequence[Problem]) -> ConfigurationError:
    """All problems as one error whose message is a list."""
    lines = list(dict.fromkeys(f"  - {problem}" for problem in problems))
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    return ConfigurationError("\n".join([f"the configuration is not valid ({count}):", *lines]))


def shown(name: object) -> str:
    """A name from outside, safe for a terminal and a log."""
    text = str(name)
    return text if text.isprintable() else ascii(text)[1:-1]


def dotted(path: Sequence[str | int]) -> str:
    """``("identity", "api_keys", 0, "key")`` as ``identity.api_keys[0].key``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{shown(part)}" if text else shown(part)
    return text


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'port'?``, or the known names if none is near."""
    names = list(known)
    close = get_close_matches(name, names, n=1) or get_close_matches(name.lower(), names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known keys: {', '.join(names)}" if names else ""


def unknown_key(path: Sequence[str | int], known: Iterable[str]) -> str:
    """The sentence for a key that nobody knows."""
    *parents, key = path
    place = f" in {dotted(parents)}" if parents else ""
    return f"unknown key '{shown(key)}'{place}{nearest(str(key), known)}"


_PLAIN: Mapping[str, str] = {
    "missing": "is missing",
    "string_type": "must be text (put it in quotes)",
    "string_unicode": "holds bytes that are not UTF-8",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of names to values",
    "mapping_type": "must be a mapping of names to values",
    "model_type": "must be a mapping of keys to values",
    "finite_number": "must be a finite number",
    "string_too_short": "must not be empty",
}
_BOUNDS: Mapping[str, tuple[str, str]] = {
    "greater_than": ("must be above", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than": ("must be below", "lt"),
    "less_than_equal": ("must be at most", "le"),
    "string_too_long": ("must have at most this many characters:", "max_length"),
}
_FAMILIES: Mapping[str, str] = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "literal": "must be one of",
}


def explain(error: ErrorDetails) -> str:
    """One sentence for one finding of the validator. It never repeats the value."""
    kind: str = error["type"]
    context: Mapping[str, Any] = error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind in _BOUNDS:
        words, limit = _BOUNDS[kind]
        return f"{words} {_figure(context[limit])}"
    family = _FAMILIES.get(kind.partition("_")[0])
    if kind == "literal_error":
        return f"{family} {context['expected']}"
    return family or error["msg"]


def _figure(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and value < 1e6 else str(value)


def locate(lines: Mapping[KeyPath, int], path: Sequence[str | int]) -> int | None:
    """The line of ``path``, or of the nearest key above it that has one."""
    parts = tuple(path)
    while parts:
        if parts in lines:
            return lines[parts]
        parts = parts[:-1]
    return None
