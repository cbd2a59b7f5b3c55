"""What every identity resolver must do.

class TestMine(IdentityResolverContract):
    def resolver(self): return Mine(IdentitySettings())
    known = [(request({"x-user": "acme/bot"}), ("acme", "bot"))]
    foreign = [request({"authorization": "Bearer x"})]
    bad = [request({"x-user": "acme/"})]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from common.contracts import require
from common.domain.errors import InvalidRequest, Unauthenticated
from common.domain.invocation import Caller
from common.ports import IdentityResolver, RequestFacts


def request(
    headers: Mapping[str, str],
    *,
    remote_address: str = "192.0.2.1",
    path: str = "/mcp",
    from_proxy: bool = False,
) -> RequestFacts:
    """A request with whatever is not given filled in."""
    return RequestFacts(
        headers=headers, remote_address=remote_address, path=path, method="POST", from_proxy=from_proxy
    )


ODD: tuple[RequestFacts, ...] = (
    request({}),
    request({"authorization": ""}),
    request({"authorization": "Bearer " + "x" * 8000}),
    request({"authorization": "Basic \x00\xff", "x-tenant-id": "a,b", "cookie": "=;;="}),
    request({f"x-{number}": "é" for number in range(200)}, remote_address="2001:db8::1", path="/"),
)
"""Requests that strangers may send: to none of them the answer is an accident."""


class IdentityResolverContract:
    """The tests. Give :meth:`resolver`, and examples of each kind of request."""

    __test__ = False

    known: Sequence[tuple[RequestFacts, tuple[str, str]]] = ()
    """Requests, and the tenant and client that each is of. At least one."""
    foreign: Sequence[RequestFacts] = ()
    """Requests that hold nothing of the kind that this resolver knows."""
    bad: Sequence[RequestFacts] = ()
    """Requests that hold something of it, which names nobody or is ambiguous."""

    def __init_subclass__(cls) -> None:
        """A subclass is a test."""
        cls.__test__ = True

    def resolver(self) -> IdentityResolver:
        """A new resolver."""
        raise NotImplementedError

    def test_it_knows_who_calls(self) -> None:
        """By tenant and client, each time anew."""
        require(bool(self.known), "give `known` at least one request")
        resolver = self.resolver()
        for asked, (tenant, client) in [*self.known, *self.known]:
            found = resolver.resolve(asked)
            require(isinstance(found, Caller), f"{asked}: {type(found).__name__} is no Caller")
            if found is not None:
                require(
                    (found.tenant, found.client) == (tenant, client),
                    f"{asked}: {found.tenant!r}, {found.client!r} instead of {tenant!r}, {client!r}",
                )

    def test_what_is_not_of_its_kind_is_left_to_others(self) -> None:
        """None, so that the next resolver is asked."""
        for asked in self.foreign:
            require(self.resolver().resolve(asked) is None, f"{asked}: it must answer None")

    def test_what_names_nobody_is_refused(self) -> None:
        """With the errors that say so, and never with a caller, or None: then somebody else would be asked."""
        for asked in self.bad:
            try:
                found = self.resolver().resolve(asked)
            except (Unauthenticated, InvalidRequest):
                continue
            require(False, f"{asked}: it must raise Unauthenticated or InvalidRequest, not answer {found!r}")

    def test_odd_requests_are_no_accident(self) -> None:
        """A caller is not made of what anybody may send; nothing else is raised than what the port names."""
        for asked in ODD:
            try:
                found = self.resolver().resolve(asked)
            except (Unauthenticated, InvalidRequest):
                continue
            require(found is None, f"{asked}: a stranger passes for {found!r}")

    def test_it_answers_several_at_a_time(self) -> None:
        """Each as if it were the only one."""
        resolver = self.resolver()
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(resolver.resolve, [asked for asked, _ in self.known] * 50))
        wanted = [who for _, who in self.known] * 50
        require(
            [(caller.tenant, caller.client) if caller else None for caller in found] == wanted,
            "answers differ under load",
        )
