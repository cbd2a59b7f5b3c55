"""Keys, policy, credentials and quarantine over the admin API."""

from __future__ import annotations

from typing import get_args

import pytest

from common.audit.journal import Journal
from common.credentials.orders import Order, Verb, order_of
from common.domain.content_rules import ContentRules, Pinning
from common.domain.ids import ToolId
from common.registry.quarantine import KINDS
from gateway_web.admin.quarantine import Kind
from tests.common.registry.test_quarantine import Desk, T, mcp_tool
from tests.web.admin.conftest import Ask
from tests.web.harness import Web

NEW = {"tenant": "acme", "client": "ide", "scopes": ["b", "a"], "note": "for the dock"}


def actor_of_newest(web: Web) -> object:
    return Journal(web.gateway.client, web.gateway.keys).newest(1)[0].fields["actor"]


def test_a_key_is_shown_once(ask: Ask, admin_web: Web) -> None:
    """In the answer to its issue; the list has neither it nor its digest."""
    made = ask("POST", "/keys", json=NEW)
    assert made.status_code == 201, made.text
    # In the words of the command line; the tests' gateway asks for no keys.
    assert any("this gateway takes no API keys" in warning for warning in made.json["warnings"])
    assert made.headers["Cache-Control"] == "no-store"
    key = made.json["key"]
    listed = ask("GET", "/keys", role="viewer")
    [row] = [row for row in listed.json["items"] if row["id"] == made.json["id"]]
    assert (row["tenant"], row["scopes"], row["created_by"]) == ("acme", ["a", "b"], "admin:admin-1")
    assert key not in listed.text
    assert "digest" not in listed.text
    record = admin_web.gateway.issued_keys.find(row["id"])
    assert record is not None
    assert record.good_until(key, record.created_at) is None


def test_a_key_is_rotated_and_revoked(ask: Ask, admin_web: Web) -> None:
    """The old secret holds for its grace, and no key of that id is there in the end."""
    made = ask("POST", "/keys", json=NEW).json
    turned = ask("POST", f"/keys/{made['id']}/rotate", json={"grace": 60}).json
    assert turned["key"] != made["key"]
    assert turned["old_secret_until"] > turned["rotated_at"]
    assert ask("DELETE", f"/keys/{made['id']}?reason=lost").status_code == 204
    assert actor_of_newest(admin_web) == "admin:admin-1"
    for gone in (ask("DELETE", f"/keys/{made['id']}"), ask("POST", f"/keys/{made['id']}/rotate", json={})):
        assert gone.status_code == 404
        assert gone.json["field"] == "path.key"


@pytest.mark.parametrize("raw", [b'{"v":2}', b'{"v":0}', b"nonsense"])
def test_a_key_that_cannot_be_read_is_not_in_the_way(ask: Ask, admin_web: Web, raw: bytes) -> None:
    """The others are listed, and it is revoked by its id."""
    made, unreadable = ask("POST", "/keys", json=NEW).json, "0" * 16
    admin_web.gateway.client.hset(admin_web.gateway.keys.api_keys, unreadable, raw)
    listed = ask("GET", "/keys", role="viewer")
    assert listed.status_code == 200, listed.text
    assert made["id"] in {row["id"] for row in listed.json["items"]}
    assert ask("DELETE", f"/keys/{unreadable}").status_code == 204
    assert ask("DELETE", f"/keys/{unreadable}").status_code == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tenant": ""}, "tenant"),
        ({"scopes": ["a b"]}, "scopes"),
        ({"note": "\x00"}, "note"),
        ({"expires_in": 0}, "expires_in"),
        ({"secret": "mine"}, "secret"),
    ],
)
def test_a_bad_key_is_refused_by_name(ask: Ask, change: dict[str, object], field: str) -> None:
    """The member at fault is named."""
    answer = ask("POST", "/keys", json={**NEW, **change})
    assert answer.status_code in {400, 422}
    assert field in answer.text


