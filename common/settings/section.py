"""What every part of the settings is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the tree: frozen, no unknown keys, and no value in its error messages."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
