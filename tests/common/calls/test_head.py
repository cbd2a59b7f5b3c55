"""The head of a message: what Redis reads of a call comes back as it was, whatever its ids look like."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.calls.contract import task_message
from common.calls.head import MEMBER, POOL, Head, head_from_text, head_of, session_of
from common.domain.errors import FormatTooNew, InvalidRequest
from common.domain.ids import ClientId, InvocationId, McpSessionId, TenantId, ToolId, queue_of
from common.domain.invocation import Caller
from common.domain.quota import Quota
from common.domain.rules import Affinity, Retry, Routing
from tests.support.backends import invocation, stdio_tool
from tests.support.messages import head

ODD = ["a|b", "a:b", '"', "\\", "*", "*3", "%7C", "ö", "\n", "\x00", "a b", "x" * 512]
IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
COUNTS = st.integers(min_value=0, max_value=1_000_000)


def head_for(call: str, tool: str, caller: Caller, mcp_session: str | None, **parts: Any) -> Head:
    """A head whose parts are made of these ids."""
    of = stdio_tool(id=ToolId(tool), affinity=Affinity.MCP_SESSION)
    session = session_of(of, caller, None if mcp_session is None else McpSessionId(mcp_session))
    return head(call, session=session, queue=queue_of(of.id), **parts)


# -- there and back -------------------------------------------------------------------------------------


@given(
    ids=st.tuples(IDS, IDS, IDS, IDS),
    mcp_session=st.none() | IDS,
    leave=st.sampled_from(list(Retry)),
    attempt=COUNTS,
    bounds=st.tuples(COUNTS, COUNTS, COUNTS),
)
def test_a_head_comes_back_as_it_was(
    ids: tuple[str, str, str, str],
    mcp_session: str | None,
    leave: Retry,
    attempt: int,
    bounds: tuple[int, int, int],
) -> None:
    """No id runs into the next part, and none needs an escape in the JSON around it: a script reads up to the quote."""
    call, tool, tenant, client = ids
    made = head_for(
        call,
        tool,
        Caller(tenant=TenantId(tenant), client=ClientId(client)),
        mcp_session,
        leave=leave,
        attempt=attempt,
        reply="test:reply:web1",
        max_sessions=bounds[0] or None,
        tenant_max_sessions=bounds[1] or None,
        pool_size=bounds[2],
    )
    text = made.text()
    assert head_from_text(text) == made
    assert orjson.dumps(text) == b'"' + text.encode() + b'"'


@pytest.mark.parametrize("odd", ODD)
def test_odd_ids_in_the_message_itself(odd: str) -> None:
    """The head is the message's first member, and the call that it names is that of the body."""
    call = replace(invocation("echo"), id=InvocationId(odd))
    of = head_for(odd, odd, Caller(tenant=TenantId(odd), client=ClientId(odd)), odd, deadline=call.deadline)
    message = orjson.loads(task_message(call, of, prefix="test"))
    assert next(iter(message)) == MEMBER
    assert head_from_text(message[MEMBER]) == of
    assert message["headers"]["id"] == odd


@pytest.mark.parametrize("number", [0, None])
def test_no_bound_is_none(number: int | None) -> None:
    """Zero stands for it in the text, since a script compares numbers."""
    back = head_from_text(head(max_sessions=number, tenant_max_sessions=number).text())
    assert (back.max_sessions, back.tenant_max_sessions) == (None, None)


# -- what is refused ------------------------------------------------------------------------------------


def changed(index: int, part: str) -> str:
    """The text of a good head with one part replaced."""
    parts = head(reply="r").text().split("|")
    parts[index] = part
    return "|".join(parts)


def test_a_newer_version_is_refused() -> None:
    """With what it is and what this worker reads: an older worker must not guess what it means."""
    with pytest.raises(FormatTooNew, match=r"version 2, .* this process reads version 1") as refused:
        head_from_text(changed(0, "2"))
    assert (refused.value.data["found"], refused.value.data["known"]) == (2, 1)


@pytest.mark.parametrize(
    "text",
    ["", "1", "1|", head().text() + "|more", head().text().rpartition("|")[0], "x" * 5000],
    ids=["empty", "version", "two parts", "a part more", "a part less", "long"],
)
def test_another_number_of_parts_is_refused(text: str) -> None:
    """What it says stays short, whoever wrote the text."""
    with pytest.raises(InvalidRequest, match="parts") as refused:
        head_from_text(text)
    assert len(refused.value.message) < 150


@pytest.mark.parametrize("index", [2, 6, 7, 8, 9], ids=["deadline", "attempt", "most", "tenant", "pool"])
def test_a_part_that_is_no_number_is_refused(index: int) -> None:
    """As a fault of the message, and no crash of the worker."""
    with pytest.raises(InvalidRequest, match="no number"):
        head_from_text(changed(index, "many"))


def test_an_unknown_leave_is_refused() -> None:
    """Nobody guesses whether a call may run twice."""
    with pytest.raises(InvalidRequest):
        head_from_text(changed(5, "always"))


def test_an_id_that_is_no_utf_8_is_refused() -> None:
    """Half a character, percent-encoded."""
    with pytest.raises(InvalidRequest):
        head_from_text(changed(1, "%C3"))


# -- the head of a call ---------------------------------------------------------------------------------


def test_the_head_of_a_call() -> None:
    """Its deadline, its owner's bounds and its tool's; there is no pool, and it is the first attempt."""
    call = invocation("echo", tenant="t", client="c")
    made = head_of(call, stdio_tool(max_sessions=7), reply="r", leave=Retry.SAFE, quota=Quota(max_sessions=3))
    assert made == Head(
        id=call.id,
        deadline=call.deadline,
        reply="r",
        session="t:c",
        leave=Retry.SAFE,
        queue="tool.local",
        attempt=0,
        max_sessions=7,
        tenant_max_sessions=3,
        pool_size=0,
    )


def test_the_head_of_a_call_for_a_pool() -> None:
    """Redis chooses the session, so it has to know how many there are."""
    tool = stdio_tool(routing=Routing.LEAST_LOADED, pool_size=4)
    made = head_of(invocation("echo"), tool, reply="", leave=Retry.NEVER, quota=Quota())
    assert (made.session, made.pool_size) == (POOL, 4)


@pytest.mark.parametrize(
    ("declared", "waits"),
    [({"elicitation": {}}, 4 * 20_000), ({}, 0), ({"experimental": {}}, 0), ("sampling", 0), (None, 0)],
)
def test_a_call_that_counts_says_so_and_until_when(declared: Any, waits: int) -> None:
    """Until it is answered whatever dies: the time that its client may take for answers included."""
    meta = {"_meta": {"io.modelcontextprotocol/clientCapabilities": declared}}
    call = invocation("echo", tenant="a:b", client="c|d")
    call = replace(call, params={**call.params, **meta})
    tool = stdio_tool(input_timeout=20)
    quota = Quota(max_calls=5, client_max_calls=2)
    made = head_of(call, tool, reply="", leave=Retry.NEVER, quota=quota)
    assert made.permits == f"{call.deadline + 12_000 + waits}:5:2:a%3Ab:c%7Cd"
    assert head_from_text(made.text()) == made
    assert head_of(call, tool, reply="", leave=Retry.NEVER, quota=Quota(max_sessions=1)).permits == "0"
