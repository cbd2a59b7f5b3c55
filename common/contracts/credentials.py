"""What every credentials provider must do.

class TestMine(CredentialsProviderContract):
    def provider(self): return Mine(CredentialsSettings())
    known = [(wanted("github", tenant="acme"), {"token": "t-1"})]
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from common.contracts import require
from common.domain.credentials import CredentialRequest, Credentials
from common.domain.ids import ClientId, TenantId, ToolId
from common.ports import CredentialsProvider

T = TypeVar("T")


def wanted(tool: str, *, tenant: str | None = None, client: str | None = None) -> CredentialRequest:
    """A request of plain texts."""
    return CredentialRequest(
        tool=ToolId(tool),
        tenant=None if tenant is None else TenantId(tenant),
        client=None if client is None else ClientId(client),
    )


UNKNOWN: tuple[CredentialRequest, ...] = (
    wanted("a-tool-nobody-has", tenant="nobody"),
    wanted("..", tenant=".."),
    wanted("a/b", tenant="c\\d", client="*"),
    wanted("${HOME}", tenant="\x00", client="é"),
)
"""What nobody knows anything of. Ids are any text."""


class CredentialsProviderContract:
    """The tests. Give :meth:`provider` and :attr:`known`."""

    __test__ = False

    known: list[tuple[CredentialRequest, Mapping[str, str]]] = []  # noqa: RUF012 - a subclass gives its own
    """What a new provider knows: requests, and the values of each. At least one."""

    def __init_subclass__(cls) -> None:
        """A subclass is a test."""
        cls.__test__ = True

    def provider(self) -> CredentialsProvider:
        """A new provider that knows :attr:`known`."""
        raise NotImplementedError

    def test_it_gives_the_values_by_their_names(self) -> None:
        """All of them, as they are, as often as it is asked."""
        require(bool(self.known), "give `known` at least one request")
        provider = self.provider()
        for asked, values in [*self.known, *self.known]:
            found = _run(provider.resolve(asked))
            require(isinstance(found, Credentials), f"{asked}: {type(found).__name__} is no Credentials")
            if found is not None:
                given = {name: secret.reveal() for name, secret in found.values.items()}
                require(given == dict(values), f"{asked}: it gives {sorted(given)}, or other values")

    def test_what_it_does_not_know_is_none(self) -> None:
        """No exception: the next provider is asked."""
        others = [
            *UNKNOWN,
            *(wanted(asked.tool, tenant="somebody-else", client="x") for asked, _ in self.known),
        ]
        for asked in others:
            require(_run(self.provider().resolve(asked)) is None, f"{asked}: it must answer None")

    def test_no_secret_shows_itself(self) -> None:
        """Neither in what it gives nor in the provider's own words."""
        provider = self.provider()
        for asked, values in self.known:
            found = _run(provider.resolve(asked))
            shown = f"{found!r} {found} {provider!r} {provider}"
            require(not any(value in shown for value in values.values()), f"{asked}: a secret shows itself")

    def test_it_answers_several_at_a_time(self) -> None:
        """Each as if it were the only one."""
        provider = self.provider()

        async def all_of_them() -> list[Credentials | None]:
            return await asyncio.gather(*(provider.resolve(asked) for asked, _ in self.known * 20))

        for found, (asked, values) in zip(_run(all_of_them()), self.known * 20, strict=True):
            given = None if found is None else {name: key.reveal() for name, key in found.values.items()}
            require(given == dict(values), f"{asked}: answers differ under load")


def _run(work: Coroutine[object, object, T]) -> T:
    """On a loop of its own, whatever runs in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
