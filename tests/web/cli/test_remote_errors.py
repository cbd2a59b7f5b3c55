"""What goes wrong between the command line and a gateway elsewhere: one line, and an exit code for each kind."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest

from common.settings import Settings
from common.store.client import Client
from gateway_web.cli.output import Exit
from tests.support.certificates import Authority, server_context
from tests.web.cli.conftest import Canalgate
from tests.web.cli.served import TOKENS, admin_app, listening, refusing

TOKEN = TOKENS["admin"]
PROBLEM = {"content-type": "application/problem+json"}


def problem(status: int, code: str, detail: str, **more: object) -> bytes:
    return orjson.dumps({"title": "t", "status": status, "code": code, "detail": detail, **more})


def one_line(output: str) -> str:
    """The only line that is said."""
    lines = [line for line in output.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, output
    assert lines[0].startswith("error: ")
    assert TOKEN not in output
    return lines[0]


@pytest.fixture
def token(canalgate: Canalgate) -> Canalgate:
    """Points the command at an address, with a token in a file."""
    Path("token").write_text(TOKEN + "\n")
    return lambda url, *words: canalgate("--url", url, "--token-file", "token", *words)


@pytest.mark.parametrize(
    ("status", "code", "exit_code", "said"),
    [
        (400, "INVALID_REQUEST", Exit.USAGE, "query.limit: it is wrong"),
        (422, "INVALID_REQUEST", Exit.USAGE, "query.limit: it is wrong"),
        (401, "UNAUTHENTICATED", Exit.UNAUTHENTICATED, "admin.tokens"),
        (403, "FORBIDDEN", Exit.FORBIDDEN, "it is wrong (FORBIDDEN)"),
        (404, "TOOL_NOT_FOUND", Exit.NOT_FOUND, "it is wrong (TOOL_NOT_FOUND)"),
        (409, "VERSION_CONFLICT", Exit.CONFLICT, "it is wrong (VERSION_CONFLICT)"),
        (412, "INVALID_REQUEST", Exit.CONFLICT, "somebody else changed it"),
        (428, "INVALID_REQUEST", Exit.CONFLICT, "it is wrong"),
        (429, "RATE_LIMITED", Exit.BUSY, "try again in 7 s"),
        (500, "INTERNAL", Exit.UNAVAILABLE, "it is wrong (INTERNAL)"),
        (503, "AUDIT_UNAVAILABLE", Exit.UNAVAILABLE, "AUDIT_UNAVAILABLE"),
        (503, "STORE_UNAVAILABLE", Exit.UNREACHABLE, "it is wrong"),
    ],
)
def test_each_refusal_has_its_exit_code(
    token: Canalgate, status: int, code: str, exit_code: Exit, said: str
) -> None:
    """As a problem of the admin API tells it: what is at fault, what to do."""
    body = problem(status, code, "it is wrong", field="query.limit", data={"version": 3})
    app, _ = refusing(status, body, PROBLEM | ({"retry-after": "7"} if status == 429 else {}))
    with listening(app) as url:
        done = token(url, "tools")
    assert done.exit_code == exit_code, done.output
    assert said in one_line(done.output)


@pytest.mark.parametrize(
    ("status", "headers", "exit_code", "said"),
    [
        (404, {}, Exit.NOT_FOUND, "admin.enabled"),
        (502, {"content-type": "text/html"}, Exit.UNAVAILABLE, "answers 502"),
        (429, {"retry-after": "5"}, Exit.BUSY, "try again in 5 s"),
        (301, {"location": "https://elsewhere.example/"}, Exit.REFUSED, "https://elsewhere.example/"),
        (200, {"content-type": "text/html"}, Exit.UNREACHABLE, "no admin API"),
    ],
)
def test_what_is_no_gateway_is_told_apart(
    token: Canalgate, status: int, headers: Mapping[str, str], exit_code: Exit, said: str
) -> None:
    """A proxy, another program, a gateway without the admin API."""
    app, had = refusing(status, b"<html>[red]x", headers)
    with listening(app) as url:
        done = token(url, "tools")
    assert done.exit_code == exit_code, done.output
    assert said in one_line(done.output)
    assert len(had) == 1  # the token goes nowhere else


def test_nobody_there(token: Canalgate) -> None:
    """A port that is closed, a name that is none, somebody who says nothing."""
    done = token("http://127.0.0.1:9", "tools")
    assert (done.exit_code, "http://127.0.0.1:9" in one_line(done.output)) == (Exit.UNREACHABLE, True)
    assert token("https://no-such-host.invalid", "tools").exit_code == Exit.UNREACHABLE
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = token(url, "--timeout", "0.2", "tools")
    assert done.exit_code == Exit.UNAVAILABLE
    assert "--timeout" in one_line(done.output)


def test_tls_that_is_not_trusted(token: Canalgate, tmp_path: Path, client: Client, redis_url: str) -> None:
    """An authority that is not known, a name that is another's, no TLS at all; with --ca-file it is trusted."""
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    app = admin_app(redis_url, Settings())
    with listening(app, server_context(ours.issue("localhost", "127.0.0.1"))) as url:
        for words in ((), ("--ca-file", str(theirs.file))):
            done = token(url, *words, "tools")
            assert done.exit_code == Exit.UNTRUSTED, done.output
            assert "--ca-file" in one_line(done.output)
        assert token(url, "--ca-file", str(ours.file), "tools").exit_code == Exit.OK
        done = token(url, "--ca-file", "nothing.pem", "tools")
        assert (done.exit_code, "nothing.pem" in one_line(done.output)) == (Exit.USAGE, True)
    with listening(app, server_context(ours.issue("elsewhere.example"))) as url:
        assert token(url, "--ca-file", str(ours.file), "tools").exit_code == Exit.UNTRUSTED
    with listening(app) as url:
        done = token(url.replace("http:", "https:"), "tools")
        assert (done.exit_code, "http://" in one_line(done.output)) == (Exit.UNTRUSTED, True)


