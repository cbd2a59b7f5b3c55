"""Tools over the admin API: shown, registered, changed, switched, removed; no change of somebody else is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from common.audit.journal import Journal
from common.domain.tool import MASK
from tests.web.admin.conftest import Ask
from tests.web.harness import ODD, Web

ENTRY = {"command": "cmd", "args": ["-v"], "env": {"TOKEN": "sesame"}, "request_timeout": 7}


@pytest.fixture
def fresh(ask: Ask) -> str:
    """A tool of the test's own, registered; its ETag."""
    ask("DELETE", "/tools/own")
    answer = ask("PUT", "/tools/own", json=ENTRY, headers={"If-None-Match": "*"})
    assert answer.status_code == 201, answer.text
    return str(answer.headers["ETag"])


def test_tools_are_listed_by_page(ask: Ask) -> None:
    """Each once, by id, whatever the size of a page."""
    whole = [tool["id"] for tool in ask("GET", "/tools").json["items"]]
    assert whole == sorted(whole)
    paged: list[str] = []
    cursor = ""
    while True:
        page = ask("GET", f"/tools?limit=2{cursor}").json
        paged += [tool["id"] for tool in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert paged == whole


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "cursor=%21", "cursor=a", "other=1"])
def test_a_bad_page_is_refused_by_name(ask: Ask, query: str) -> None:
    """The parameter is named."""
    answer = ask("GET", f"/tools?{query}")
    assert answer.status_code in {400, 422}
    assert query.partition("=")[0] in answer.json["detail"]


def test_a_tool_is_shown_without_its_secrets(ask: Ask, fresh: str) -> None:
    """The definition as in the file, values of env masked; its version is the ETag."""
    answer = ask("GET", "/tools/own", role="viewer")
    assert answer.json["definition"]["env"] == {"TOKEN": MASK}
    assert answer.json["definition"]["request_timeout"] == 7
    assert answer.headers["ETag"] == f'"{answer.json["version"]}"' == fresh
    assert "sesame" not in answer.text


def test_an_odd_id_is_found(ask: Ask) -> None:
    """Any string is an id, also one with a slash."""
    assert ask("GET", f"/tools/{quote(ODD, safe='')}").json["id"] == ODD


def test_the_same_put_again_changes_nothing(ask: Ask, fresh: str) -> None:
    """Idempotent, down to the version."""
    again = ask("PUT", "/tools/own", json=ENTRY, headers={"If-Match": fresh})
    assert again.status_code == 200
    assert again.headers["ETag"] == fresh


def test_what_was_read_can_be_written_back(ask: Ask, fresh: str, admin_web: Web) -> None:
    """A masked value stands for the one that the tool has."""
    definition = ask("GET", "/tools/own").json["definition"]
    answer = ask("PUT", "/tools/own", json={**definition, "request_timeout": 8}, headers={"If-Match": fresh})
    assert answer.status_code == 200, answer.text
    found = admin_web.gateway.registry.get("own").tool
    assert found.transport.env == {"TOKEN": "sesame"}
    assert found.request_timeout == 8


def test_a_mask_that_stands_for_nothing_is_refused(ask: Ask, fresh: str) -> None:
    """It is not taken for a value."""
    entry = {**ENTRY, "env": {"OTHER": MASK}}
    answer = ask("PUT", "/tools/own", json=entry, headers={"If-Match": fresh})
    assert answer.status_code == 400
    assert answer.json["field"] == "env.OTHER"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 428),
        ({"If-None-Match": "x"}, 428),
        ({"If-None-Match": "*", "If-Match": "*"}, 428),
        ({"If-None-Match": "*"}, 412),
        ({"If-Match": '"1"'}, 412),
        ({"If-Match": "nonsense"}, 412),
    ],
)
def test_a_put_says_what_it_replaces(ask: Ask, fresh: str, headers: dict[str, str], status: int) -> None:
    """Without that, somebody's change could be lost."""
    answer = ask("PUT", "/tools/own", json={"command": "other"}, headers=headers)
    assert answer.status_code == status
    assert ask("GET", "/tools/own").headers["ETag"] == fresh


