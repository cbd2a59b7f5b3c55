"""Tenants over the admin API: seen, set at a version, forgotten."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from common.audit.journal import Journal
from tests.web.admin.conftest import Ask
from tests.web.harness import Web

NEW = {"If-None-Match": "*"}


@pytest.fixture(autouse=True)
def nothing_set(ask: Ask) -> None:
    ask("DELETE", "/tenants/acme")


def test_a_tenant_is_set_seen_and_forgotten(ask: Ask, admin_web: Web) -> None:
    """What is not named comes from the file, and all of it again in the end."""
    made = ask("PUT", "/tenants/acme", json={"max_calls": 3, "requests_per_minute": 60}, headers=NEW)
    assert made.status_code == 201, made.text
    assert (
        Journal(admin_web.gateway.client, admin_web.gateway.keys).newest(1)[0].fields["actor"]
        == "admin:admin-1"
    )
    assert made.json["set"]["max_calls"] == made.json["quota"]["max_calls"] == 3
    assert [one["id"] for one in ask("GET", "/tenants", role="viewer").json["items"]].count("acme") == 1
    usage = ask("GET", "/tenants/acme/usage", role="viewer").json
    assert (usage["calls"], usage["max_calls"], usage["requests"]["per_minute"]) == (0, 3, 60)
    changed = ask("PUT", "/tenants/acme", json={"enabled": False}, headers={"If-Match": made.headers["ETag"]})
    assert changed.json["set"] == {"enabled": False}
    assert ask("DELETE", "/tenants/acme", headers={"If-Match": made.headers["ETag"]}).status_code == 412
    assert ask("DELETE", "/tenants/acme").status_code == 204
    assert ask("GET", "/tenants/acme").json["version"] == 0
    assert ask("DELETE", "/tenants/acme").status_code == 404


def test_no_change_of_somebody_else_is_lost(ask: Ask) -> None:
    """A PUT says which version it replaces; the same again changes nothing."""
    tag = ask("PUT", "/tenants/acme", json={"max_calls": 3}, headers=NEW).headers["ETag"]
    assert ask("PUT", "/tenants/acme", json={"max_calls": 4}).status_code == 428
    assert ask("PUT", "/tenants/acme", json={"max_calls": 4}, headers=NEW).status_code == 412
    same = ask("PUT", "/tenants/acme", json={"max_calls": 3}, headers={"If-Match": tag})
    assert (same.status_code, same.headers["ETag"]) == (200, tag)
    ask("PUT", "/tenants/acme", json={"max_calls": 5}, headers={"If-Match": "*"})
    assert ask("PUT", "/tenants/acme", json={"max_calls": 4}, headers={"If-Match": tag}).status_code == 412


def test_of_twenty_writers_at_a_version_one_writes(ask: Ask) -> None:
    """All of them have read the same; who comes second is told."""
    tag = ask("PUT", "/tenants/acme", json={"max_calls": 100}, headers=NEW).headers["ETag"]

    def write(bound: int) -> int:
        answer = ask("PUT", "/tenants/acme", json={"max_calls": bound}, headers={"If-Match": tag})
        return answer.status_code

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(write, range(1, 21)))
    assert sorted(found) == [200] + 19 * [412]


@pytest.mark.parametrize("field", ["max_calls", "enabled", "capabilities", "max_sesions"])
def test_a_bad_bound_is_refused_by_name(ask: Ask, field: str) -> None:
    """And nothing is set."""
    answer = ask("PUT", "/tenants/acme", json={field: "x"}, headers=NEW)
    assert (answer.status_code, answer.json["field"]) == (400, field)
    assert ask("GET", "/tenants/acme").json["version"] == 0
