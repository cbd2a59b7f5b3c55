"""What every credentials provider promises. A provider's tests are a class of this, with :meth:`know` filled in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

import pytest

from common.domain.credentials import CredentialRequest, Credentials
from common.domain.ids import ClientId, TenantId, ToolId
from common.ports import CredentialsProvider
from tests.support.aio import run

Known = Mapping[CredentialRequest, Mapping[str, str]]


def asked(tool: str, tenant: str | None = None, client: str | None = None) -> CredentialRequest:
    """A request of plain texts."""
    return CredentialRequest(
        tool=ToolId(tool),
        tenant=None if tenant is None else TenantId(tenant),
        client=None if client is None else ClientId(client),
    )


def values_of(found: Credentials | None) -> dict[str, str] | None:
    """The plain values."""
    return None if found is None else {name: value.reveal() for name, value in found.values.items()}


LOOK_ALIKES = [
    asked("a", "b-c"),
    asked("a-b", "c"),
    asked("a_2Db", "c"),
    asked("a", "b", "c"),
    asked("a", "b_c"),
    asked("a", "b__c"),
    asked("a", "b/c"),
    asked("a/b", "c"),
    asked("a", "B", "c"),
    asked("a"),
    asked("a", ".."),
    asked("..", "a"),
    asked("..", "..", ".."),
    asked("a", "..", "b"),
    asked("a", "_2E_2E"),
    asked("a", "\x00"),
    asked("a", "äö|@"),
    asked("a", "*"),
    asked("a", "${HOME}"),
]


class ProviderContract:
    """Subclasses make a provider that knows what they are given."""

    def know(self, known: Known) -> AbstractContextManager[CredentialsProvider]:
        """A provider that knows exactly this."""
        raise NotImplementedError

    def test_it_gives_the_values_by_their_keys(self) -> None:
        """All of them, as they are."""
        want = asked("github", "acme")
        values = {"token": "t-1", "api_key": "k=1 2%{} ä"} | ({"user.name": "x"} if self.any_key else {})
        with self.know({want: values}) as provider:
            assert values_of(run(provider.resolve(want))) == values

    any_key = True
    """Whether keys may have dots."""

    def test_what_it_does_not_know_is_none(self) -> None:
        """No exception: the next provider is asked."""
        with self.know({asked("github", "acme"): {"token": "t"}}) as provider:
            others = (
                asked("github"),
                asked("github", "acm"),
                asked("gitlab", "acme"),
                asked("github", "acme", "x"),
            )
            for other in others:
                assert run(provider.resolve(other)) is None

    @pytest.mark.parametrize("own", LOOK_ALIKES)
    def test_no_ids_stand_for_others(self, own: CredentialRequest) -> None:
        """Whatever their characters, and however their parts could run together."""
        known = {request: {"token": f"of {number}"} for number, request in enumerate(LOOK_ALIKES)}
        with self.know(known) as provider:
            assert values_of(run(provider.resolve(own))) == known[own]
        without = {request: values for request, values in known.items() if request != own}
        with self.know(without) as provider:
            assert run(provider.resolve(own)) is None

    def test_what_it_gives_never_shows_itself(self) -> None:
        """Neither printed nor formatted."""
        want = asked("github", "acme")
        with self.know({want: {"token": "canary-7"}}) as provider:
            found = run(provider.resolve(want))
        assert "canary-7" not in f"{found!r} {found} {provider!r}"