def test_what_is_not_there_cannot_be_replaced(ask: Ask) -> None:
    """If-Match needs something that matches."""
    answer = ask("PUT", "/tools/none", json=ENTRY, headers={"If-Match": "*"})
    assert answer.status_code == 412


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({}, ""),
        ({"command": "x", "url": "http://h"}, ""),
        ({"command": "x", "request_timeout": 0}, "request_timeout"),
        ({"command": "x", "tiemout": 3}, "tiemout"),
        ({"url": "ftp://h"}, "url"),
    ],
)
def test_a_definition_with_faults_is_refused_by_name(ask: Ask, entry: dict[str, object], field: str) -> None:
    """The key at fault is named, and nothing is registered."""
    answer = ask("PUT", "/tools/bad", json=entry, headers={"If-None-Match": "*"})
    assert answer.status_code == 400
    assert field in answer.json["field"]
    assert ask("GET", "/tools/bad").status_code == 404


def test_only_commands_that_the_file_allows_are_registered(ask: Ask, fresh: str) -> None:
    """Whoever holds a token must not be able to start what he likes on a worker."""
    created = ask("PUT", "/tools/evil", json={"command": "sh"}, headers={"If-None-Match": "*"})
    changed = ask("PATCH", "/tools/own", json={"command": "sh", "env": None})
    assert (created.status_code, changed.status_code) == (400, 400)
    assert created.json["field"] == changed.json["field"] == "command"


def test_a_patch_changes_what_it_names(ask: Ask, fresh: str, admin_web: Web) -> None:
    """Everything else stays, secrets too."""
    answer = ask("PATCH", "/tools/own", json={"description": "mine"})
    assert answer.status_code == 200
    found = admin_web.gateway.registry.get("own").tool
    assert (found.description, found.request_timeout, found.transport.env) == ("mine", 7, {"TOKEN": "sesame"})
    stale = ask("PATCH", "/tools/own", json={"description": "yours"}, headers={"If-Match": fresh})
    assert stale.status_code == 412
    assert stale.json["data"]["version"] == answer.json["version"]


def test_a_patch_neither_switches_nor_changes_the_transport(ask: Ask, fresh: str) -> None:
    """Both have to be asked for."""
    assert ask("PATCH", "/tools/own", json={"enabled": False}).json["field"] == "enabled"
    assert ask("PATCH", "/tools/own", json={"url": "http://h/mcp"}).json["field"] == "transport"
    changed = ask("PATCH", "/tools/own?change_transport=true", json={"url": "http://h/mcp"})
    assert changed.json["transport"] == "http"


def test_twenty_writers_lose_nothing(ask: Ask, fresh: str, admin_web: Web) -> None:
    """Each patches a variable of its own at the same time; in the end all of them are there."""
    names = [f"V{number}" for number in range(20)]

    def write(name: str) -> int:
        while True:
            read = ask("GET", "/tools/own")
            env = {**read.json["definition"]["env"], name: name}
            answer = ask("PATCH", "/tools/own", json={"env": env}, headers={"If-Match": read.headers["ETag"]})
            if answer.status_code != 412:
                return answer.status_code

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(write, names)) == {200}
    held = admin_web.gateway.registry.get("own").tool.transport.env
    assert held == {"TOKEN": "sesame", **{name: name for name in names}}


def test_a_tool_is_removed_at_its_version(ask: Ask, fresh: str) -> None:
    """One that changed meanwhile stays."""
    ask("PATCH", "/tools/own", json={"description": "changed"})
    assert ask("DELETE", "/tools/own", headers={"If-Match": fresh}).status_code == 412
    assert ask("DELETE", "/tools/own").status_code == 204
    assert ask("GET", "/tools/own").json["code"] == "TOOL_NOT_FOUND"


@pytest.mark.parametrize(("verb", "back"), [("disable", "enable"), ("drain", "undrain")])
def test_verbs_say_whether_they_changed_anything(ask: Ask, fresh: str, verb: str, back: str) -> None:
    """Said twice, the second time nothing changes."""
    for word, changed in ((verb, True), (verb, False), (back, True), (back, False)):
        answer = ask("POST", f"/tools/own/{word}", role="operator")
        assert answer.json == {"tool": "own", "changed": changed}


