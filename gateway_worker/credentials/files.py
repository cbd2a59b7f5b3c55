"""Credentials in mounted files, one a value, as Kubernetes mounts secrets."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from pathlib import Path

from common.domain.credentials import MAX_VALUE_BYTES, MAX_VALUES, CredentialRequest, Credentials, safe_part

SEEN_WITHIN = 1.0
"""Seconds after which files are looked at again: reading them costs little, and there is nobody to ask too often."""
DATA = "..data"
"""The link that Kubernetes turns from one version of a mounted secret to the next."""
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class FileProvider:
    """Knows ``<directory>/<tool>[/<tenant>[/<client>]]/<key>``, ids as :func:`safe_part` spells them.

    Ids that differ in case alone are two, on a file system that takes them for one as well: there the second has no
    credentials. A file holds one value as UTF-8; one line feed at its end is not part of it. What is no plain file is
    passed over, and a link that leads out of its directory is a failure. Without the directory itself every request is
    a failure: a mount that is gone must not read as a secret that never was.
    """

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    async def resolve(self, request: CredentialRequest) -> Credentials | None:
        """See :class:`~common.ports.CredentialsProvider`."""
        return await asyncio.to_thread(self._read, request)

    def _read(self, request: CredentialRequest) -> Credentials | None:
        if not self._directory.is_dir():
            raise FileNotFoundError("credentials.directory is no directory")
        ids = [part for part in (request.tool, request.tenant, request.client) if part is not None]
        place = self._directory
        for part in map(safe_part, ids):
            place = place / part
            if not place.is_dir() or not _is_so_named(place):
                return None
        if not place.resolve().is_relative_to(self._directory.resolve()):
            raise PermissionError("a directory of credentials leads out of credentials.directory")
        # Followed once: a version that is mounted meanwhile must not mix with this one.
        data = (place / DATA).resolve() if (place / DATA).is_dir() else place.resolve()
        if not data.is_relative_to(place.resolve()):
            raise PermissionError("a directory of credentials leads out of its place")
        names = sorted(name for name in os.listdir(data) if _KEY.fullmatch(name))
        if len(names) > MAX_VALUES:
            raise ValueError(f"a directory of credentials holds more than {MAX_VALUES} files")
        values = {name: value for name in names if (value := _value(data, name)) is not None}
        return Credentials.of(values, max_age=SEEN_WITHIN) if values else None


def _is_so_named(place: Path) -> bool:
    """Whether a directory that is there has this very name. Where case does not count, ``Acme`` would open ``acme``'s.

    Only what the file system says of the other case tells that it may not: then the names themselves are read.
    """
    other = place.with_name(place.name.swapcase())
    return other == place or not other.exists() or place.name in os.listdir(place.parent)


def _value(directory: Path, name: str) -> str | None:
    """What a file holds; None for what is no plain file. Never waits, as it would for a named pipe."""
    path = (directory / name).resolve()
    if not path.is_relative_to(directory):
        raise PermissionError("a file of credentials leads out of its directory")
    if not path.is_file():
        return None
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None
        raw = file.read(MAX_VALUE_BYTES + 2)
    return raw.removesuffix(b"\n").decode() or None
