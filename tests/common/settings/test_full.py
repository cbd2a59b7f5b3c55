"""The file with every setting: whole, true, and working as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from pydantic import TypeAdapter

from common.settings import load
from common.settings.audit_sinks import SINK_OPTIONS
from common.settings.entry import KINDS
from common.settings.full import render
from common.settings.model import SECTIONS
from common.settings.samples import BY_KEY, SAMPLES, sample_of
from common.settings.section import Section

FILE = Path(__file__).parents[3] / "examples" / "full" / "canalgate.yaml"


def models() -> list[type[Section]]:
    """Every part of the settings."""
    found: list[type[Section]] = []

    def look(kind: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, Section) and kind not in found:
            found.append(kind)
            for field in kind.model_fields.values():
                look(field.annotation)
        for part in get_args(kind):
            look(part)

    for model in (*SECTIONS.values(), *KINDS.values(), *SINK_OPTIONS.values()):
        look(model)
    return found


def test_the_example_is_made_from_the_settings() -> None:
    """Mend it with ``python -m common.settings.full > examples/full/canalgate.yaml``."""
    assert FILE.read_text(encoding="utf-8") == render()


def test_it_changes_nothing() -> None:
    """As it stands each setting has the value that it has without a file; its two tools are good."""
    full, plain = load(FILE, {}), load(None, {})
    for name in SECTIONS:
        assert getattr(full, name) == getattr(plain, name), name
    assert [tool.id for tool in full.tools] == ["a-process", "an-endpoint"]
    assert full.tool_problems == ()


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_every_setting_is_in_it(model: type[Section]) -> None:
    """With its meaning, its description word for word."""
    said = re.sub(r"\s+", " ", re.sub(r"^[# ]*", "", render(), flags=re.MULTILINE))
    switched_on = keys_of_all_lines()
    for key, field in model.model_fields.items():
        if model.__name__ == "CustomOptions":
            continue
        assert key in switched_on, key
        assert re.sub(r"\s+", " ", str(field.description)) in said, key


def keys_of_all_lines() -> set[str]:
    """The keys that stand in it, switched off or not."""
    lines = [
        re.sub(r"^[\s#-]*", "", line) for line in render().splitlines() if not re.match(r"\s*#+ \S", line)
    ]
    return {line.partition(":")[0] for line in lines if ":" in line}


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_the_examples_of_values_are_good(model: type[Section]) -> None:
    """Each passes what its own field asks for."""
    schemas = model.model_json_schema()["properties"]
    for key, field in model.model_fields.items():
        if field.is_required() or field.get_default(call_default_factory=True, validated_data={}) is None:
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                continue
            kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
            if any(
                isinstance(part, type) and issubclass(part, Section) for part in get_args(field.annotation)
            ):
                continue
            TypeAdapter(kind).validate_python(sample_of(model, key, schemas[key]))


def test_no_example_is_of_nothing() -> None:
    """Each belongs to a setting that there is."""
    known = {f"{model.__name__}.{key}" for model in models() for key in model.model_fields}
    assert SAMPLES.keys() <= known
    assert BY_KEY.keys() <= {name.partition(".")[2] for name in known}
