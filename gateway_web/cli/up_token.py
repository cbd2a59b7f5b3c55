"""The token by which whoever runs ``canalgate up`` speaks to its admin API, without any settings."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import orjson

from common.settings import Settings
from common.settings.layers import variable_of

NAME = "laptop"
"""What the audit journal calls him: ``admin:laptop``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnToken:
    """A token that holds as long as this gateway runs, and the file (mode 0600) in which it stands."""

    file: Path
    token: str = field(repr=False)

    @property
    def variables(self) -> dict[str, str]:
        """What the web program needs in its environment."""
        token = {"name": NAME, "token": self.token, "role": "admin"}
        return {
            variable_of("admin", "enabled"): "true",
            variable_of("admin", "tokens"): orjson.dumps([token]).decode(),
        }


@contextmanager
def own_token(settings: Settings, host: str, directory: Path) -> Iterator[OwnToken | None]:
    """A new token in the state directory, gone with the end of the block.

    None, and no admin API, where others reach the listener; None too where the settings say something of ``admin``, if
    only that it is off: then that holds.
    """
    file = directory / "admin-token"
    file.unlink(missing_ok=True)  # left over from one that was killed
    if settings.admin.model_fields_set or not _loopback(host):
        yield None
        return
    made = OwnToken(file=file, token=secrets.token_urlsafe(32))
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as written:
        written.write(made.token + "\n")
    try:
        yield made
    finally:
        file.unlink(missing_ok=True)


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
