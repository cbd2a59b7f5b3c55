"""Which tool session a caller's calls are for: its name in the head of a message, and back."""

from __future__ import annotations

import pytest

from common.calls.head import POOL, parts_of, session_of, subject_of
from common.domain.credential_rules import CredentialRules, CredentialScope, Injection
from common.domain.ids import ClientId, McpSessionId, TenantId
from common.domain.invocation import Caller
from common.domain.rules import Affinity, Routing
from tests.support.backends import stdio_tool

BY_CLIENT = stdio_tool(affinity=Affinity.CLIENT)
BY_MCP_SESSION = stdio_tool(affinity=Affinity.MCP_SESSION)
ODD = ["a-b", "a:b", "a%3Ab", "a|b", "*", "*1", "a\x1fb", "ö", " "]


def caller(tenant: str, client: str) -> Caller:
    return Caller(tenant=TenantId(tenant), client=ClientId(client))


@pytest.mark.parametrize("between", ["-", ":", "|", "%", "_", ".", "\x1f"])
def test_parts_never_run_together(between: str) -> None:
    """(``a-b``, ``c``) is not (``a``, ``b-c``), whatever stands in the place of the dash; nor with an MCP session."""
    names = [
        session_of(BY_CLIENT, caller(f"a{between}b", "c"), None),
        session_of(BY_CLIENT, caller("a", f"b{between}c"), None),
        session_of(BY_CLIENT, caller(f"a{between}b{between}c", "d"), None),
        session_of(BY_MCP_SESSION, caller("a", "b"), McpSessionId("c")),
        session_of(BY_MCP_SESSION, caller("a", "b"), McpSessionId(f"c{between}c")),
        session_of(BY_MCP_SESSION, caller("a", f"b{between}c"), McpSessionId("c")),
    ]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ODD)
def test_a_name_says_whose_it_is(name: str) -> None:
    """Tenant, client and MCP session come back as they were; and none is taken for a session of a pool."""
    session = session_of(BY_MCP_SESSION, caller(name, name), McpSessionId(name))
    assert parts_of(session) == (name, name, name)
    assert parts_of(session_of(BY_CLIENT, caller(name, name), McpSessionId(name))) == (name, name, "")
    assert not session.startswith(POOL)


def test_clients_of_one_name_are_two_in_two_tenants() -> None:
    """Neither shares a session with the other, nor with another client of its own tenant."""
    for tool, session in ((BY_CLIENT, None), (BY_MCP_SESSION, McpSessionId("s"))):
        names = {session_of(tool, caller(tenant, client), session) for tenant in "ab" for client in "cd"}
        assert len(names) == 4


def test_what_comes_without_an_mcp_session_has_its_clients() -> None:
    """A stateless client, or a stock producer: one session for all its calls, apart from those of MCP sessions."""
    alone = session_of(BY_MCP_SESSION, caller("a", "b"), None)
    assert alone == session_of(BY_CLIENT, caller("a", "b"), McpSessionId("c"))
    assert alone != session_of(BY_MCP_SESSION, caller("a", "b"), McpSessionId("c"))


@pytest.mark.parametrize("affinity", Affinity)
def test_each_subjects_own_session_has_its_subject_and_scopes_in_its_name(affinity: Affinity) -> None:
    """Where credentials are a subject's: neither another subject nor other scopes share it."""
    rules = CredentialRules(scope=CredentialScope.SUBJECT, inject=Injection(env={"A": "a"}))
    tool = stdio_tool(affinity=affinity, credentials=rules)

    def name(subject: str, *scopes: str, client: str = "c", mcp_session: str | None = "m") -> str:
        who = Caller(tenant=TenantId("t"), client=ClientId(client), subject=subject, scopes=frozenset(scopes))
        return session_of(tool, who, None if mcp_session is None else McpSessionId(mcp_session))

    for odd in ODD:
        assert subject_of(name(odd, "b", "a")) == (odd, ("a", "b"))
        assert parts_of(name(odd, client=odd))[:2] == ("t", odd)
    different = [
        name("ann"),
        name("ann", "a"),
        name("ann", "a", "b"),
        name("bob"),
        name(""),
        name("a", client="ann"),
    ]
    assert len(set(different)) == len(different)
    assert name("ann", "a", "b") == name("ann", "b", "a")
    own = affinity is Affinity.MCP_SESSION
    assert (name("ann", mcp_session="n") != name("ann")) == own
    assert (parts_of(name("ann"))[2] == "m") == own
    assert subject_of(session_of(BY_CLIENT, caller("a", "b"), None)) == ("", ())


def test_a_pool_is_nobodys() -> None:
    """All callers have the same, and Redis chooses one of the pool."""
    tool = stdio_tool(routing=Routing.LEAST_LOADED, pool_size=2)
    names = {session_of(tool, caller(one, one), McpSessionId(one)) for one in ODD}
    assert names == {POOL}
    assert parts_of("*3") == ("", "", "")
