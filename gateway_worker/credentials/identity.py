"""Whose credentials a session with a tool carries, and whether they are still the ones it should carry."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from common.calls.head import parts_of, subject_of
from common.credentials.injection import NOTHING, CannotInject, Injected, inject
from common.domain.credential_rules import WITHOUT_SUBJECTS, CredentialMode, CredentialRules, CredentialScope
from common.domain.credentials import CredentialRequest
from common.domain.errors import CredentialUnavailable
from common.domain.ids import ClientId, TenantId, ToolId
from common.domain.tool import Tool
from common.settings.credentials import CredentialsSettings
from gateway_worker.credentials.asking import Providers, Wanted, names_of
from gateway_worker.credentials.cache import Answer, CredentialCache

NEW_ANSWER_AFTER = 2.0
"""Seconds that an answer is believed whatever a backend says of it: who is refused all the time asks no provider all
the time."""


GivenTo = Callable[[Tool], Awaitable[Injected]]
"""What the gateway's own connections with a tool are given. Raises :class:`CredentialUnavailable`."""


async def nothing_given(_tool: Tool) -> Injected:
    """For who knows no credentials."""
    return NOTHING


class SessionIdentity:
    """Of one session. It is decided by the session's own name, never by a call's: no call can lend it another's."""

    def __init__(self, tool: ToolId, rules: CredentialRules, wanted: Wanted, cache: CredentialCache) -> None:
        self.wanted = wanted
        self.outdated = False
        """Whether the session gets no further call: the next one has a session with the credentials of then."""
        self.busy = False
        """Whether credentials are being waited for."""
        self._tool = tool
        self._rules = rules
        self._cache = cache
        self._answer: Answer | None = None

    async def given(self) -> Injected:
        """What the session is to be given. Raises :class:`CredentialUnavailable` if it needs what cannot be had."""
        self.busy = True
        try:
            answer = self._answer = await self._cache.get(self.wanted)
            found = self._injected(answer)
            if isinstance(found, str) and answer.credentials is not None:
                # Whoever has mended the secret meanwhile does not wait for the end of the answer that is kept.
                believed = time.monotonic() - NEW_ANSWER_AFTER
                answer = self._answer = await self._cache.get(self.wanted, newer_than=believed)
                found = self._injected(answer)
        finally:
            self.busy = False
        if not isinstance(found, str):
            return found
        if self._rules.mode is CredentialMode.OPTIONAL:
            return NOTHING
        request = self.wanted.request
        whose = "the client" if request.client else "the tenant" if request.tenant else "all callers"
        whose = whose if request.subject is None else "the subject"
        raise CredentialUnavailable(
            f"tool {self._tool!r} needs credentials for {whose} that cannot be had: {found}",
            reason=_reason(answer),
        )

    def _injected(self, answer: Answer) -> Injected | str:
        """What the answer gives, or why it gives nothing, in words that hold no secret."""
        if answer.credentials is None:
            failed = answer.outcome.failure
            return f"the provider {answer.outcome.provider!r} failed" if failed else "no provider knows any"
        try:
            return inject(self._rules, answer.credentials)
        except CannotInject as error:
            return str(error)

    def reconsider(self, providers: Providers) -> None:
        """Other providers are there now: the same ones are asked again, for others a new session is built."""
        if _asked_by(self._rules, providers) == self.wanted.providers:
            self.ask_again()
        else:
            self.outdated = True

    @property
    def due(self) -> bool:
        """Whether it is time to ask whether the credentials in use are still the right ones."""
        return self._answer is not None and time.monotonic() >= self._answer.due

    def ask_again(self) -> None:
        """Let it be time now."""
        if self._answer is not None:
            self._answer = replace(self._answer, due=0.0)

    async def look(self, *, newer_than: float | None = None) -> Answer | None:
        """Ask again. Others than those in use, their end, or that they are refused now, make the session outdated; a
        provider that is away does not.
        """
        used = self._answer
        if used is None:
            return None
        found = await self._cache.get(
            self.wanted, newer_than=used.asked if newer_than is None else newer_than
        )
        if found.outcome.failure:
            # What is in use stays so until it expires; the failure's own time says when to ask again.
            if found.outcome.refused or time.monotonic() >= used.expires:
                self.outdated = True
            self._answer = replace(used, due=found.due)
        elif found.fingerprint != used.fingerprint:
            self.outdated = True
        else:
            self._answer = found
        return found

    async def refused(self) -> bool:
        """The backend refused the credentials: whether others are to be had now.

        An answer that is younger than :data:`NEW_ANSWER_AFTER` is believed.
        """
        used = self._answer
        if used is None or used.credentials is None:
            return False
        if not self.outdated:
            found = await self.look(newer_than=time.monotonic() - NEW_ANSWER_AFTER)
            if found is not None and found.outcome.refused:
                return False  # outdated, and there are no others
        return self.outdated


def _reason(answer: Answer) -> str:
    if answer.outcome.refused:
        return "refused"
    return "failed" if answer.outcome.failure else "missing"


class Identities:
    """Who sessions are, by the rules of their tools. One a worker."""

    def __init__(self, providers: Providers, cache: CredentialCache, settings: CredentialsSettings) -> None:
        self._providers = providers
        self._cache = cache
        self._settings = settings

    def take_over(self, providers: Providers, settings: CredentialsSettings) -> None:
        """Make identities of others from now on."""
        self._providers, self._settings = providers, settings

    def of_session(self, tool: Tool, session: str) -> SessionIdentity | None:
        """That of a tool session with this name; None for a tool without credentials."""
        if tool.credentials is None:
            return None
        tenant, client, _ = parts_of(session)
        return self._made(tool, tool.credentials, tenant, client, *subject_of(session))

    async def of_gateway(self, tool: Tool) -> Injected:
        """What the gateway's own connections are given, for listing and probing: as whom the settings say, or nothing.

        Never as the caller of the moment. Raises :class:`CredentialUnavailable`.
        """
        rules = tool.credentials
        if rules is None:
            return NOTHING
        tenant = self._settings.discovery_tenant or ""
        client = self._settings.discovery_client or ""
        subject = self._settings.discovery_subject or ""
        missing = {
            CredentialScope.TOOL: False,
            CredentialScope.TENANT: not tenant,
            CredentialScope.CLIENT: not client,
            CredentialScope.SUBJECT: not subject,
        }
        if missing[rules.scope]:
            return NOTHING
        return await self._made(tool, rules, tenant, client, subject).given()

    def _made(
        self,
        tool: Tool,
        rules: CredentialRules,
        tenant: str,
        client: str,
        subject: str,
        scopes: tuple[str, ...] = (),
    ) -> SessionIdentity:
        own = rules.scope is CredentialScope.SUBJECT
        request = CredentialRequest(
            tool=tool.id,
            tenant=None if rules.scope is CredentialScope.TOOL else TenantId(tenant),
            client=ClientId(client) if own or rules.scope is CredentialScope.CLIENT else None,
            subject=subject if own else None,
            scopes=scopes if own else (),
        )
        wanted = Wanted(request, _asked_by(rules, self._providers))
        return SessionIdentity(tool.id, rules, wanted, self._cache)


def _asked_by(rules: CredentialRules, providers: Providers) -> tuple[str, ...]:
    """Who is asked by these rules: for a subject's credentials nobody who would give its client's."""
    names = names_of(rules.providers, providers)
    if rules.scope is not CredentialScope.SUBJECT:
        return names
    return tuple(name for name in names if name not in WITHOUT_SUBJECTS)
