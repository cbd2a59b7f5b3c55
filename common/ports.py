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


class RemoteError(Exception):
    """A backend's own JSON-RPC error: an answer, which reaches the caller as it is and harms neither the session nor
    the tool's circuit. ``error`` is its error object: ``code``, ``message`` and perhaps ``data``.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{code}: {message}")
        self.error: dict[str, Any] = {"code": code, "message": message}
        if data is not None:
            self.error["data"] = data


class NotSent(Exception):
    """It is certain that nothing of a request has reached the backend: the call may be sent again.

    The session stands, and with it the other calls there: call ``lost()`` as well if its way is broken.
    """


class ExecutorSession(Protocol):
    """What a session is opened for, and how it talks to the gateway beside its requests. Its methods may be called from
    any thread, and never raise.
    """

    tool: str
    """The tool's id."""
    secrets: Mapping[str, str]
    """What ``credentials.inject.secrets`` of the tool asks for, by name; they stay the same as long as the session
    lives, and another session takes its place when they change. Neither log them nor put them into an exception."""
    max_bytes: int
    """The largest answer that is of use (``runtime.max_result_bytes``)."""

    def may_send(self) -> bool:
        """Whether anything may be written to the backend now. False while the worker is not sure that the session is
        still its own: another may be using it. It is asked before each request; who writes later asks again."""

    def tell(self, method: str, params: Mapping[str, Any]) -> None:
        """A notification of the backend that belongs to no request, such as ``notifications/tools/list_changed``.
        Beyond 1000 that wait, or ``max_bytes`` in all, it is dropped."""

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """A request of the backend that belongs to no call of ours, and its result. Raises :class:`RemoteError` with
        what the backend is to be told, as where it is not certain whose it is."""

    def lost(self) -> None:
        """The way to the backend broke: what is under way ends as a transport failure, the next call has a new
        session."""


class ExecutorCall(Protocol):
    """One request. Its methods may be called from any thread, never raise, and do nothing once it has ended."""

    method: str
    params: dict[str, Any]
    """As the backend's revision of MCP has them; credentials that go into ``_meta`` are there. It is the callee's."""

    def tell(self, method: str, params: Mapping[str, Any]) -> None:
        """A notification that belongs to this request, as ``notifications/message``. Beyond 1000 that wait on the
        session, or ``max_bytes`` in all, it is dropped."""

    def progress(self, progress: float, total: float | None = None, message: str = "") -> None:
        """Tell how far it is, if the caller wants to hear. ``progress`` only grows."""

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the backend asks the caller meanwhile (``sampling/createMessage``, ``elicitation/create``,
        ``roots/list``), and the client's result. Raises :class:`RemoteError` with what the backend is to be told, also
        for a question above ``max_bytes``."""


class ToolExecutor(Protocol):
    """One open session with a backend. All methods run on one event loop, each call in a task of its own, several at a
    time. A method that blocks holds up the sessions of its own tool, in this worker, and nobody else.
    """

    async def request(self, call: ExecutorCall) -> Mapping[str, Any]:
        """Send a request, and return the ``result`` of its answer.

        The first one is ``initialize`` or, where the backend knows no such method, ``server/discover``; ``ping`` and
        the lists come as all others do. Raises :class:`RemoteError` for the backend's error, and :class:`NotSent` if
        nothing was sent. Whatever else it raises is a transport failure, by its type alone: the session is closed, and
        the call fails, or is sent again if it has leave to run twice. An answer that is no mapping, or that JSON cannot
        hold, fails the call alone, as does one above ``max_bytes``.

        It is cancelled when nobody waits any more (deadline, cancellation, end of the session): tell the backend
        (``notifications/cancelled``), and end. Nobody waits for that end. After a deadline the backend is asked
        (``ping``); if that is not answered the session is closed.
        """

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Send a notification. Whatever is raised closes the session."""

    async def close(self) -> None:
        """Let go of the backend; called once. It has two seconds. What it raises is logged by its type."""


class ExecutorFactory(Protocol):
    """Opens sessions of a tool by a transport of one's own. Runs in the workers.

    A class named by a tool's ``factory`` as ``package.module:Class``, or by an entry point of the group
    ``canalgate.executors``, is made with the tool's ``options`` (a mapping) as its only argument, once in each worker
    that has sessions of the tool, and anew when factory or options change. It is kept for some minutes behind the last
    session. It is made, and everything of it runs, on an event loop and a thread of that tool's own; a thread that
    blocks where a session is to be closed is given up, and the next session has a new factory.
    """

    async def open(self, session: ExecutorSession) -> ToolExecutor:
        """A new session, ready for ``initialize``, within the tool's ``startup_timeout``.

        Sessions are opened for callers, and for the gateway's own questions: what the tool offers, how it is. Each has
        a backend's state of its own. Whatever is raised, by its type alone, is a failure to start: it counts for the
        tool's circuit.
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
