"""Every plug point: a small Protocol, what it may raise, and in which process it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from common.domain.invocation import Caller


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
