"""``canalgate tenants``: what it says, what it changes, what it refuses."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import yaml

from common.audit.journal import Journal
from common.domain.ids import TenantId
from common.store.client import Client
from common.store.keys import Keys
from common.tenants.records import TenantRecords
from gateway_web.cli.output import Exit
from tests.support.unchanged import assert_unchanged
from tests.web.cli.conftest import USER, Canalgate


@pytest.fixture(autouse=True)
def file(tmp_path: Path, canalgate: Canalgate, client: Client) -> None:
    """A settings file with a tenant."""
    tenants = {"listed": [{"id": "acme", "requests_per_minute": 60, "burst": 5}], "allow_unlisted": True}
    (tmp_path / "canalgate.yaml").write_text(yaml.safe_dump({"tenants": tenants}))


def test_bounds_are_set_shown_and_removed(canalgate: Canalgate, client: Client, keys: Keys) -> None:
    """Under the name of the user; what is not named stays."""
    done = canalgate("tenants", "set", "acme", "{max_calls: 3, burst: null, requests_per_minute: 600}")
    assert done.exit_code == Exit.OK, done.output
    assert canalgate("tenants", "set", "acme", "{max_sessions: 2}").exit_code == Exit.OK
    shown = orjson.loads(canalgate("tenants", "show", "acme", "--json").stdout)
    assert shown["set"] == {"max_calls": 3, "burst": None, "requests_per_minute": 600, "max_sessions": 2}
    assert (shown["quota"]["requests_per_minute"], shown["quota"]["burst"]) == (600, None)
    lines = canalgate("tenants", "show", "acme").stdout.splitlines()
    assert any(line.split()[:2] == ["max_calls", "3"] and "run time" in line for line in lines)
    assert Journal(client, keys).newest(1)[0].fields["actor"] == f"cli:{USER}"
    assert canalgate("tenants", "remove", "acme").exit_code == Exit.OK
    shown = orjson.loads(canalgate("tenants", "show", "acme", "--json").stdout)
    assert (shown["version"], shown["quota"]["burst"], shown["quota"]["max_calls"]) == (0, 5, None)


def test_the_braces_may_be_left_out(canalgate: Canalgate, client: Client, keys: Keys) -> None:
    """One line of fields is meant as one; what is no line of fields is refused as before."""
    assert canalgate("tenants", "set", "acme", "max_calls: 3, burst: null").exit_code == Exit.OK
    record = TenantRecords(client, keys).get(TenantId("acme"))
    assert record is not None
    assert record.layer == {"max_calls": 3, "burst": None}
    assert canalgate("tenants", "set", "acme", "max_calls").exit_code == Exit.USAGE


def test_a_field_is_the_file_s_again(canalgate: Canalgate, client: Client, keys: Keys) -> None:
    """``--unset``."""
    canalgate("tenants", "set", "acme", "{requests_per_minute: 6, max_calls: 2}")
    assert canalgate("tenants", "set", "acme", "--unset", "requests_per_minute").exit_code == Exit.OK
    record = TenantRecords(client, keys).get(TenantId("acme"))
    assert record is not None
    assert record.layer == {"max_calls": 2}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{max_calls: 0}"], "max_calls must be above 0"),
        (["{max_call: 1}"], "unknown field 'max_call'"),
        (["{burst: 9}"], "burst goes with requests_per_minute"),
        (["[1]"], "must be a mapping"),
        (["{"], "bounds"),
        ([], "nothing to set"),
        (["--unset", "nothing"], "unknown field 'nothing'"),
        (["{max_calls: 1}", "--version", "7"], "is at version 0, not 7"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], said: str, canalgate: Canalgate, client: Client, keys: Keys
) -> None:
    """In one line, and nothing is written."""
    done = canalgate("tenants", "set", "acme", *words)
    assert done.exit_code in (Exit.CONFLICT, Exit.USAGE)
    assert said in done.stderr
    assert_unchanged(client, keys)


def test_the_list_and_what_is_used(canalgate: Canalgate) -> None:
    """Of the file and of what was set; unlisted ones on request."""
    canalgate("tenants", "set", "new", "{enabled: false}")
    lines = canalgate("tenants", "list").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["acme", "admitted"],
        ["default", "admitted"],
        ["new", "suspended"],
    ]
    used = canalgate("tenants", "usage").stdout.splitlines()
    assert used[1].split() == ["acme", "5", "of", "5", "-", "0", "-"]
    (found,) = orjson.loads(canalgate("tenants", "usage", "nobody", "--json").stdout)
    assert (found["tenant"], found["requests"], found["calls"], found["sessions"]) == (
        "nobody",
        None,
        None,
        0,
    )
