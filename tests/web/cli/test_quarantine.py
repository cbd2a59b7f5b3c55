"""``canalgate tools quarantine``: what was not approved, seen and decided on."""

from __future__ import annotations

import orjson
import pytest

from common.domain.content_rules import ContentRules, Pinning
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.cli.output import Exit
from tests.common.registry.test_quarantine import Desk, T, mcp_tool
from tests.web.cli.conftest import Canalgate


@pytest.fixture
def desk(client: Client, keys: Keys) -> Desk:
    desk = Desk(client, keys, ContentRules(pinning=Pinning.QUARANTINE))
    desk.find(mcp_tool("a", "good"))
    desk.find(mcp_tool("a", "evil\u202e"))
    return desk


def test_it_is_listed_shown_and_approved(canalgate: Canalgate, desk: Desk) -> None:
    """With the digest that the list shows; what is hidden is written out."""
    [waiting] = orjson.loads(canalgate("tools", "quarantine", "list", "--json").stdout)
    line = canalgate("tools", "quarantine", "list", T).stdout.splitlines()[1]
    assert waiting["digest"][:16] in line
    assert "description" in line
    shown = canalgate("tools", "quarantine", "show", T, "a").stdout
    assert '+  "description": "evil<U+202E RIGHT-TO-LEFT OVERRIDE>"' in shown
    assert "quarantine" in canalgate("tools", "show", T).stdout
    assert orjson.loads(canalgate("tools", "show", T, "--json").stdout)["unapproved"] == [["tools", "a"]]
    done = canalgate("tools", "quarantine", "approve", T, "a", "--digest", waiting["digest"][:16])
    assert (done.exit_code, done.stdout) == (Exit.OK, f"{T}: a approved\n")
    assert desk.offers() == ["a"]


def test_it_is_rejected(canalgate: Canalgate, desk: Desk) -> None:
    """And says so in the list."""
    [waiting] = desk.quarantine.waiting()
    assert canalgate("tools", "quarantine", "reject", T, "a", "--digest", waiting.digest).exit_code == Exit.OK
    assert "rejected" in canalgate("tools", "quarantine", "list").stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("approve", T, "a", "--digest", "0" * 64), Exit.CONFLICT),
        (("approve", T, "b", "--digest", "0" * 64), Exit.USAGE),
        (("approve", T, "a", "--digest", "0"), Exit.USAGE),
        (("approve", T, "a", "--kind", "x", "--digest", "0" * 64), Exit.USAGE),
        (("show", "none", "a"), Exit.NOT_FOUND),
        (("list", "none"), Exit.NOT_FOUND),
    ],
)
def test_what_cannot_be_is_refused(
    words: tuple[str, ...], code: Exit, canalgate: Canalgate, desk: Desk
) -> None:
    """In a sentence."""
    done = canalgate("tools", "quarantine", *words)
    assert done.exit_code == code
    assert done.stderr.startswith("error: ")
    assert desk.offers() == []
