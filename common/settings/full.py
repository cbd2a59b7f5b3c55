"""A file with every setting, its default and its meaning: ``python -m common.settings.full``.

What has a default is set to it, so the file as it stands is a gateway with the two tools at its end. What has none, and
what may stand in a list, is there behind ``#`` without a space: taken away, it is set as well.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from common.settings.audit_sinks import SINK_OPTIONS
from common.settings.entry import CustomEntry, HttpEntry, StdioEntry
from common.settings.layers import variable_of
from common.settings.model import SECTIONS
from common.settings.reference import kind_of, unit_of
from common.settings.samples import sample_of
from common.settings.section import Section

WIDTH = 114
HEAD = """\
Every setting of Canalgate, made from the settings themselves (`python -m common.settings.full`).
docs/configuration.md explains them.

A key that is set has its default here: leave out what you do not change. A line that begins with # and no
space is switched off, for it has no default, or is an entry of a list: its value is an example."""
TOOLS: Mapping[str, type[Section]] = {"a-process": StdioEntry, "an-endpoint": HttpEntry}
OFF: Mapping[str, type[Section]] = {"of-your-own": CustomEntry}
"""Kinds of tools that no example could stand for: their entries are switched off."""


def render() -> str:
    """The whole file."""
    lines = [*_prose(HEAD)]
    for name, model in SECTIONS.items():
        lines += ["", *_prose(str(model.__doc__)), f"{name}:"]
        lines += _indented(_fields(model, section=name))
    lines += ["", "# The backend MCP servers, by name.", "tools:"]
    for name, model in TOOLS.items():
        entry = [*_prose(str(model.__doc__)), f"{name}:", *_indented(_fields(model))]
        lines += _indented([*entry, ""])
    for name, model in OFF.items():
        entry = [*_prose(str(model.__doc__)), f"{name}:", *_indented(_fields(model))]
        lines += _indented([f"#{line}" for line in entry] + [""])
    return "\n".join(lines).rstrip() + "\n"


def _fields(model: type[Section], section: str = "") -> Iterator[str]:
    """Each field's comment and its line, with the entries that it may have below."""
    schemas = model.model_json_schema()["properties"]
    for key, field in model.model_fields.items():
        facts = [kind_of(schemas[key])]
        if unit := unit_of(field):
            facts.append(f"in {unit}")
        if field.is_required():
            facts.append("required")
        if section:
            facts.append(variable_of(section, key))
        yield from _prose(f"{field.description} [{'; '.join(facts)}]")
        yield from _lines(model, key, field, schemas[key])


def _lines(model: type[Section], key: str, field: FieldInfo, schema: Mapping[str, Any]) -> Iterator[str]:
    default = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
    nested = list(_nested(model, key, field))
    if default is not None:
        yield f"{key}: {_plain(default)}"
    elif field.is_required():
        yield f"{key}: {_plain(sample_of(model, key, schema))}"
    elif not nested:
        yield f"#{key}: {_plain(sample_of(model, key, schema))}"
    if nested:
        yield from ("#" + line for line in [f"{key}:", *_indented(nested)])


def _nested(model: type[Section], key: str, field: FieldInfo) -> Iterator[str]:
    """What may stand in a list or a mapping, if that is a part of the settings itself."""
    if key == "options" and model.__name__ == "AuditSink":
        for kind, options in SINK_OPTIONS.items():
            yield from _prose(f"{kind}: {options.__doc__}")
            yield from ("#" + line for line in _fields(options))
        return
    yield from _of_type(field.annotation)


def _of_type(kind: Any) -> Iterator[str]:
    if isinstance(kind, type) and issubclass(kind, Section):
        yield from _prose(str(kind.__doc__))
        yield from _fields(kind)
        return
    origin, members = get_origin(kind), get_args(kind)
    if origin is dict:
        below = list(_of_type(members[1]))
        yield from ["<name>:", *_indented(below)] if below else []
        return
    below = [line for member in members for line in _of_type(member)]
    yield from _item(below) if origin is tuple and below else below


def _item(lines: list[str]) -> list[str]:
    """The lines as an entry of a list."""
    return ["-", *_indented(lines)]


def _indented(lines: Any) -> list[str]:
    return [f"  {line}" if line else "" for line in lines]


def _prose(text: str) -> list[str]:
    return [
        f"# {line}".rstrip()
        for paragraph in text.splitlines()
        for line in textwrap.wrap(paragraph, WIDTH) or [""]
    ]


def _plain(value: Any) -> str:
    """A value in JSON, which is YAML as well."""
    if isinstance(value, Section):
        value = value.model_dump(mode="json")
    return json.dumps(value, ensure_ascii=False, default=str)


if __name__ == "__main__":
    sys.stdout.write(render())
