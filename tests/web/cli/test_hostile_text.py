"""What others wrote reaches the terminal as plain text: it is neither obeyed nor taken for words of ours."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result
from werkzeug.wrappers import Request, Response

import gateway_web.cli
from gateway_web.cli import dead_letters
from gateway_web.cli.app import cli
from gateway_web.cli.output import Exit, say_table, stop
from gateway_web.cli.up import _echo
from tests.web.cli.served import Wsgi, listening

PLAIN = "[bold]x[/nope] :bomb: [link=http://evil]y"
EVIL = f"\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\u202e{PLAIN}"
"""A title, a cleared screen, a colour in eight bits, and letters from right to left; then what rich would obey."""
Answers = Callable[[dict[str, Any]], dict[str, Any]]


def harmless(done: Result, *, times: int = 1) -> None:
    """Nothing in it is obeyed, and the rest stands there to be read."""
    assert isinstance(done.exception, SystemExit | None), done.exception
    for text in (done.stdout, done.stderr):
        assert all(char.isprintable() or char in "\n\t" for char in text), ascii(text)
    assert done.output.count(PLAIN) >= times, ascii(done.output)


def backend(answer: Answers) -> Wsgi:
    """A gateway whose backends answer so."""

    @Request.application
    def app(request: Request) -> Response:
        asked = orjson.loads(request.get_data())
        body = {"jsonrpc": "2.0", "id": asked["id"], **answer(asked)}
        return Response(orjson.dumps(body), content_type="application/json")

    return app


def call(answer: Answers, *words: str) -> Result:
    with listening(backend(answer)) as url:
        return CliRunner().invoke(cli, ["call", "t", "n", *words, "--url", url])


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings and no gateway of this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANALGATE_STATE_DIR", str(tmp_path / "state"))


BLOCKS: list[dict[str, Any]] = [
    {"type": "text", "text": f"one\r\ntwo\t{EVIL}"},
    {"type": EVIL, "uri": EVIL},
]


def test_a_result_is_shown_and_not_obeyed() -> None:
    """Its lines, tabs, and the spaces and joiners of other languages stay."""
    more = {"type": "text", "text": "caf\u00e9\u00a0!\u3000\u0645\u06cc\u200c\u0634\u0648\u062f"}
    done = call(lambda _: {"result": {"content": [*BLOCKS, more]}})
    assert done.exit_code == 0, done.output
    assert "one\ntwo" in done.stdout
    assert more["text"] in done.stdout
    shown = done.stdout.replace("\u00a0", "").replace("\u3000", "").replace("\u200c", "")
    assert all(char.isprintable() or char in "\n\t" for char in shown), ascii(shown)
    assert shown.count(PLAIN) >= 2


def test_as_json_it_is_exact() -> None:
    """Each character that has no look is an escape, and means what came."""
    result = {"content": [*BLOCKS, {"type": "text", "text": "\U000e0041\u00a0\u00e9"}]}
    done = call(lambda _: {"result": result}, "--json")
    assert orjson.loads(done.stdout) == result
    assert all(char.isprintable() or char == "\n" for char in done.stdout), ascii(done.stdout)
    assert "\u00e9" in done.stdout


def test_an_error_and_the_names_that_are_hinted_at() -> None:
    """And it stays one line, so that none can pass for one of ours."""

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        if asked["method"] == "tools/list":
            return {"result": {"tools": [{"name": EVIL}]}}
        return {"error": {"code": -32000, "message": f"{EVIL}\nerror: forged", "data": {"code": EVIL}}}

    done = call(answer)
    assert done.exit_code != 0
    harmless(done, times=3)
    assert "\nerror: forged" not in done.output


ADMIN: dict[str, Any] = {
    "/admin/v1/audit": {
        "items": [{"id": "1-0", "time": EVIL, "event": {"kind": EVIL, "tool": f"{EVIL}\nforged"}}],
        "next_cursor": None,
    },
    "/admin/v1/policy/test": {"decision": "allow", "rule": f"{EVIL}\nforged", "evaluator": EVIL},
    "/admin/v1/config/export": {"tools": {"t": {"command": EVIL}}},
    "/admin/v1/tools/t/quarantine/diff": {"lines": [EVIL, "+ \nforged"]},
    "/admin/v1/calls/c/cancel": {"id": EVIL, "tool": EVIL},
}


@pytest.mark.parametrize(
    "words",
    [
        ("audit",),
        ("policy", "test", "--tenant", "t", "--client", "c", "--tool", "t", "--name", "n"),
        ("tools", "quarantine", "show", "t", "n"),
        ("calls", "cancel", "c"),
        ("tools",),
        ("keys", "list"),
    ],
    ids=" ".join,
)
def test_what_an_admin_api_says(words: tuple[str, ...]) -> None:
    """Its answers, and its refusals where it has none."""

    @Request.application
    def app(request: Request) -> Response:
        found = ADMIN.get(request.path)
        problem = {"title": "t", "status": 400, "code": EVIL, "detail": f"{EVIL}\nforged"}
        return Response(
            orjson.dumps(found or problem),
            status=200 if found else 400,
            content_type="application/json" if found else "application/problem+json",
        )

    with listening(app) as url:
        done = CliRunner().invoke(cli, ["--url", url, *words])
    harmless(done)
    assert "\nforged" not in done.output


def test_a_table_and_an_error_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    """Names in them may be anybody's."""
    say_table(("tool",), [(f"{EVIL}\nforged",)])
    stop(f"{EVIL}\nerror: forged", Exit.REFUSED)
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert PLAIN in text
        assert all(char.isprintable() or char == "\n" for char in text)
        assert not any(line.startswith(("forged", "error: forged")) for line in text.splitlines())


def test_a_log_line_of_a_child(capsys: pytest.CaptureFixture[str]) -> None:
    """``up --verbose`` shows what backends and clients had written into it."""
    _echo("web", f"{EVIL}\rforged")
    shown = capsys.readouterr().err
    assert shown.startswith("web | ")
    assert PLAIN in shown
    assert all(char.isprintable() or char == "\n" for char in shown)


class _Terminal:
    """Standard output of somebody who looks."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True


def test_a_message_that_no_worker_could_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte into a file, but not to a terminal."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "dumb")
    dead_letters._say_message(EVIL.encode())
    assert PLAIN in terminal.text
    assert all(char.isprintable() or char == "\n" for char in terminal.text)


ELSEWHERE = {
    # What is printed past the functions of `output`, and why it may be.
    "completion.py": {"typer.echo"},  # the script, which is ours
    "audit.py": {"typer.echo"},  # JSON, escaped
    "doctor.py": {"out.print"},  # the coloured mark
    "up.py": {"sys.stdout.write"},  # the line that scripts wait for
    "dead_letters.py": {"sys.stdout.buffer.write"},  # not to a terminal
}


def test_no_verb_prints_by_itself() -> None:
    """A string that is given to a console is markup, and is obeyed."""
    seen: dict[str, set[str]] = {}
    for file in Path(gateway_web.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and file.name != "output.py":
                name = ast.unparse(node.func)
                if name.endswith((".print", ".echo", ".secho", ".write")) or name == "print":
                    seen.setdefault(file.name, set()).add(name)
    to_files = {"written.write"}
    assert {name: calls - to_files for name, calls in seen.items() if calls - to_files} == ELSEWHERE
