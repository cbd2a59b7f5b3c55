"""The clients work without a gateway: when they fail behind it, it is the gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.clients import CLIENTS, Players
from tests.interop.steps import Step
from tests.support.servers.process import running_http

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(300)]

STEPS = [
    Step(do="tools"),
    Step(do="call", name="add", arguments=(("a", 2), ("b", 40))),
    Step(do="call", name="fail"),
    Step(do="call", name="no_such_tool"),
    Step(do="call", name="progress", arguments=(("steps", 2),)),
]


@pytest.fixture(scope="module")
def echo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A backend that speaks both eras and pages its list."""
    with running_http("echo_http", "--pages", 3, log=tmp_path_factory.mktemp("echo") / "log") as url:
        yield url


@pytest.mark.parametrize("name", [name for name, client in CLIENTS.items() if client.door == "mcp"])
def test_client_works(name: str, players: Players, echo_url: str) -> None:
    """It negotiates the revision it is made for, reads all pages, and reports results, errors and progress apart."""
    client = CLIENTS[name]
    played = players.play(name, echo_url, STEPS)

    listed, added, failed, unknown, progressed = played["steps"]
    assert len(listed["result"]["tools"]) == 14
    assert added["result"]["structuredContent"] == {"sum": 42}
    if "progress" not in client.can:  # the Inspector: nothing of an answer that is no success
        assert "isError:true" in failed["error"]["message"]
        assert "not found" in unknown["error"]["message"]
        return
    assert played["version"] == client.revision
    assert failed["result"]["isError"] is True
    assert unknown["error"]["code"] == -32602
    assert [told["progress"] for told in progressed["progress"]] == [1, 2]
