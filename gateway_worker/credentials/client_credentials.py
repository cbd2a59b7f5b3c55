"""Access tokens that are issued to the gateway itself: OAuth 2.0, client credentials grant (RFC 6749, section 4.4)."""

from __future__ import annotations

from common.domain.credentials import CredentialRequest, Credentials
from common.domain.errors import ConfigurationError
from common.settings import Settings
from gateway_worker.credentials.token_endpoint import TokenEndpoint

GRANT = ("grant_type", "client_credentials")
KINDS = ("bearer",)
"""A token must not be used in ways that its type does not tell (RFC 6749, section 7.1)."""


class ClientCredentialsProvider:
    """Knows ``access_token`` and ``token_type`` for whom ``client_credentials.clients`` has an entry."""

    def __init__(self, settings: Settings) -> None:
        """Raises :class:`ConfigurationError` without entries, and for a secret, key or file that is unfit."""
        section = settings.client_credentials
        if not section.clients:
            raise ConfigurationError(
                "the credentials provider client_credentials needs an entry in client_credentials.clients",
                field="client_credentials.clients",
            )
        self._leeway = section.leeway
        self._endpoints = {
            entry.request: TokenEndpoint(
                entry,
                f"client_credentials.clients[{index}]",
                settings.egress.rules,
                settings.credentials.timeout,
            )
            for index, entry in enumerate(section.clients)
        }

    async def resolve(self, request: CredentialRequest) -> Credentials | None:
        """See :class:`~common.ports.CredentialsProvider`. Asks each time: the worker's cache keeps what is answered."""
        endpoint = self._endpoints.get(request)
        return None if endpoint is None else await endpoint.token(lambda: [GRANT], self._leeway, KINDS)
