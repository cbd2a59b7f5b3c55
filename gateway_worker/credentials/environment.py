"""Credentials in the worker's own environment."""

from __future__ import annotations

from collections.abc import Mapping

from common.domain.credentials import CredentialRequest, Credentials, safe_part

SEPARATOR = "__"


class EnvironmentProvider:
    """Knows ``<prefix>__<tool>[__<tenant>[__<client>]]__<key>``, ids as :func:`safe_part` spells them.

    A key has no ``__`` and no ``_`` at its ends, so a variable belongs to one list of ids only.
    """

    def __init__(self, prefix: str, environ: Mapping[str, str]) -> None:
        self._prefix = prefix
        self._environ = environ

    async def resolve(self, request: CredentialRequest) -> Credentials | None:
        """See :class:`~common.ports.CredentialsProvider`."""
        ids = [part for part in (request.tool, request.tenant, request.client) if part is not None]
        front = SEPARATOR.join([self._prefix, *map(safe_part, ids)]) + SEPARATOR
        found = {
            name.removeprefix(front): value
            for name, value in self._environ.items()
            if name.startswith(front) and _is_key(name.removeprefix(front)) and value
        }
        return Credentials.of(found) if found else None


def _is_key(name: str) -> bool:
    return bool(name) and SEPARATOR not in name and name.strip("_") == name
