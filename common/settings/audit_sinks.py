"""What sinks of the journal want to know, by type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, WithJsonSchema

from common.settings.fields import (
    AnyBytes,
    Events,
    Files,
    LowerCase,
    Seconds,
    SecondsOrZero,
    SecretUrl,
    checked_http_url,
)
from common.settings.section import Section
from common.settings.tls import TlsKeys

_TABLE = r"[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?"


def _postgres_url(value: SecretUrl) -> SecretUrl:
    if not value.startswith(("postgresql://", "postgres://")):
        raise ValueError("must be a URL such as postgresql://user:password@host/database")
    return value


def _table(value: str) -> str:
    if not re.fullmatch(_TABLE, value):
        raise ValueError("must be a table's name, or schema.table, in lower case letters, digits and _")
    return value


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


class WebhookOptions(TlsKeys):
    """Options of a webhook sink: JSON lines, posted."""

    url: Annotated[SecretUrl, AfterValidator(checked_http_url), WithJsonSchema({"type": "string"})] = Field(
        description="Where the records are posted; what the operator's file names may be private."
    )
    secret: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="Key of the HMAC-SHA-256 by which the receiver knows that a request is the gateway's.",
    )
    token: SecretStr | None = Field(
        default=None, min_length=1, description="Sent as `Authorization: Bearer`, if the receiver wants one."
    )
    timeout: Seconds = Field(default=10.0, description="Longest wait for each step of a request.")
    max_bytes: AnyBytes = Field(
        default=1024 * 1024,
        description="Largest body; a record alone may always go. Halved by itself when a receiver answers 413.",
    )


class PostgresOptions(Section):
    """Options of a postgres sink: a row for each record."""

    url: Annotated[SecretUrl, AfterValidator(_postgres_url), WithJsonSchema({"type": "string"})] = Field(
        description="As postgresql://user:password@host/database?sslmode=verify-full, with whatever libpq knows."
    )
    table: Annotated[str, AfterValidator(_table)] = Field(
        default="canalgate_audit",
        description="The table, with its schema if that is not the first in the path.",
    )
    create: bool = Field(
        default=True,
        description="Whether the table is made if it is not there; that needs the right to do so.",
    )
    timeout: Seconds = Field(default=10.0, description="Longest wait for a connection, and for a statement.")


class CustomOptions(Section):
    """What is given to a sink of your own, as it is; its constructor checks it."""

    values: dict[str, Any]


SINK_OPTIONS: Mapping[str, type[Section]] = {
    "file": FileOptions,
    "stdout": StdoutOptions,
    "memory": MemoryOptions,
    "webhook": WebhookOptions,
    "postgres": PostgresOptions,
}
