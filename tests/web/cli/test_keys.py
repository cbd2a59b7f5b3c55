"""``canalgate keys``: what a person sees of API keys, and what is done to them."""

from __future__ import annotations

import re

import orjson
import pytest

from common.audit.journal import Journal
from common.identity.api_keys import ApiKeys
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.cli.output import Exit
from tests.support.unchanged import assert_unchanged
from tests.web.cli.conftest import USER, Canalgate

ISSUE = ("keys", "issue", "--tenant", "acme", "--client", "bot")


@pytest.fixture
def service(client: Client, keys: Keys) -> ApiKeys:
    return ApiKeys(client, keys)


def test_a_key_is_shown_once(canalgate: Canalgate, service: ApiKeys) -> None:
    """Alone on standard output, so that it can be piped; the list shows what is known of it."""
    done = canalgate(
        *ISSUE, "--scope", "b", "--scope", "a", "--subject", "ann", "--expires", "90d", "--note", "ci"
    )
    assert done.exit_code == Exit.OK
    key = done.stdout.strip()
    assert re.fullmatch(r"cgk_[0-9a-f]{16}_[A-Za-z0-9_-]{43}", key)
    (record,) = service.list()
    assert record.good_until(key, service.now()) == record.expires_at
    assert record.created_by == f"cli:{USER}"
    for words in (("keys", "list"), ("keys", "list", "--json"), ("audit",)):
        shown = canalgate(*words)
        assert shown.exit_code == Exit.OK
        assert record.id in shown.stdout
        assert key not in shown.output
        assert record.digest not in shown.output
    (row,) = orjson.loads(canalgate("keys", "list", "--json").stdout)
    assert (row["tenant"], row["client"], row["subject"], row["scopes"], row["note"], row["expired"]) == (
        *("acme", "bot", "ann"),
        ["a", "b"],
        *("ci", False),
    )


def test_a_key_is_rotated_and_revoked(
    canalgate: Canalgate, service: ApiKeys, client: Client, keys: Keys
) -> None:
    """Under the name of the user."""
    first = orjson.loads(canalgate(*ISSUE, "--json").stdout)
    second = orjson.loads(canalgate("keys", "rotate", first["id"], "--grace", "1h", "--json").stdout)
    assert second["id"] == first["id"]
    record = service.get(first["id"])
    assert record.good_until(second["key"], service.now()) is None
    assert record.good_until(first["key"], service.now()) == record.previous_until
    canalgate("keys", "rotate", first["id"], "--grace", "0")
    assert service.get(first["id"]).good_until(second["key"], service.now()) == 0
    done = canalgate("keys", "revoke", first["id"], "--reason", "leaked")
    assert (done.exit_code, done.stdout) == (Exit.OK, f"key {first['id']} is revoked\n")
    assert service.list() == []
    newest = Journal(client, keys).newest(1)[0]
    assert (newest.kind, newest.fields["actor"], newest.fields["reason"]) == (
        "api_key_revoked",
        f"cli:{USER}",
        "leaked",
    )


def test_what_keeps_a_key_from_being_of_use_is_said(
    canalgate: Canalgate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On standard error; the key is issued all the same."""
    done = canalgate(*ISSUE)
    assert "api_key is not in identity.resolver" in done.stderr
    assert "tenant 'acme' may not call" in done.stderr
    monkeypatch.setenv("CANALGATE_IDENTITY__RESOLVER", "api_key")
    monkeypatch.setenv("CANALGATE_TENANTS__LISTED", "acme")
    assert "note:" not in canalgate(*ISSUE).stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((*ISSUE, "--expires", "soon"), Exit.USAGE, "--expires"),
        ((*ISSUE, "--expires", "0"), Exit.USAGE, "expires_in: Input should be greater than 0"),
        ((*ISSUE, "--scope", "a b"), Exit.USAGE, "scopes"),
        (("keys", "issue", "--tenant", "t"), Exit.USAGE, "--client"),
        (
            ("keys", "issue", "--tenant", "", "--client", "c"),
            Exit.USAGE,
            "tenant: String should have at least 1 character",
        ),
        (("keys", "rotate", "0" * 16), Exit.NOT_FOUND, "there is no key"),
        (("keys", "rotate", "0" * 16, "--grace", "-1"), Exit.USAGE, "--grace"),
        (("keys", "revoke", "0" * 16), Exit.NOT_FOUND, "there is no key"),
        (("keys", "revoke", "cgk_0123456789abcdef_" + "s" * 43), Exit.USAGE, "16 characters"),
    ],
)
def test_what_is_refused(
    canalgate: Canalgate, client: Client, keys: Keys, words: tuple[str, ...], code: Exit, said: str
) -> None:
    """In one line that names it; nothing is written."""
    done = canalgate(*words)
    assert done.exit_code == code
    assert said in done.output
    assert "sss" not in done.output
    assert "Traceback" not in done.output
    assert_unchanged(client, keys)


@pytest.mark.parametrize(
    "words", [ISSUE, ("keys", "list"), ("keys", "rotate", "0" * 16), ("keys", "revoke", "0" * 16)]
)
def test_without_redis_it_says_so(
    canalgate: Canalgate, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """With the exit code for that, and no key."""
    monkeypatch.setenv("CANALGATE_REDIS__URL", "unix:///nonexistent/redis.sock")
    done = canalgate(*words)
    assert done.exit_code == Exit.UNREACHABLE
    assert "cgk_" not in done.output
