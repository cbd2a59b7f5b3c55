"""Access tokens for the subject that calls: OAuth 2.0 token exchange (RFC 8693).

The caller's own token is no part of it: it never leaves the web process. What is exchanged is a statement of a minute's
life that the gateway makes itself, of whom it recognised, with a key of the operator's.
"""

from __future__ import annotations

from typing import Any

import structlog

from common.credentials.subjects import joined_subjects
from common.domain.credentials import CredentialRequest, Credentials
from common.domain.errors import ConfigurationError
from common.settings import Settings
from gateway_worker.credentials.given import GivenSecret
from gateway_worker.credentials.key_purposes import check_purposes
from gateway_worker.credentials.signing import ACTOR, SUBJECT, Signer
from gateway_worker.credentials.token_endpoint import Form, TokenEndpoint

log = structlog.get_logger(__name__)

GRANT = ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"
ISSUED = frozenset((JWT_TYPE, "urn:ietf:params:oauth:token-type:access_token"))
KINDS = ("bearer", "n_a")


class TokenExchangeProvider:
    """Knows ``access_token`` and ``token_type`` for each subject of the tools in ``token_exchange.exchanges``."""

    def __init__(self, settings: Settings) -> None:
        """Raises :class:`ConfigurationError` without entries, and for a secret, key or file that is unfit."""
        section = self._section = settings.token_exchange
        if not section.exchanges:
            raise ConfigurationError(
                "the credentials provider token_exchange needs an entry in token_exchange.exchanges",
                field="token_exchange.exchanges",
            )
        key = GivenSecret("token_exchange.signing_key", section.signing_key, section.signing_key_file)
        self._signer = Signer(key, section.signing_algorithm, section.signing_key_id)
        check_purposes(settings, self._signer)
        for text in joined_subjects(settings):
            log.warning("subjects_of_all_tenants", reason=text)
        self._endpoints = {
            entry.request: (
                TokenEndpoint(
                    entry,
                    f"token_exchange.exchanges[{index}]",
                    settings.egress.rules,
                    settings.credentials.timeout,
                ),
                entry.subject_audience or entry.token_url,
            )
            for index, entry in enumerate(section.exchanges)
        }

    async def resolve(self, request: CredentialRequest) -> Credentials | None:
        """See :class:`~common.ports.CredentialsProvider`. Asks each time: the worker's cache keeps what is answered."""
        found = self._place(request)
        if not request.subject or found is None:
            return None
        endpoint, audience = found
        return await endpoint.token(
            lambda: self._grant(request, audience), self._section.leeway, KINDS, ISSUED
        )

    def _grant(self, request: CredentialRequest, audience: str) -> Form:
        form = [
            GRANT,
            ("subject_token", self._signed(SUBJECT, audience, **_of_subject(request))),
            ("subject_token_type", JWT_TYPE),
        ]
        if self._section.actor is not None:
            form += [
                ("actor_token", self._signed(ACTOR, audience, sub=self._section.actor)),
                ("actor_token_type", JWT_TYPE),
            ]
        return form

    def _place(self, request: CredentialRequest) -> tuple[TokenEndpoint, str] | None:
        """Where the client's tokens come from, else the tenant's, else everybody's; and the audience there."""
        for tenant, client in ((request.tenant, request.client), (request.tenant, None), (None, None)):
            found = self._endpoints.get(CredentialRequest(tool=request.tool, tenant=tenant, client=client))
            if found is not None:
                return found
        return None

    def _signed(self, kind: str, audience: str, **claims: Any) -> str:
        return self._signer.sign({"iss": self._section.issuer, "aud": audience, **claims}, kind=kind)


def _of_subject(request: CredentialRequest) -> dict[str, Any]:
    """What the gateway states: whom it recognised, and what this caller may do here."""
    return {
        "sub": request.subject,
        "tenant": request.tenant,
        "client_id": request.client,
        "scope": " ".join(request.scopes),
    }
