"""``canalgate credentials``: an order for all workers, and its record."""

from __future__ import annotations

import pytest

from common.audit.journal import Journal
from common.credentials.orders import CredentialOrders, Order, Verb, order_of
from common.domain.errors import InvalidRequest
from common.domain.ids import TenantId, ToolId
from common.domain.tool import StdioTransport, Tool
from common.registry.registry import Registry
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.cli.output import Exit
from tests.support.egress import ANYTHING
from tests.web.cli.conftest import USER, Canalgate


def orders(client: Client, keys: Keys) -> list[Order | None]:
    """All that were given."""
    found = client.xrange(keys.credential_orders)
    return [order_of([part for pair in fields.items() for part in pair]) for _, fields in found]


@pytest.mark.parametrize("verb", ["flush", "rotate"])
def test_an_order_is_given_and_audited(verb: str, canalgate: Canalgate, client: Client, keys: Keys) -> None:
    """For all, a tool, a tenant, or a tenant of a tool."""
    Registry(client, keys, ANYTHING).put(Tool(id=ToolId("demo"), transport=StdioTransport(command="cmd")))
    for words in ([], ["--tool", "demo"], ["--tenant", "a:b"], ["--tool", "demo", "--tenant", "a:b"]):
        assert canalgate("credentials", verb, *words).exit_code == Exit.OK
    demo, tenant = ToolId("demo"), TenantId("a:b")
    whose = ((None, None), (demo, None), (None, tenant), (demo, tenant))
    wanted = [Order(Verb(verb), *of) for of in whose]
    assert orders(client, keys) == wanted
    (newest,) = Journal(client, keys).newest(1)
    assert newest.fields == {
        "kind": "credentials_flushed" if verb == "flush" else "credentials_rotated",
        "actor": f"cli:{USER}",
        "tool": "demo",
        "tenant": "a:b",
    }


def test_a_tool_that_is_not_there_is_refused(canalgate: Canalgate, client: Client, keys: Keys) -> None:
    """A name that was misspelt would flush nothing, and say that it did."""
    assert canalgate("credentials", "rotate", "--tool", "none").exit_code == Exit.NOT_FOUND
    assert orders(client, keys) == []


@pytest.mark.parametrize("option", ["--tool", "--tenant"])
@pytest.mark.parametrize("name", ["", "x" * 513])
def test_a_name_that_can_be_nobodys_is_refused(
    option: str, name: str, canalgate: Canalgate, client: Client, keys: Keys
) -> None:
    """A variable that was not set is not everybody; and workers could not read such an order."""
    done = canalgate("credentials", "rotate", option, name)
    assert done.exit_code == Exit.USAGE
    assert option.strip("-") in done.stderr
    assert orders(client, keys) == []


@pytest.mark.parametrize("verb", ["flush", "rotate"])
@pytest.mark.parametrize("whose", [{"tool": ""}, {"tenant": ""}, {"tenant": "\ud800"}])
def test_whoever_gives_it_an_order_names_somebody(
    verb: str, whose: dict[str, str], client: Client, keys: Keys
) -> None:
    """The rule is the order's own, for every door to it."""
    with pytest.raises(InvalidRequest) as caught:
        getattr(CredentialOrders(client, keys), verb)(**whose, actor="test")
    assert caught.value.data["field"] == next(iter(whose))
    assert orders(client, keys) == []


def test_a_verb_of_a_newer_writer_is_passed_over() -> None:
    """Workers of two versions may run together."""
    assert order_of([b"verb", b"shred", b"tool", b"x"]) is None
