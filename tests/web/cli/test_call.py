"""``canalgate call``: what it says of names that nobody has, and ``canalgate doctor`` beside a web process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result
from werkzeug.serving import BaseWSGIServer, make_server

from common.domain.invocation import answer
from gateway_web.cli.app import cli
from gateway_web.cli.output import Exit
from tests.support.fake_worker import TakenCall
from tests.web.harness import Serve, Web

FAILS = {"content": [{"type": "text", "text": "Unknown tool"}], "isError": True}


def unknown_tool(call: TakenCall) -> None:
    """What most backends say of a name that they do not have."""
    call.finish(answer(FAILS, duration_ms=1.0, stages={}))


@pytest.fixture
def web(serve: Serve) -> Web:
    """A web process whose backends know nothing."""
    found = serve()
    found.worker.behaviour = unknown_tool
    return found


@pytest.fixture
def server(web: Web) -> Iterator[BaseWSGIServer]:
    """The same, on a port."""
    found = make_server("127.0.0.1", 0, web.app, threaded=True)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory and a state directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANALGATE_STATE_DIR", str(tmp_path / "state"))


def call(server: BaseWSGIServer, *words: str) -> Result:
    """Call through that gateway."""
    return CliRunner().invoke(cli, ["call", *words, "--url", f"http://127.0.0.1:{server.port}"])


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (("ecko", "add"), Exit.NOT_FOUND, "no tool 'ecko' is offered; did you mean 'echo'?"),
        (("ecko", "add", "a=1"), Exit.NOT_FOUND, "no tool 'ecko' is offered; did you mean 'echo'?"),
        (("zzz", "add"), Exit.NOT_FOUND, "no tool 'zzz' is offered; there are echo, "),
        (("echo", "ad"), Exit.FAILED, "no MCP tool 'ad' is offered; did you mean 'add'?"),
        (("echo", "echo__add"), Exit.FAILED, "no MCP tool 'echo__add' is offered; did you mean 'add'?"),
        (("echo", "zzz"), Exit.FAILED, "no MCP tool 'zzz' is offered; there are add, sub__tract"),
    ],
)
def test_a_name_that_nobody_has_brings_the_nearest(
    server: BaseWSGIServer, words: tuple[str, ...], code: Exit, hint: str
) -> None:
    """Or those that there are; beside what was answered."""
    done = call(server, *words)
    assert (done.exit_code, hint in done.stderr) == (code, True), done.output
    assert "Unknown tool" in done.stdout or "is registered (TOOL_NOT_FOUND)" in done.stderr


def test_who_is_not_known_is_told_how_to_give_a_key(serve: Serve) -> None:
    """Not by the gateway, which cannot know how it is asked."""
    keys = {"resolver": "api_key", "api_keys": [{"key": "k" * 20, "tenant": "a", "client": "c"}]}
    found = make_server("127.0.0.1", 0, serve(identity=keys).app, threaded=True)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    try:
        done = call(found, "echo", "add")
    finally:
        found.shutdown()
        thread.join()
        found.server_close()
    assert (done.exit_code, "CANALGATE_TOKEN" in done.stderr) == (Exit.UNAUTHENTICATED, True), done.output


def test_a_call_that_fails_for_another_reason_has_no_hint(server: BaseWSGIServer) -> None:
    """Its name is known; and where nothing is listed, nothing is known of names."""
    for words in (("echo", "add"), ("unasked", "add")):
        done = call(server, *words)
        assert (done.exit_code, done.stderr) == (Exit.FAILED, "")


def test_the_doctor_knows_a_web_process_of_ours(
    server: BaseWSGIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which has the port of the settings, as it should."""
    monkeypatch.setenv("CANALGATE_WEB__PORT", str(server.port))
    done = CliRunner().invoke(cli, ["doctor"])
    assert f"ok   port: 127.0.0.1:{server.port}: a web process of Canalgate answers there" in done.output
    assert "it misses: workers" in done.output


def test_the_doctor_finds_anybody_else_at_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that answers, with something else."""

    def other(_environ: object, start: object) -> list[bytes]:
        start("200 OK", [("Content-Type", "application/json")])  # type: ignore[operator]
        return [b'{"ready": true}']

    server = make_server("127.0.0.1", 0, other, threaded=True)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("CANALGATE_WEB__PORT", str(server.port))
        done = CliRunner().invoke(cli, ["doctor"])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.exit_code == Exit.FAILED
    assert f"bad  port: cannot listen on 127.0.0.1:{server.port}" in done.output


@pytest.mark.parametrize(
    ("words", "variable", "warned"),
    [
        ((), None, ""),
        ((), "secret-1", ""),
        (("--token", "secret-1"), None, "--token shows the token to everybody"),
        (("-H", "X-Api-Key: secret-1"), None, "--header shows the token to everybody"),
        (("-H", "X-Other: 1"), None, ""),
    ],
)
def test_a_token_that_others_see_is_warned_of(
    server: BaseWSGIServer,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    variable: str | None,
    warned: str,
) -> None:
    """In the list of processes: the variable is named that shows it to nobody."""
    if variable is not None:
        monkeypatch.setenv("CANALGATE_TOKEN", variable)
    done = call(server, "echo", "add", "--json", *words)
    assert warned in done.stderr
    assert ("warning" in done.stderr, "CANALGATE_TOKEN" in done.stderr) == (bool(warned),) * 2
    assert "secret-1" not in done.output


@pytest.mark.parametrize(
    ("url", "token", "warned"),
    [
        ("http://gateway.invalid", True, True),
        ("http://192.0.2.1:1", True, True),
        ("http://gateway.invalid", False, False),
        ("https://gateway.invalid", True, False),
        ("http://127.0.0.1:9", True, False),
        ("http://localhost:9", True, False),
    ],
)
def test_a_token_on_an_open_way_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, url: str, *, token: bool, warned: bool
) -> None:
    """Wherever it comes from, unless it stays on this machine."""
    if token:
        monkeypatch.setenv("CANALGATE_TOKEN", "secret-1")
    done = CliRunner().invoke(cli, ["call", "echo", "add", "--url", url, "--timeout", "0.2"])
    assert ("over the network unencrypted" in done.stderr) is warned, done.output
