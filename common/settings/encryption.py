"""The keys with which payloads in Redis are sealed: a part of the section ``redis``."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from common.settings.fields import AsList
from common.settings.section import Section

_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
SHORTEST_SECRET = 32


def _id(value: str) -> str:
    if not _ID.fullmatch(value):
        raise ValueError("must be 1 to 32 letters, digits, underscores or hyphens")
    return value


def _secret(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < SHORTEST_SECRET:
        raise ValueError(
            f"must have {SHORTEST_SECRET} characters or more, such as `openssl rand -base64 32` gives"
        )
    return value


class EncryptionKey(Section):
    """A secret from which keys are derived. Several of them make a ring: the first one seals, each of them opens."""

    id: Annotated[str, AfterValidator(_id)] = Field(
        description="Name of the key; it stands in what it sealed."
    )
    secret: Annotated[SecretStr, AfterValidator(_secret)] = Field(
        description=f"At least {SHORTEST_SECRET} characters, such as `openssl rand -base64 32` gives."
    )


def _ring(keys: tuple[EncryptionKey, ...]) -> tuple[EncryptionKey, ...]:
    ids = [key.id for key in keys]
    if len(set(ids)) != len(ids):
        raise ValueError("must not hold two keys with the same id")
    return keys


EncryptionKeys = Annotated[tuple[EncryptionKey, ...], AsList, AfterValidator(_ring)]
