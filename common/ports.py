"""Every plug point: a small Protocol, what it may raise, and in which process it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from common.domain.invocation import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """What an identity resolver sees of a request. Header names are lower case; the values are secrets.

    ``remote_address`` is the caller's: that of the peer, or the one that a trusted proxy has told of. ``from_proxy``
    says that the peer is a trusted proxy: only then are headers that a proxy sets to be believed.
    """

    headers: Mapping[str, str] = field(repr=False)
    remote_address: str
    path: str
    method: str = ""
    query: str = field(default="", repr=False)
    from_proxy: bool = False


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
