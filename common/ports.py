"""Every plug point: a small Protocol, what it may raise, and in which process it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from common.domain.invocation import Caller
from common.domain.policy import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """What an identity resolver sees of a request. Header names are lower case; the values are secrets."""

    headers: Mapping[str, str] = field(repr=False)
    remote_address: str
    path: str


class IdentityResolver(Protocol):
    """Says who calls. Runs in the web process, on every request; a session id is never a credential.

    A class named by ``identity.resolver: "package.module:Class"`` is made with the identity settings as its only
    argument.
    """

    def resolve(self, request: RequestFacts) -> Caller:
        """Return the caller.

        Raises ``Unauthenticated`` if the request names nobody, ``InvalidRequest`` if it is ambiguous. Any other
        exception refuses the request as well (fails closed) and is logged as a fault of the resolver.
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
