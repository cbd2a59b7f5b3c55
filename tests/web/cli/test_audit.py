"""``canalgate audit``: the newest events, for people and for scripts."""

from __future__ import annotations

import orjson
import pytest

from common.audit.journal import Journal
from common.domain.audit import AuditEvent, EventKind
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.cli.output import Exit
from tests.web.cli.conftest import Canalgate


@pytest.fixture
def journal(client: Client, keys: Keys) -> Journal:
    return Journal(client, keys)


def test_the_newest_events_come_first(canalgate: Canalgate, journal: Journal) -> None:
    """One a line, with all that is known of each."""
    journal.record(AuditEvent(kind=EventKind.TOOL_DISABLED, actor="cli:ann", tool="demo"))
    written = journal.record(AuditEvent(kind=EventKind.NODE_LOST, node="n1", detail="3 calls lost"))
    lines = canalgate("audit").stdout.splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "node_lost node=n1 detail=3 calls lost",
        "tool_disabled actor=cli:ann tool=demo",
    ]
    assert len(canalgate("audit", "-n", "1").stdout.splitlines()) == 1
    (newest, _) = orjson.loads(canalgate("audit", "--json").stdout)
    assert (newest["kind"], newest["node"], newest["id"]) == ("node_lost", "n1", written)
    assert newest["at"].endswith("+00:00")


def test_what_others_wrote_does_not_reach_the_terminal_as_it_is(
    canalgate: Canalgate, journal: Journal
) -> None:
    """No markup, no escape sequences, one line an event."""
    journal.record(AuditEvent(kind=EventKind.SESSION_CLOSED, client="[bold]\x1b[2J\nfake"))
    shown = canalgate("audit").stdout
    assert "[bold]" in shown
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize("most", ["0", "-1", "many", "100001"])
def test_a_number_that_is_none_is_refused(canalgate: Canalgate, client: Client, most: str) -> None:
    """It names the option."""
    done = canalgate("audit", "-n", most)
    assert done.exit_code == Exit.USAGE
    assert "-n" in done.output


def test_an_empty_journal_is_empty(canalgate: Canalgate, client: Client) -> None:
    """No line, no error."""
    assert canalgate("audit").stdout == ""
    assert orjson.loads(canalgate("audit", "--json").stdout) == []
