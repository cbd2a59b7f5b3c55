"""Levels of single loggers, as a mapping or as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from common.settings.fields import LowerCase

Level = Annotated[Literal["debug", "info", "warning", "error"], LowerCase]


def _mapping(value: Any) -> Any:
    """``a.b=debug, c=error`` (the environment and references have only text)."""
    if not isinstance(value, str):
        return value
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, value.split(","))):
        name, equals, level = part.partition("=")
        if not equals:
            raise ValueError("must be loggers as name=level, separated by commas")
        found[name.strip()] = level.strip()
    return found


Levels = Annotated[
    Mapping[Annotated[str, Field(min_length=1, max_length=200)], Level], BeforeValidator(_mapping)
]
