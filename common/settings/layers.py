"""The layers above the file: environment variables, and what the command line says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.settings.model import SECTIONS
from common.settings.problems import Problem, nearest, shown

PREFIX = "CANALGATE_"
CONFIG_VARIABLE = "CANALGATE_CONFIG"
STATE_VARIABLE = "CANALGATE_STATE_DIR"
PROCESS_VARIABLES: Mapping[str, str] = {
    CONFIG_VARIABLE: "The configuration file to read.",
    STATE_VARIABLE: "The directory for what a local gateway keeps (its embedded server, sockets, logs).",
    "CANALGATE_URL": "The address of the gateway that `canalgate` speaks to, as `--url`.",
    "CANALGATE_TOKEN": "The bearer token that `canalgate call` sends, and the other verbs to the admin API.",
    "CANALGATE_ADMIN_TOKEN": "The token for the admin API, before `CANALGATE_TOKEN`; `canalgate call` never sends it.",
    "CANALGATE_TOKEN_FILE": "A file with the token for the admin API, as `--token-file`.",
    "CANALGATE_CA_FILE": "The authorities that `canalgate` trusts for https, as `--ca-file`.",
}
"""Variables that are no settings, and what each is for."""

COMMAND_LINE = "command line"

# Kubernetes gives every pod variables for every Service of its namespace (docker links are alike): a Service
# named `canalgate` brings CANALGATE_SERVICE_HOST and CANALGATE_PORT=tcp://10.0.0.1:8080. Those are no typos.
_SERVICE_LINK = re.compile(
    r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)"
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")


def variable_of(section: str, key: str) -> str:
    """The environment variable of a setting: ``web``, ``port`` -> ``CANALGATE_WEB__PORT``."""
    return f"{PREFIX}{section.upper()}__{key.upper()}"


VARIABLES: Mapping[str, tuple[str, str]] = {
    variable_of(section, key): (section, key)
    for section, model in SECTIONS.items()
    for key in model.model_fields
}
KEYS: Mapping[str, tuple[str, str]] = {
    f"{section}.{key}": (section, key) for section, key in VARIABLES.values()
}


@dataclass(slots=True, kw_only=True)
class Layer:
    """Values by section and key, where each came from, and what could not be understood."""

    values: dict[tuple[str, str], Any] = field(default_factory=dict)
    origins: dict[tuple[str, str], str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def put(self, place: tuple[str, str], value: Any, origin: str) -> None:
        self.values[place] = value
        self.origins[place] = origin


def from_environment(environ: Mapping[str, str]) -> Layer:
    """The settings among the environment variables; an unknown ``CANALGATE_*`` variable is a problem."""
    layer = Layer()
    for name, value in environ.items():
        if name in VARIABLES:
            layer.put(VARIABLES[name], value, name)
        elif name.startswith(PREFIX) and name not in PROCESS_VARIABLES and not _is_service_link(name, value):
            layer.problems.append(Problem(where="environment", text=_unknown_variable(name)))
    return layer


def from_command_line(overrides: Mapping[str, Any]) -> Layer:
    """Dotted keys with their values; a value of None means that the option was not given."""
    layer = Layer()
    for key, value in overrides.items():
        if key in KEYS:
            if value is not None:
                layer.put(KEYS[key], value, COMMAND_LINE)
        else:
            text = f"unknown setting '{shown(key)}'{_suggest(key, KEYS)}"
            layer.problems.append(Problem(where=COMMAND_LINE, text=text))
    return layer


def _is_service_link(name: str, value: str) -> bool:
    if _SERVICE_LINK.fullmatch(name):
        return True
    return name.endswith("_PORT") and _SERVICE_URL.match(value) is not None


def _unknown_variable(name: str) -> str:
    if name.startswith(f"{PREFIX}TOOLS"):
        return (
            f"{shown(name)} sets nothing: tools are given in the file, where ${{NAME}} stands for a variable"
        )
    return f"unknown variable {shown(name)}{_suggest(name, [*VARIABLES, *PROCESS_VARIABLES])}"


def _suggest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    hint = nearest(name, known)
    return hint if "did you mean" in hint else "; docs/configuration.md lists all settings"
