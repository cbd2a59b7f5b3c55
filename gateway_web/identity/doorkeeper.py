"""Who calls: asked by every door, for every request and every message."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from common.domain.errors import (
    GatewayError,
    InternalError,
    InvalidRequest,
    SessionNotFound,
)
from common.domain.ids import checked_id
from common.domain.invocation import Caller, require_scopes
from common.ports import IdentityResolver, RequestFacts
from common.settings import IdentitySettings
from gateway_web.http import HttpAnswer, HttpRequest
from gateway_web.identity.credentials import check_once, presented
from gateway_web.identity.failures import Failures
from gateway_web.identity.proxies import TrustedProxies
from gateway_web.identity.refusals import Reason, Unrecognised, reason_of
from gateway_web.identity.static import NobodyResolver
from gateway_web.identity.watches import Watches

log = structlog.get_logger(__name__)

UNKNOWN = "the caller could not be recognised"


class Identity:
    """Asks the resolvers in their order. The first that knows the kind of credential decides; fails closed.

    Each refusal is audited (:class:`Failures`).
    """

    def __init__(
        self,
        resolvers: Sequence[IdentityResolver],
        settings: IdentitySettings,
        proxies: TrustedProxies,
        failures: Failures,
    ) -> None:
        self._proxies = proxies
        self._failures = failures
        self.watches = Watches(self.recognise, settings.recheck_interval)
        self._take(resolvers, settings)
        first = self._resolvers[0]
        # Where everybody is the same caller there is nothing to look at.
        self._everybody = first.caller if isinstance(first, NobodyResolver) and not self._required else None

    def take_over(self, resolvers: Sequence[IdentityResolver], settings: IdentitySettings) -> None:
        """Let these resolvers decide from now on, also on open streams: whom they do not know is gone at once.

        Not for a gateway where everybody is the same caller: nobody watches its streams.
        """
        self._take(resolvers, settings)
        self.watches.interval = settings.recheck_interval
        self.watches.call()

    def _take(self, resolvers: Sequence[IdentityResolver], settings: IdentitySettings) -> None:
        self._resolvers = tuple(resolvers)
        self._required = frozenset(settings.required_scopes)

    def identify(self, http: HttpRequest) -> Caller:
        """Who sends a request. Raises what :meth:`recognise` raises."""
        return self.recognise(self.facts(http)) if self._everybody is None else self._everybody

    def facts(self, http: HttpRequest) -> RequestFacts:
        """What there is to recognise a caller by."""
        peer = http.peer
        from_proxy = self._proxies.trusts(peer)
        forwarded = http.header("x-forwarded-for") if from_proxy else None
        return RequestFacts(
            headers=http.headers,
            remote_address=peer if forwarded is None else self._proxies.client(peer, forwarded),
            path=http.path,
            method=http.method,
            query=http.query_string,
            from_proxy=from_proxy,
            tls_subject=http.tls_subject,
            tls_subject_until=http.tls_subject_until,
        )

    def recognise(self, request: RequestFacts) -> Caller:
        """Who calls. Raises ``Unauthenticated``, ``InvalidRequest`` for an ambiguous one, ``InsufficientScope``,
        ``IdentityUnavailable`` and ``StoreUnavailable`` if it cannot be found out now, and ``InternalError`` for a
        resolver that breaks.
        """
        if self._everybody is not None:
            return self._everybody
        try:
            check_once(request)
            caller = self._resolved(request)
            require_scopes(caller, self._required)
        except GatewayError as error:
            self._failures.note(reason_of(error), request)
            raise
        return caller

    def _resolved(self, request: RequestFacts) -> Caller:
        for resolver in self._resolvers:
            caller = ask(resolver, request)
            if caller is not None:
                return caller
        if presented(request):
            raise Unrecognised(Reason.MALFORMED, "no resolver of this gateway knows this kind of credential")
        raise Unrecognised(
            Reason.MISSING, "this gateway must know who calls: send a credential", presented=False
        )

    def note(self, error: GatewayError, http: HttpRequest, caller: Caller | None = None) -> None:
        """Audit that a known caller came with the session of somebody else; other refusals have been."""
        if isinstance(error, SessionNotFound) and error.stranger:
            who = {} if caller is None else {"tenant": caller.tenant, "client": caller.client}
            self._failures.note(Reason.OTHERS_SESSION, self.facts(http), **who)

    def watch(self, facts: RequestFacts, caller: Caller, end: Callable[[], None]) -> Callable[[], None]:
        """Have a stream ended when the credential behind it is good no more; returns what ends the watch."""
        if self._everybody is not None:
            return _nothing
        return self.watches.add(facts, caller, end)

    def watched(self, http: HttpRequest, caller: Caller, answer: HttpAnswer) -> HttpAnswer:
        """An answer whose stream is ended, by what ends it anyway, when the credential behind it is good no more."""
        end = answer.on_close
        if self._everybody is None and end is not None:
            forget = self.watches.add(self.facts(http), caller, end)

            def close() -> None:
                forget()
                end()

            answer.on_close = close
        return answer


def ask(resolver: IdentityResolver, request: RequestFacts) -> Caller | None:
    """Ask one resolver. Fails closed: whatever else it raises or answers, the request is refused."""
    try:
        caller = resolver.resolve(request)
    except GatewayError:
        raise
    except Exception as error:
        log.exception("identity_resolver_broke")
        raise InternalError(UNKNOWN) from error
    problem = None if caller is None else _problem(caller)
    if problem is not None:
        log.error("identity_resolver_broke", problem=problem)
        raise InternalError(UNKNOWN)
    return caller


def _problem(caller: object) -> str | None:
    """Why what a resolver returned is no caller that can be sent on; None if it is one."""
    if not isinstance(caller, Caller):
        return f"it returned {type(caller).__name__}, not Caller"
    if not isinstance(caller.scopes, frozenset):
        return "scopes must be a frozenset"
    try:
        checked_id(caller.tenant, field="tenant")
        checked_id(caller.client, field="client")
        if caller.subject != "":
            checked_id(caller.subject, field="subject")
        for scope in caller.scopes:
            checked_id(scope, field="scopes")
    except InvalidRequest as error:
        return error.message
    return None


def _nothing() -> None:
    pass
