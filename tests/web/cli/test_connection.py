"""Which token goes where: that of the gateway that runs here is for its own address."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_web.cli.output import Exit
from gateway_web.supervisor import RunRecord, held_state_dir
from tests.web.cli.conftest import Canalgate
from tests.web.cli.served import TOKENS, listening, refusing


@pytest.fixture
def running(canalgate: Canalgate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A gateway runs from a state directory; the list holds its endpoint, to be written when known."""
    monkeypatch.setenv("CANALGATE_STATE_DIR", str(tmp_path / "state"))
    token = tmp_path / "its-token"
    token.write_text(TOKENS["admin"])
    with held_state_dir(tmp_path / "state") as state:

        class Endpoint(list[str]):
            def append(self, endpoint: str) -> None:
                state.write_run(
                    RunRecord(
                        pid=os.getpid(),
                        endpoint=endpoint,
                        redis_url="redis://h:1/0",
                        started_at=time.time(),
                        children={},
                        admin_token_file=str(token),
                    )
                )

        yield Endpoint()


def test_the_token_of_this_machine_is_for_its_own_gateway(canalgate: Canalgate, running: list[str]) -> None:
    """Not for another port, nor for another name: that may be anybody's."""
    app, had = refusing(404, b"")
    with listening(app) as url, listening(app) as other:
        running.append(f"{url}/mcp")
        for address, sent in (
            (f"{url}/", True),
            (f"{url}/mcp", True),
            (other, False),
            (url.replace("127.0.0.1", "localhost"), False),
        ):
            had.clear()
            assert canalgate("--url", address, "tools").exit_code == Exit.NOT_FOUND
            authorization = had[0].headers.get("authorization")
            assert authorization == (f"Bearer {TOKENS['admin']}" if sent else None), address


def test_what_is_given_goes_before_it(
    canalgate: Canalgate, running: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an option or a variable; an option goes before a variable."""
    app, had = refusing(404, b"")
    with listening(app) as url:
        running.append(f"{url}/mcp")
        Path("mine").write_text("the-token-in-a-file")
        monkeypatch.setenv("CANALGATE_TOKEN", "the-token-of-a-variable")
        canalgate("--url", url, "tools")
        canalgate("--url", url, "--token-file", "mine", "tools")
        monkeypatch.setenv("CANALGATE_TOKEN_FILE", "mine")
        canalgate("--url", url, "--token", "the-token-typed", "tools")
    assert [request.headers["authorization"] for request in had] == [
        "Bearer the-token-of-a-variable",
        "Bearer the-token-in-a-file",
        "Bearer the-token-typed",
    ]


def test_a_call_takes_the_gateway_at_both_places(
    canalgate: Canalgate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the token of an MCP client: an admin's that lies in a variable is not sent to an MCP endpoint."""
    app, had = refusing(404, b"")
    monkeypatch.setenv("CANALGATE_ADMIN_TOKEN", "an-admin's")
    with listening(app) as url:
        Path("mine").write_text("the-token-in-a-file")
        there, typed, file = ("--url", url), ("--token", "typed"), ("--token-file", "mine")
        words = ("call", "echo", "add")
        for line in (
            (*there, *typed, *words),
            (*words, *there, *typed),
            (*there, *words, *file),
            (*there, *words),
        ):
            canalgate(*line)
        monkeypatch.setenv("CANALGATE_TOKEN", "a-client's")
        monkeypatch.setenv("CANALGATE_TOKEN_FILE", "an-admin's-file")
        canalgate(*there, *words)
    first = [request.headers.get("authorization") for request in had if request.method == "POST"]
    sent = ["Bearer typed", "Bearer typed", "Bearer the-token-in-a-file", None, "Bearer a-client's"]
    assert list(dict.fromkeys(first)) == list(dict.fromkeys(sent))
    assert {request.path for request in had} == {"/servers/echo/mcp"}


def test_an_entry_for_a_client_takes_the_gateway_at_both_places(canalgate: Canalgate) -> None:
    """Both verbs that make one; tools of the settings here are not those of a gateway elsewhere."""
    for words in (("export",), ("client-config", "--for", "cursor")):
        for line in (("--url", "https://gw", *words), (*words, "--url", "https://gw")):
            assert "https://gw/mcp" in canalgate(*line).stdout, line
    refused = canalgate("export", "--tools", "--url", "https://gw")
    assert (refused.exit_code, "leave --url out" in refused.stderr) == (Exit.USAGE, True)


def test_what_is_given_at_both_places_must_go_together(canalgate: Canalgate) -> None:
    """Two tokens, or a token and a file of one, are refused; the same twice is once."""
    Path("mine").write_text("x")
    for line in (
        ("--token", "a", "tools", "--token-file", "mine"),
        ("--token", "a", "tools", "--token", "b"),
        ("tools", "--token", "a", "list", "--token", "b"),
    ):
        assert canalgate("--url", "http://127.0.0.1:9", *line).exit_code == Exit.USAGE
    same = ("--url", "http://127.0.0.1:9", "tools", "--url", "http://127.0.0.1:9")
    assert canalgate(*same).exit_code == Exit.UNREACHABLE