def test_policy_is_shown_and_asked(ask: Ask) -> None:
    """Rules by their ids; the decision says which of them it was."""
    assert [rule["id"] for rule in ask("GET", "/policy", role="viewer").json["policy"]["rules"]] == [
        "no-drop"
    ]
    case = {"tenant": "t", "client": "c", "tool": "echo", "name": "add"}
    assert ask("POST", "/policy/test", json=case).json["decision"] == "allow"
    denied = ask("POST", "/policy/test", json={**case, "name": "drop"}, role="operator").json
    assert (denied["decision"], denied["rule"], denied["ground"]) == ("deny", "no-drop", "rule")


def test_a_dry_run_is_not_counted(ask: Ask, admin_web: Web) -> None:
    """Nobody was denied anything."""
    before = admin_web.gateway.policy.counts.denials
    ask("POST", "/policy/test", json={"tenant": "t", "client": "c", "tool": "echo", "name": "drop"})
    assert admin_web.gateway.policy.counts.denials == before


@pytest.mark.parametrize("verb", list(Verb))
def test_credentials_are_ordered(ask: Ask, admin_web: Web, verb: Verb) -> None:
    """Of one tool and tenant, by name, in the stream that workers read."""
    answer = ask("POST", f"/credentials/{verb}", json={"tool": "echo", "tenant": "acme"}, role="operator")
    assert answer.status_code == 202
    client, keys = admin_web.gateway.client, admin_web.gateway.keys
    [(_, fields)] = client.xrevrange(keys.credential_orders, count=1)
    assert order_of([part for pair in fields.items() for part in pair]) == Order(verb, "echo", "acme")
    assert actor_of_newest(admin_web) == "admin:operator-1"
    assert ask("POST", f"/credentials/{verb}", json={"tool": "none"}).status_code == 404
    assert ask("POST", f"/credentials/{verb}", json={"tool": ""}).status_code == 422


def test_every_kind_of_definition_can_be_decided_on() -> None:
    """The document names them all."""
    assert get_args(Kind) == KINDS


@pytest.fixture
def desk(admin_web: Web) -> Desk:
    desk = Desk(admin_web.gateway.client, admin_web.gateway.keys, ContentRules(pinning=Pinning.QUARANTINE))
    desk.find(mcp_tool("a", "good"))
    desk.find(mcp_tool("a", "evil\u202e"))
    return desk


def test_a_definition_is_seen_and_decided_on(ask: Ask, desk: Desk) -> None:
    """With the digest that was seen; another one decides nothing."""
    [waiting] = ask("GET", f"/tools/{T}/quarantine", role="viewer").json["items"]
    assert (waiting["name"], waiting["withheld"], waiting["changed"]) == ("a", True, ["description"])
    shown = ask("GET", f"/tools/{T}/quarantine/diff?name=a").json["lines"]
    assert any("U+202E" in line for line in shown)
    other = ask("POST", f"/tools/{T}/quarantine/approve", json={"name": "a", "digest": "0" * 64})
    assert other.status_code == 409
    for verb, standing in (("reject", "rejected"), ("approve", "approved")):
        done = ask("POST", f"/tools/{T}/quarantine/{verb}", json={"name": "a", "digest": waiting["digest"]})
        assert (done.status_code, done.json["standing"]) == (200, standing), done.text
    assert desk.offers() == ["a"]
    assert ask("GET", f"/tools/{T}/quarantine").json["items"] == []


def test_pins_of_one_tool_that_cannot_be_read_hide_no_others(ask: Ask, desk: Desk) -> None:
    """What waits of the other tools is listed."""
    desk.find(mcp_tool("a", "worse"))
    desk.client.hset(desk.keys.pins(ToolId("echo")), 'w["tools","x"]', "nonsense")
    listed = ask("GET", "/quarantine", role="viewer")
    assert listed.status_code == 200, listed.text
    assert [item["tool"] for item in listed.json["items"]] == [T]
    desk.client.delete(desk.keys.pins(ToolId("echo")))