def test_roles_and_tokens(
    canalgate: Canalgate, client: Client, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No token, one that nobody knows, one that may not; a viewer may look."""
    with listening(admin_app(redis_url, Settings())) as url:
        monkeypatch.setenv("CANALGATE_URL", url)
        assert canalgate("tools").exit_code == Exit.UNAUTHENTICATED
        for name in ("CANALGATE_TOKEN", "CANALGATE_ADMIN_TOKEN"):
            monkeypatch.setenv(name, "nobody-knows-this")
            assert canalgate("tools").exit_code == Exit.UNAUTHENTICATED
        monkeypatch.setenv("CANALGATE_ADMIN_TOKEN", TOKENS["viewer"])
        assert canalgate("tools").exit_code == Exit.OK
        done = canalgate("tools", "add", "x", "{command: cmd}")
        assert done.exit_code == Exit.FORBIDDEN
        assert "role admin" in done.output


def test_a_token_on_the_command_line_is_warned_of(
    canalgate: Canalgate, client: Client, redis_url: str
) -> None:
    """Everybody sees it in the list of processes; it works all the same, and is never shown."""
    with listening(admin_app(redis_url, Settings())) as url:
        done = canalgate("--url", url, "--token", TOKEN, "tools")
        assert done.exit_code == Exit.OK, done.output
        assert "--token-file, or the variable CANALGATE_ADMIN_TOKEN" in done.stderr
        assert TOKEN not in done.output
        Path("token").write_text(TOKEN)
        both = canalgate("--url", url, "--token", TOKEN, "--token-file", "token", "tools")
        assert (both.exit_code, "do not go together" in both.output) == (Exit.USAGE, True)
        for name in ("none", "."):
            done = canalgate("--url", url, "--token-file", name, "tools")
            assert (done.exit_code, name in one_line(done.output)) == (Exit.USAGE, True)
        Path("two").write_text("a b\nc")
        assert canalgate("--url", url, "--token-file", "two", "tools").exit_code == Exit.USAGE
        help_text = canalgate("--help").output
        assert TOKEN not in help_text


@pytest.mark.parametrize(
    "url",
    ["gw:8080", "ftp://gw/", "http://", "http://u:p@gw/", "http://gw/?token=x", "http://[::1", "http://h:x/"],
)
def test_an_address_that_is_none_is_refused(token: Canalgate, url: str) -> None:
    """It names the option, and does not repeat what may be a password."""
    done = token(url, "tools")
    assert done.exit_code == Exit.USAGE, done.output
    assert "--url" in one_line(done.output)
    assert "u:p" not in done.output


def test_settings_of_this_machine_are_not_those_of_a_gateway_elsewhere(
    token: Canalgate, canalgate: Canalgate, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--config and --url do not go together; --config goes before the environment's URL."""
    Path("c.yaml").write_text("{}")
    done = token("http://127.0.0.1:9", "tools", "--config", "c.yaml")
    assert (done.exit_code, "--config" in one_line(done.output)) == (Exit.USAGE, True)
    monkeypatch.setenv("CANALGATE_URL", "http://127.0.0.1:9")
    assert canalgate("tools", "--config", "c.yaml").exit_code == Exit.OK
    assert canalgate("tools").exit_code == Exit.UNREACHABLE


@pytest.mark.parametrize("words", [("apply", "c.yaml"), ("audit", "verify", "--redis")])
def test_a_verb_of_this_machine_does_not_act_on_it_when_another_is_named(
    token: Canalgate, client: Client, words: tuple[str, ...]
) -> None:
    """Whoever typed the address meant that gateway."""
    Path("c.yaml").write_text("tools: {a: {command: cmd}}")
    done = token("http://127.0.0.1:9", *words)
    assert (done.exit_code, "leave --url out" in one_line(done.output)) == (Exit.USAGE, True)
    assert client.dbsize() == 0


def test_a_conflict_names_the_version_there_is(canalgate: Canalgate, client: Client) -> None:
    """Of a tool that is there already, and of one that somebody changed meanwhile; nothing is changed."""
    assert canalgate("tools", "add", "demo", "{command: cmd}").exit_code == Exit.OK
    done = canalgate("tools", "add", "demo", "{command: x}")
    assert (done.exit_code, "--replace changes it" in one_line(done.output)) == (Exit.CONFLICT, True)
    seen = orjson.loads(canalgate("tools", "--json").stdout)[0]["version"]
    assert (
        canalgate("tools", "update", "demo", "{description: a}", "--version", str(seen)).exit_code == Exit.OK
    )
    for words in (
        ("update", "demo", "{description: b}"),
        ("remove", "demo"),
        ("add", "demo", "{command: y}"),
    ):
        done = canalgate("tools", *words, "--version", str(seen))
        assert done.exit_code == Exit.CONFLICT, done.output
        assert f"at version {seen + 1} by now" in one_line(done.output)
    assert orjson.loads(canalgate("tools", "--json").stdout)[0]["version"] == seen + 1
