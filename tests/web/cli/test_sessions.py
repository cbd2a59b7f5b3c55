"""``canalgate sessions``: whose sessions live, and who holds them."""

from __future__ import annotations

import re

import orjson
import pytest

from common.domain.ids import ToolId, encode_part
from common.domain.tool import StdioTransport, Tool
from common.registry.registry import Registry
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.cli.output import Exit
from tests.support.egress import ANYTHING
from tests.web.cli.conftest import Canalgate

A, B = ToolId("a b/c"), ToolId("pool")
NODE = "w@host:1f"


@pytest.fixture
def registered(client: Client, keys: Keys) -> None:
    registry = Registry(client, keys, ANYTHING)
    for tool in (A, B):
        registry.put(Tool(id=tool, transport=StdioTransport(command="cmd")))


def now(client: Client) -> int:
    seconds, micros = client.time()
    return int(seconds * 1000 + micros // 1000)


def of(*parts: str) -> str:
    return ":".join(map(encode_part, parts))


@pytest.mark.usefixtures("registered")
def test_each_session_is_shown_with_whose_it_is_and_who_holds_it(
    canalgate: Canalgate, client: Client, keys: Keys
) -> None:
    """Of all tools, sorted: a client's, an MCP session's, and one of a pool."""
    claimed = now(client) - 5000
    client.hset(
        keys.sessions(A),
        mapping={of("t:1", "me@x"): f"{NODE} 7 {claimed}", of("t:1", "me@x", "s/1"): f"{NODE} 8 {claimed}"},
    )
    client.hset(keys.sessions(B), "*3", f"{NODE} 9 {claimed}")
    found = orjson.loads(canalgate("sessions", "--json").stdout)
    assert [(row["tool"], row["tenant"], row["client"], row["mcp_session"]) for row in found] == [
        (A, "t:1", "me@x", None),
        (A, "t:1", "me@x", "s/1"),
        (B, None, None, None),
    ]
    assert [(row["node"], row["fence"], row["session"]) for row in found] == [
        (NODE, 7, "t%3A1:me%40x"),
        (NODE, 8, "t%3A1:me%40x:s%2F1"),
        (NODE, 9, "*3"),
    ]
    assert all(5 <= row["age"] < 60 for row in found)
    shown = canalgate("sessions").stdout
    for word in ("me@x", "s/1", "(pool, *3)", NODE):
        assert word in shown
    assert len(re.findall(r"  \d+ s  ", shown)) == 3
    assert [row["tool"] for row in orjson.loads(canalgate("sessions", "--tool", B, "--json").stdout)] == [B]


@pytest.mark.usefixtures("registered")
def test_there_are_more_sessions_than_one_step_reads(
    canalgate: Canalgate, client: Client, keys: Keys
) -> None:
    """Each once."""
    names = [of("t", f"client {number}") for number in range(1500)]
    client.hset(keys.sessions(A), mapping=dict.fromkeys(names, f"{NODE} 1 1"))
    found = orjson.loads(canalgate("sessions", "--json").stdout)
    assert sorted(row["session"] for row in found) == sorted(names)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("claim", ["", "node", "node x 1", "node 1", b"\xff"])
def test_a_claim_that_nobody_can_read_is_shown_all_the_same(
    canalgate: Canalgate, client: Client, keys: Keys, claim: str | bytes
) -> None:
    """Somebody has to see it; a name that is none of ours is shown as it stands."""
    client.hset(keys.sessions(A), "%ff:[bold]\x1b", claim)
    (row,) = orjson.loads(canalgate("sessions", "--json").stdout)
    assert (row["tenant"], row["node"], row["fence"], row["age"]) == ("%ff", None, None, None)
    shown = canalgate("sessions").stdout
    assert "[bold]" in shown
    assert "\x1b" not in shown


def test_a_tool_that_is_not_there_is_not_found(canalgate: Canalgate, client: Client) -> None:
    """By name; without a name there simply are none."""
    assert client.dbsize() == 0
    done = canalgate("sessions", "--tool", "nobody")
    assert done.exit_code == Exit.NOT_FOUND
    assert "TOOL_NOT_FOUND" in done.output
    assert orjson.loads(canalgate("sessions", "--json").stdout) == []
