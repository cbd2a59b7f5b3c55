"""``canalgate dead-letters``: what a person sees of messages that could not be run."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from common.audit.journal import Journal
from common.calls.dead_letters import DeadLetters, dead_letter_command
from common.domain.ids import NodeId
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.cli.app import cli
from gateway_web.cli.output import Exit

SECRET = b'{"password": "hunter2"}'
NODE = NodeId("celery@a:1")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    """A directory of the test's own, and the tests' Redis."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANALGATE_REDIS__URL", redis_url)
    monkeypatch.setenv("CANALGATE_REDIS__KEY_PREFIX", "test")


@pytest.fixture
def letter(client: Client, keys: Keys) -> str:
    """The id of one, whose sender called its task what he liked."""
    facts = {"reason": "unknown_task", "detail": "no such", "queue": "tool.a", "node": NODE}
    facts |= {"task": "[bold]\x1b[2Jtask", "task_id": "i-1"}
    client.execute_command(*dead_letter_command(keys, NODE, facts, message=SECRET))
    return DeadLetters(client, keys).newest(1)[0].id


def dead_letters(*words: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(cli, ["dead-letters", *words])


def test_the_list_shows_what_is_known_and_not_what_is_in_them(letter: str) -> None:
    """As a table, and as JSON."""
    for words in (["list"], ["list", "--json"], ["show", letter], ["show", letter, "--json"]):
        done = dead_letters(*words)
        assert done.exit_code == Exit.OK
        assert letter in done.stdout
        assert "unknown_task" in done.stdout
        assert "hunter2" not in done.output
    (row,) = orjson.loads(dead_letters("list", "--json").stdout)
    assert (row["size"], row["queue"], row["node"], row["truncated"]) == (len(SECRET), "tool.a", NODE, False)


def test_the_message_is_shown_on_request(letter: str) -> None:
    """Byte for byte, so that it can be piped."""
    assert dead_letters("show", letter, "--message").stdout_bytes == SECRET
    assert (
        orjson.loads(dead_letters("show", letter, "--message", "--json").stdout)["message"] == SECRET.decode()
    )


def test_names_from_messages_do_not_reach_the_terminal_as_they_are(letter: str) -> None:
    """No markup, no escape sequences."""
    shown = dead_letters("show", letter).stdout
    assert "[bold]" in shown
    assert "\x1b" not in shown


def test_the_list_is_bounded(client: Client, keys: Keys) -> None:
    """It says how many there are."""
    for _ in range(3):
        client.execute_command(*dead_letter_command(keys, NODE, {"reason": "not_json"}, message=b"x"))
    assert "2 of 3" in dead_letters("list", "--most", "2").stdout
    assert len(orjson.loads(dead_letters("list", "--most", "2", "--json").stdout)) == 2


def test_a_letter_is_dropped_once(letter: str) -> None:
    """The second time there is none."""
    assert dead_letters("drop", letter).exit_code == Exit.OK
    for verb in ("drop", "show"):
        done = dead_letters(verb, letter)
        assert done.exit_code == Exit.NOT_FOUND
        assert "no dead letter" in done.output
    assert orjson.loads(dead_letters("list", "--json").stdout) == []


def test_who_saw_a_message_and_who_dropped_it_is_recorded(
    letter: str, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the id and the queue, and nothing of the message; a look at the list is not recorded, a refusal is."""
    monkeypatch.setenv("LOGNAME", "ann")
    for words in (
        ["list"],
        ["show", letter],
        ["show", letter, "--message"],
        ["drop", letter],
        ["drop", letter],
    ):
        dead_letters(*words)
    refused, dropped, read = Journal(client, keys).newest(10)
    kinds = [record.kind for record in (refused, dropped, read)]
    assert kinds == ["admin_refused", "dead_letter_dropped", "dead_letter_read"]
    for record in (dropped, read):
        assert dict(record.fields) | {"kind": ""} == {
            "kind": "",
            "actor": "cli:ann",
            "reason": "unknown_task",
            "detail": f"{letter} of tool.a",
        }


def test_what_is_no_id() -> None:
    """One line that says what one looks like."""
    done = dead_letters("show", "+")
    assert done.exit_code == Exit.USAGE
    assert "looks like" in done.output
    assert "Traceback" not in done.output
