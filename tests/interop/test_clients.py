"""The six clients work without a gateway: when they fail behind it, it is the gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.clients import CLIENTS
from tests.interop.install import InteropPaths
from tests.support.servers.process import running_http

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def echo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A backend that speaks both eras and pages its list."""
    with running_http("echo_http", "--pages", 3, log=tmp_path_factory.mktemp("echo") / "log") as url:
        yield url


@pytest.mark.parametrize("client", CLIENTS)
def test_client_works(client: str, paths: InteropPaths, echo_url: str) -> None:
    """It negotiates the revision it is made for, reads all pages, and reports results and errors apart."""
    play, revision = CLIENTS[client]
    calls = [
        {"tool": "add", "arguments": {"a": 2, "b": 40}},
        {"tool": "fail", "arguments": {}},
        {"tool": "no_such_tool", "arguments": {}},
    ]

    played = play(paths, echo_url, calls)

    assert played["version"] == revision
    assert len(played["tools"]) == 14
    added, failed, unknown = played["results"]
    assert added["result"]["structuredContent"] == {"sum": 42}
    assert failed["result"]["isError"] is True
    assert unknown["error"]["code"] == -32602
