"""What sinks of the journal want to know, by type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from common.settings.fields import AnyBytes, Events, Files, LowerCase, Seconds, SecondsOrZero
from common.settings.section import Section


class FileOptions(Section):
    """Options of a file sink: one JSON object a line."""

    path: str = Field(min_length=1, description="The file to append to; rotated ones stand beside it.")
    fsync: Annotated[Literal["batch", "interval", "never"], LowerCase] = Field(
        default="batch",
        description="When it is forced to the disk: with every batch, at the latest after `fsync_interval`, or never. "
        "Redis keeps what was not.",
    )
    fsync_interval: Seconds = Field(default=1.0, description="Longest time between two with fsync interval.")
    rotate_bytes: AnyBytes = Field(default=64 * 1024 * 1024, description="Size at which a new file is begun.")
    rotate_after: SecondsOrZero = Field(
        default=86_400.0, description="Age of its first record at which a new file is begun; 0: any."
    )
    keep_files: Files = Field(
        default=0, description="Rotated files to keep, the newest; the others are removed. 0: all."
    )


class StdoutOptions(Section):
    """A stdout sink has no options."""


class MemoryOptions(Section):
    """Options of a memory sink, for tests and for programs that embed the gateway."""

    most: Events = Field(default=10_000, description="Most records to hold; the oldest go first.")


class CustomOptions(Section):
    """What is given to a sink of your own, as it is; its constructor checks it."""

    values: dict[str, Any]


SINK_OPTIONS: Mapping[str, type[Section]] = {
    "file": FileOptions,
    "stdout": StdoutOptions,
    "memory": MemoryOptions,
}
