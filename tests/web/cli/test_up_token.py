"""The admin token that ``canalgate up`` makes: for its owner, on this machine alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from common.identity.operators import Tokens
from common.settings import load
from gateway_web.cli.up_token import own_token


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_it_is_in_a_file_of_its_owner_until_the_end(tmp_path: Path, host: str) -> None:
    """Another one each time; what was left over is gone."""
    seen = set()
    (tmp_path / "admin-token").write_text("left over")
    for _ in range(2):
        with own_token(load(None, {}), host, tmp_path) as made:
            assert made is not None
            assert stat.S_IMODE(made.file.stat().st_mode) == 0o600
            assert made.file.read_text() == made.token + "\n"
            assert made.token not in repr(made)
            seen.add(made.token)
            settings = load(None, made.variables)
        assert not made.file.exists()
    assert len(seen) == 2
    actor = Tokens(settings.admin).actor(f"Bearer {made.token}")
    assert (actor.name, actor.role) == ("admin:laptop", "admin")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gw.example", ""])  # noqa: S104
def test_where_others_reach_the_listener_there_is_none(tmp_path: Path, host: str) -> None:
    """The admin API is off there unless the settings switch it on."""
    with own_token(load(None, {}), host, tmp_path) as made:
        assert made is None
        assert list(tmp_path.iterdir()) == []


def test_what_the_settings_say_of_it_holds(tmp_path: Path) -> None:
    """They have tokens of their own, or do not want it."""
    tokens = '[{"name": "me", "token": "0123456789abcdef"}]'
    given = load(None, {"CANALGATE_ADMIN__TOKENS": tokens})
    with own_token(given, "127.0.0.1", tmp_path) as made:
        assert made is None


@pytest.mark.parametrize("text", ["admin: {enabled: false}", "admin: {tokens: []}"])
def test_an_admin_api_that_is_switched_off_stays_off(tmp_path: Path, text: str) -> None:
    """What the operator wrote is not the default, though it reads the same."""
    file = tmp_path / "canalgate.yaml"
    file.write_text(text)
    with own_token(load(file, {}), "127.0.0.1", tmp_path) as made:
        assert made is None
