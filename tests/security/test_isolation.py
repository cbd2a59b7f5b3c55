"""I6: two tenants at once, and what is one caller's never comes to another, whichever door, backend and session rule.

1,000 marked requests; with ``ISOLATION_CALLS=10000`` (``make security FULL=1``) as many as the requirement says.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.security.marked_clients import CLIENTS, MarkedClient, Principal
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import running_http, server_command
from tests.web import peers

THREADS = 50
CALLS = int(os.environ.get("ISOLATION_CALLS", "1000"))
WHO = [
    Principal(tenant, client, f"key-of-{tenant}-{client}-{uuid4().hex}")
    for tenant in ("acme", "globex")
    for client in ("one", "two")
]
TOOLS = ("sticky", "sessions", "pool", "remote")
OWN_SESSIONS = ("sticky", "sessions", "remote")
"""Tools whose sessions are one principal's."""

pytestmark = [pytest.mark.security, pytest.mark.e2e, pytest.mark.timeout(120 + CALLS // 10)]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Two processes of each program; children for each client, for each MCP session, and four for everybody; HTTP."""
    directory = tmp_path_factory.mktemp("i")
    command, *args = server_command("marking")
    plain = {"command": command, "args": args}
    keys = [{"key": who.key, "tenant": who.tenant, "client": who.client} for who in WHO]
    settings = {
        "web": {"processes": 2},
        "worker": {"processes": 2},
        "identity": {"resolver": "api_key", "api_keys": keys},
        "tenants": {"listed": sorted({who.tenant for who in WHO})},
    }
    with running_http("marking", "http", log=directory / "remote.log") as remote:
        tools = {
            "sticky": plain,
            "sessions": {**plain, "affinity": "mcp_session"},
            "pool": {**plain, "routing": "least_loaded", "pool_size": 4},
            "remote": {"url": remote},
        }
        with running_gateway(tools, directory=directory / "g", settings=settings) as found:
            yield found


def crowd(gateway: RunningGateway) -> list[MarkedClient]:
    """Fifty clients: of each door, tool and principal about as many."""
    kinds = list(itertools.product(CLIENTS, TOOLS, WHO))
    random.Random(6).shuffle(kinds)  # noqa: S311 - the same crowd each time
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda kind: kind[0](gateway, kind[2], kind[1]), kinds[:THREADS]))


def places(clients: list[MarkedClient], tool: str, who: Principal) -> set[str]:
    """Where a principal's calls of a tool were answered."""
    return set().union(*(one.heard.places for one in clients if (one.tool, one.who) == (tool, who)))


def test_nothing_crosses_between_callers(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer, progress, log message, question or update of one is told to another, nor an answer to a question."""
    monkeypatch.setattr(peers, "PATIENCE", 90.0)
    clients = crowd(gateway)
    with ThreadPoolExecutor(THREADS) as pool:
        heard = list(pool.map(lambda client: client.run(CALLS // THREADS), clients))
    strangers = [stranger for found in heard for stranger in found.strangers]
    assert strangers == [], "\n".join(map(str, strangers))
    total = sum((found.counted for found in heard), Counter[str]())
    print(
        f"\n{CALLS} requests of {THREADS} clients, {sum(total.values())} messages, 0 crossings: {dict(total)}"
    )
    answers = ("tools/call", "resources/read", "prompts/get", "completion/complete")
    assert sum(total[kind] for kind in answers) == CALLS // THREADS * THREADS
    assert total["notifications/progress"] == total["tools/call"]
    for kind in ("message", "resources/updated"):
        assert total[f"notifications/{kind}"] > 0, kind
    for kind in ("sampling/createMessage", "elicitation/create", "answered", "refused"):
        assert total[kind] > 0, kind
    for tool, (one, other) in itertools.product(OWN_SESSIONS, itertools.combinations(WHO, 2)):
        assert not places(clients, tool, one) & places(clients, tool, other), (tool, one, other)
    shared = Counter(place for who in WHO for place in places(clients, "pool", who))
    assert max(shared.values()) > 1, "the pool was not shared: nothing was proved of it"