def test_a_circuit_is_tripped_and_reset(ask: Ask, fresh: str) -> None:
    """With a reason that others read."""
    assert ask("POST", "/tools/own/circuit/trip", json={}).status_code == 422
    assert ask("POST", "/tools/own/circuit/trip", json={"reason": "on fire"}).json["changed"]
    told = ask("GET", "/tools/own").json["circuit"]
    assert (told["state"], told["tripped"], told["note"]) == ("open", True, "on fire")
    assert ask("POST", "/tools/own/circuit/reset").json["changed"]


def test_a_drain_can_be_waited_for(ask: Ask, fresh: str) -> None:
    """Nothing is left of a tool that nobody calls."""
    assert ask("GET", "/tools/own/drain?wait=1").json == {
        "tool": "own",
        "sessions": 0,
        "waiting": 0,
        "in_flight": 0,
        "drained": True,
    }
    assert ask("GET", "/tools/own/drain?wait=61").status_code == 422


def test_what_a_backend_offers_is_shown_whole(ask: Ask) -> None:
    """As the backend said it."""
    told = ask("GET", "/tools/echo/schemas").json
    assert told["tools"][0]["x-unknown"] == {"kept": True}
    assert ask("GET", "/tools/unasked/schemas").json["discovered_at"] is None


def test_changes_are_audited_with_their_actor(ask: Ask, fresh: str, admin_web: Web) -> None:
    """The name of the token, never the token."""
    from common.audit.journal import Journal

    ask("POST", "/tools/own/disable", role="operator")
    newest = Journal(admin_web.gateway.client, admin_web.gateway.keys).newest(1)[0]
    assert newest.fields["actor"] == "admin:operator-1"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"', b"null", b'{"command": NaN}'])
def test_a_body_that_is_no_object_is_refused(ask: Ask, data: bytes) -> None:
    """With problem details, not a traceback."""
    headers = {"If-None-Match": "*", "Content-Type": "application/json"}
    answer = ask("PUT", "/tools/bad", data=data, headers=headers)
    assert answer.status_code in {400, 422}, answer.text
    assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PUT", "/tools/evil", {"command": "sh", "env": {"K": "sesame"}}, "command"),
        ("PUT", "/tools/evil", {"url": "http://169.254.169.254/"}, "url"),
        ("PUT", "/tools/evil", {"command": "cmd", "tiemout": "sesame"}, "tiemout"),
        ("PATCH", "/tools/own", {"command": "sh", "env": None}, "command"),
        ("PATCH", "/tools/own", {"command": "sh"}, "env"),
        ("PATCH", "/tools/own", {"request_timeout": "sesame"}, "request_timeout"),
        ("PATCH", "/tools/own", {"url": "https://h.example", "headers": {"K": "sesame"}}, "transport"),
        ("POST", "/config/import", {"tools": {"evil": {"command": "sh"}}}, "tools.evil.command"),
    ],
)
def test_what_is_refused_is_audited_once(
    ask: Ask, admin_web: Web, fresh: str, method: str, path: str, body: dict[str, object], field: str
) -> None:
    """With who tried, what he would have changed, and why not; no value is told."""
    headers = {"If-None-Match": "*"} if method == "PUT" else {}
    journal = Journal(admin_web.gateway.client, admin_web.gateway.keys)
    before = journal.newest_id()
    answer = ask(method, path, json=body, headers=headers)
    assert (answer.status_code, answer.json["field"]) == (400, field)
    (event,) = (record.fields for record in journal.after(before) if record.kind == "tool_refused")
    assert event["actor"] == "admin:admin-1"
    assert event["outcome"] == "deny"
    assert event["detail"] == f"field: {field}"
    assert event["reason"] == answer.json["detail"]
    assert event.get("tool", "") == ("" if method == "POST" else path.rpartition("/")[2])
    assert "sesame" not in repr(event)


def test_a_dry_run_is_not_audited(ask: Ask, admin_web: Web) -> None:
    """It asks what would be."""
    journal = Journal(admin_web.gateway.client, admin_web.gateway.keys)
    before = journal.newest_id()
    assert (
        ask("POST", "/config/import?dry_run=true", json={"tools": {"evil": {"command": "sh"}}}).status_code
        == 400
    )
    assert journal.after(before) == []
