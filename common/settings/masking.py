"""The effective configuration for people, without its secrets."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from common.domain.tool import MASK, Tool
from common.settings.audit_sinks import CustomOptions
from common.settings.entry_of import entry_of
from common.settings.fields import SecretUrl, masked_url
from common.settings.model import SECTIONS, Settings
from common.settings.secrecy import masked_args, means_secret
from common.settings.section import Section


def masked(settings: Settings) -> dict[str, Any]:
    """Plain data in the shape of the file, defaults included.

    Hidden: passwords in URLs, API keys, every value of a tool's ``env``, ``headers`` and ``options``, and the values of
    arguments that look like secrets (:mod:`common.settings.secrecy`). ``tool_problems`` is there if any are.
    """
    shown: dict[str, Any] = {name: _plain(getattr(settings, name)) for name in SECTIONS}
    shown["tools"] = {tool.id: masked_tool(tool) for tool in settings.tools}
    if settings.tool_problems:
        shown["tool_problems"] = {problem.id: problem.message for problem in settings.tool_problems}
    return shown


def _plain(value: Any) -> Any:
    if isinstance(value, CustomOptions):
        return {name: MASK if means_secret(name) else _plain(item) for name, item in value.values.items()}
    if isinstance(value, Section):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {
            # A tenant may be called `session`: what has parts of its own is looked into.
            name: MASK if means_secret(str(name)) and not isinstance(item, tuple | dict) else _plain(item)
            for name, item in value.items()
        }
    if isinstance(value, SecretStr):
        return MASK
    return value.masked if isinstance(value, SecretUrl) else value


def masked_tool(tool: Tool) -> dict[str, Any]:
    shown = entry_of(tool)
    for name in ("env", "headers", "options"):
        if name in shown:
            shown[name] = dict.fromkeys(shown[name], MASK)
    if "url" in shown:
        shown["url"] = masked_url(shown["url"])
    if "args" in shown:
        shown["args"] = masked_args(shown["args"])
    return shown
