"""``/admin/v1/dead-letters``: pages of them, and what only an admin is shown."""

from __future__ import annotations

import base64

import pytest

from common.calls.dead_letters import DeadLetters, dead_letter_command
from common.domain.ids import NodeId
from gateway_web.admin.dead_letters import MOST_A_PAGE
from tests.web.admin.conftest import Ask
from tests.web.harness import Web

NODE = NodeId("celery@a:1")
SECRET = b'{"password": "hunter2"}\xff'


@pytest.fixture
def three(admin_web: Web) -> list[str]:
    """Ids of three, the newest first."""
    client, keys = admin_web.gateway.client, admin_web.gateway.keys
    client.delete(keys.dead_letters)
    for _ in range(3):
        client.execute_command(*dead_letter_command(keys, NODE, {"reason": "not_json"}, message=SECRET))
    return [letter.id for letter in DeadLetters(client, keys).newest(3)]


def test_pages_go_from_the_newest_to_the_oldest(ask: Ask, three: list[str]) -> None:
    """Each once, with how many there are; a letter that comes meanwhile moves none of them."""
    found, cursor = [], ""
    while cursor is not None:
        body = ask("GET", f"/dead-letters?limit=1{cursor and f'&cursor={cursor}'}", role="viewer").json
        assert body["total"] == 3
        assert "hunter2" not in str(body)
        found += [item["id"] for item in body["items"]]
        cursor = body["next_cursor"]
    assert found == three


def test_a_page_has_an_end_whatever_is_asked_for(ask: Ask, admin_web: Web) -> None:
    """Each letter is opened for its facts; a reader must not be able to have megabytes of them opened at once."""
    client, keys = admin_web.gateway.client, admin_web.gateway.keys
    client.delete(keys.dead_letters)
    for _ in range(MOST_A_PAGE + 1):
        client.execute_command(*dead_letter_command(keys, NODE, {"reason": "not_json"}, message=SECRET))
    body = ask("GET", "/dead-letters?limit=500", role="viewer").json
    assert (len(body["items"]), body["total"]) == (MOST_A_PAGE, MOST_A_PAGE + 1)
    (last,) = ask("GET", f"/dead-letters?limit=500&cursor={body['next_cursor']}", role="viewer").json["items"]
    assert last["id"] not in {item["id"] for item in body["items"]}


def test_a_cursor_of_something_else_is_refused(ask: Ask, three: list[str]) -> None:
    """It is no id."""
    assert ask("GET", "/dead-letters?cursor=eHl6").status_code == 400


def test_what_a_message_calls_itself_is_not_for_a_viewer(ask: Ask, admin_web: Web) -> None:
    """A producer that broke may have put anything there."""
    client, keys = admin_web.gateway.client, admin_web.gateway.keys
    client.delete(keys.dead_letters)
    facts = {"reason": "unknown_task", "task": "login(hunter2)", "task_id": "hunter2"}
    client.execute_command(*dead_letter_command(keys, NODE, facts, message=SECRET))
    for path in ("/dead-letters", f"/dead-letters/{DeadLetters(client, keys).newest(1)[0].id}"):
        assert "hunter2" not in ask("GET", path, role="viewer").text
        assert "login(hunter2)" in ask("GET", path, role="operator").text


def test_the_message_is_for_an_admin(ask: Ask, three: list[str]) -> None:
    """Byte for byte; nobody else sees it, with the facts neither."""
    assert "hunter2" not in ask("GET", f"/dead-letters/{three[0]}", role="viewer").text
    assert ask("GET", f"/dead-letters/{three[0]}/message", role="operator").status_code == 403
    body = ask("GET", f"/dead-letters/{three[0]}/message").json
    assert base64.b64decode(body["message"]) == SECRET


def test_one_is_dropped_once(ask: Ask, three: list[str]) -> None:
    """The others stay."""
    assert ask("DELETE", f"/dead-letters/{three[1]}", role="operator").json == {"id": three[1]}
    again = ask("DELETE", f"/dead-letters/{three[1]}", role="operator")
    assert (again.status_code, again.json["field"]) == (404, "path.letter")
    assert [item["id"] for item in ask("GET", "/dead-letters").json["items"]] == [three[0], three[2]]
