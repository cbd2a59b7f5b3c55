"""References in the files of clients, rewritten as ours.

Claude Code knows ``${NAME}`` and ``${NAME:-default}``; Cursor and VS Code know ``${env:NAME}`` and names of
their own (``${userHome}``, ``${workspaceFolder}``, ``${input:id}``...). People move entries between clients,
so all of them are understood in every file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_DOLLAR = re.compile(r"\$\{(?P<body>[^{}]+)\}|\$(?=[${])")
_VARIABLE = re.compile(r"(?:env:)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<rest>:-.*)?", re.DOTALL)
_OF_CLIENT = re.compile(r"(?P<kind>[A-Za-z]+):(?P<id>.+)", re.DOTALL)
_NOT_NAME = re.compile(r"[^A-Za-z0-9]+")

HOME = "userHome"
_SEPARATORS = frozenset({"pathSeparator", "/"})
_WORKSPACE: Mapping[str, str] = {
    "workspaceFolder": "WORKSPACE_FOLDER",
    "workspaceRoot": "WORKSPACE_FOLDER",
    "workspaceFolderBasename": "WORKSPACE_FOLDER_BASENAME",
}


def environment_name(*words: str) -> str:
    """Words as the name of an environment variable: ``input``, ``api-key`` -> ``INPUT_API_KEY``."""
    name = "_".join(_NOT_NAME.sub("_", word).strip("_").upper() for word in words).strip("_")
    return f"_{name}" if not name or name[0].isdigit() else name


@dataclass(slots=True, kw_only=True)
class Rewriter:
    """Rewrites the references of one file, and gathers what the operator has to know and to set.

    ``defaults`` holds the default values of the file's inputs by id.
    """

    defaults: Mapping[str, str] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    variables: dict[str, None] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)

    def rewrite(self, value: Any) -> Any:
        """``value`` with every reference in every string rewritten."""
        if isinstance(value, str):
            return _DOLLAR.sub(self._replacement, value)
        if isinstance(value, Mapping):
            return {key: self.rewrite(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.rewrite(item) for item in value]
        return value

    def _replacement(self, found: re.Match[str]) -> str:
        body = found["body"]
        if body is None:
            # To clients this dollar is plain text; two of ours are one dollar.
            return "$$"
        if body == HOME:
            return "${HOME}"
        if body in _SEPARATORS:
            return "/"
        if body in _WORKSPACE:
            name = _WORKSPACE[body]
            return self._stand_in(body, name, "the gateway has no workspace", owner=name)
        variable = _VARIABLE.fullmatch(body)
        if variable is not None:
            return f"${{{variable['name']}{variable['rest'] or ''}}}"
        of_client = _OF_CLIENT.fullmatch(body)
        if of_client is not None:
            return self._input(of_client["kind"], of_client["id"])
        return f"${found[0]}"

    def _input(self, kind: str, name: str) -> str:
        reason = "the gateway asks for no input" if kind == "input" else "only the client knows it"
        default = self.defaults.get(name) if kind == "input" else None
        body = f"{kind}:{name}"
        unique = self._stand_in(body, environment_name(kind, name), reason, owner=body)
        usable = default is not None and not set("{}") & set(default)
        return f"{unique[:-1]}:-{default}}}" if usable else unique

    def _stand_in(self, body: str, name: str, reason: str, *, owner: str) -> str:
        """A reference to a variable for something only the client has; two owners never share one."""
        unique, number = name, 1
        while self._names.setdefault(unique, owner) != owner:
            number += 1
            unique = f"{name}_{number}"
        self.variables[unique] = None
        self.notes[f"'{body}' became the environment variable {unique}, since {reason}: set it"] = None
        return f"${{{unique}}}"
