"""Credentials that stand in the settings."""

from __future__ import annotations

from collections.abc import Iterable

from common.domain.credentials import CredentialRequest, Credentials
from common.settings.credentials import StaticCredential


class StaticProvider:
    """Knows what ``credentials.static`` lists, for exactly whom it is listed."""

    def __init__(self, entries: Iterable[StaticCredential]) -> None:
        self._known = {entry.request: _given(entry) for entry in entries}

    async def resolve(self, request: CredentialRequest) -> Credentials | None:
        """See :class:`~common.ports.CredentialsProvider`."""
        return self._known.get(request)


def _given(entry: StaticCredential) -> Credentials:
    return Credentials.of({name: value.get_secret_value() for name, value in entry.values.items()})
