"""Every plug point: a small Protocol, what it may raise, and in which process it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from common.domain.audit_chain import SealedRecord
from common.domain.credentials import CredentialRequest, Credentials
from common.domain.invocation import Caller
from common.domain.policy import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """What an identity resolver sees of a request. Header names are lower case; the values are secrets.

    ``remote_address`` is the caller's: that of the peer, or the one that a trusted proxy has told of. ``from_proxy``
    says that the peer is a trusted proxy: only then are headers that a proxy sets to be believed. ``tls_subject`` is
    that of the certificate (RFC 4514) that the peer has shown to our own listener, which verified it, and
    ``tls_subject_until`` the last second (since 1970) at which that certificate is good.
    """

    headers: Mapping[str, str] = field(repr=False)
    remote_address: str
    path: str
    method: str = ""
    query: str = field(default="", repr=False)
    from_proxy: bool = False
    tls_subject: str | None = None
    tls_subject_until: float | None = None


class IdentityResolver(Protocol):
    """Says who calls. Runs in the web process, on every request; a session id is never a credential.

    A class named by ``identity.resolver: "package.module:Class"``, or by an entry point of the group
    ``canalgate.identity``, is made with the identity settings as its only argument.
    """

    def resolve(self, request: RequestFacts) -> Caller | None:
        """Return the caller; None if the request holds nothing of the kind that this resolver knows, so that the next
        one is asked.

        Raises ``Unauthenticated`` if it does and that names nobody, ``InvalidRequest`` if it is ambiguous: then no
        other resolver is asked. Any other exception refuses the request as well (fails closed) and is logged as a fault
        of the resolver, as is an answer later than ``identity.resolver_timeout``.
        """


class Discovery(Protocol):
    """Names tools. Runs in one worker of the cluster, in a thread of its own: it may block.

    A class named by ``type: "package.module:Class"`` in ``sources.listed``, or by an entry point of the group
    ``canalgate.discovery``, is made with the ``options`` of its entry as its only argument (a mapping), anew after each
    fault.
    """

    def watch(self, wanted: Callable[[], bool]) -> Iterator[Mapping[str, Mapping[str, Any]]]:
        """All tools there are, by id, each as an entry of the settings file: at once, and again whenever they change.

        What is not among them any more is drained and removed. ``wanted`` says whether to go on, and is to be asked
        about once a second. Whatever is raised, or is no such mapping, changes nothing: it is told to operators by its
        type alone (by its words for ``ConfigurationError``), and a new source is made after a pause, as for one that
        ends.
        """


class AuditSink(Protocol):
    """Keeps the records of the journal. Runs in the keeper's process, in a thread of its own: it may block.

    A class named by ``type: "package.module:Class"`` in ``audit.sinks``, or by an entry point of the group
    ``canalgate.audit``, is made with the ``options`` of its entry as its only argument (a mapping). Records come in the
    order of their numbers, each at least once: those whose number is not above the last one that is there have been
    there before (the keeper died between the writing and the remembering) and are to be dropped.
    """

    def write(self, records: Sequence[SealedRecord]) -> int:
        """Store records; return the number of the last one that is safe. Up to it nothing is kept for this sink.

        It is called with no records about once a second while nothing comes. Whatever it raises, the same records come
        again after a pause; meanwhile the journal keeps them, and other sinks go on.
        """

    def close(self) -> None:
        """The process ends: let go of everything. Nothing may be lost by it that ``write`` called safe."""


class CredentialsProvider(Protocol):
    """Knows secrets of tools. Runs in the worker, on an event loop of its own thread, and only when nobody remembers.

    A class named in ``credentials.providers`` as ``package.module:Class``, or by an entry point of the group
    ``canalgate.credentials``, is made with the credentials settings as its only argument.
    """

    async def resolve(self, request: CredentialRequest) -> Credentials | None:
        """The credentials; None if this provider knows none, so that the next one is asked.

        Any exception, and an answer that does not come within ``credentials.timeout``, is a failure: a tool that
        requires credentials refuses the call (fails closed), others go on without, and nobody else is asked, for the
        provider may have known. Words of an exception are never shown, since they may hold a secret.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyAnswer:
    """What an evaluator says of one call. ``reason`` is told to the caller of a denied one, so it must hold no secret;
    ``rule`` is a name for records.
    """

    allow: bool
    reason: str = ""
    rule: str = ""


class PolicyEvaluator(Protocol):
    """Says whether a call may go on its way. Runs in the web process, after the rules have let the call pass.

    A class named by ``implementation`` of an entry of ``policy.evaluators`` (``package.module:Class``, or an entry
    point of the group ``canalgate.policy``) is made with the entry's ``options``, a mapping, as its only argument. What
    it raises then keeps the process from starting. If it has a method ``close``, that is called at the end.
    ``common.policy.testing`` tests what is said here of any implementation.
    """

    def evaluate(self, question: Question) -> PolicyAnswer:
        """Answer the question.

        May be called by several threads at a time, and may block: each question has a thread of its own, which is left
        alone when ``timeout`` is over. Whatever it raises denies the call, and so does what is no
        :class:`PolicyAnswer` (fails closed).
        """
