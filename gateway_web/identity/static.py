"""The resolvers that look at nothing but the request and the settings: none, and header."""

from __future__ import annotations

from common.domain.ids import ClientId, TenantId, checked_id
from common.domain.invocation import Caller
from common.ports import RequestFacts
from common.settings import IdentitySettings
from gateway_web.identity.refusals import Ambiguous, Reason, Unrecognised

MOST_SCOPES = 200


class NobodyResolver:
    """Everybody is the same caller. The settings admit it on a loopback address only."""

    def __init__(self, settings: IdentitySettings) -> None:
        self.caller = Caller(
            tenant=TenantId(settings.default_tenant), client=ClientId(settings.default_client)
        )

    def resolve(self, request: RequestFacts) -> Caller:  # noqa: ARG002 - the port's signature
        """The one caller."""
        return self.caller


class HeaderResolver:
    """Takes the caller from headers that a trusted proxy sets, and strips from what its clients send."""

    def __init__(self, settings: IdentitySettings) -> None:
        self._tenant = settings.tenant_header
        self._client = settings.client_header
        self._subject = settings.subject_header
        self._scopes = settings.scopes_header
        names = (self._tenant, self._client, self._subject, self._scopes)
        self._names = [name for name in names if name is not None]

    def resolve(self, request: RequestFacts) -> Caller | None:
        """The caller in the headers; None if there is none of them."""
        if not any(name.lower() in request.headers for name in self._names):
            return None
        if not request.from_proxy:
            raise Unrecognised(
                Reason.UNTRUSTED_PEER, "headers that say who calls are taken from web.trusted_proxies only"
            )
        return Caller(
            tenant=TenantId(self._value(request, self._tenant)),
            client=ClientId(self._value(request, self._client)),
            subject=self._optional(request, self._subject),
            scopes=frozenset(self._optional(request, self._scopes).split()[:MOST_SCOPES]),
        )

    def _value(self, request: RequestFacts, name: str) -> str:
        value = self._optional(request, name)
        if not value:
            raise Unrecognised(Reason.MALFORMED, f"the header {name} is missing")
        return checked_id(value, field=name)

    @staticmethod
    def _optional(request: RequestFacts, name: str | None) -> str:
        value = "" if name is None else request.headers.get(name.lower(), "").strip()
        # WSGI joins repeated headers by a comma: two of them must not read as one strange id.
        if "," in value:
            raise Ambiguous(f"the header {name} was given twice, or holds a comma", field=str(name))
        return value
