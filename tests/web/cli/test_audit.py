"""``canalgate audit``: the newest events, for people and for scripts."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import orjson
import pytest

from common.audit.journal import Journal
from common.audit.sinks.postgres import PostgresSink
from common.domain.audit import AuditEvent, EventKind
from common.settings.audit_sinks import PostgresOptions
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.cli.output import Exit
from tests.common.audit.chains import records
from tests.support.postgres import postgres_server
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


def test_events_are_chosen(canalgate: Canalgate, journal: Journal) -> None:
    """By tenant, tool, kinds and time; what is chosen counts."""
    for number in range(3):
        journal.record(AuditEvent(kind=EventKind.SESSION_CREATED, tenant="a", tool="x", detail=str(number)))
        journal.record(AuditEvent(kind=EventKind.SESSION_CLOSED, tenant="b", tool="y", detail=str(number)))

    def details(*words: str) -> list[str]:
        return [event["detail"] for event in orjson.loads(canalgate("audit", "--json", *words).stdout)]

    assert details("--tenant", "a") == ["2", "1", "0"]
    assert details("--tool", "y", "-n", "2") == ["2", "1"]
    assert details("--kind", "session_closed", "--kind", "session_created", "-n", "3") == ["2", "2", "1"]
    assert details("--since", "1h", "--tenant", "b") == ["2", "1", "0"]
    assert details("--since", "2999-01-01") == []
    refused = canalgate("audit", "--since", "yesterday")
    assert refused.exit_code == Exit.USAGE


class TestVerify:
    """``canalgate audit verify``"""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "audit.ndjson"
        path.write_bytes(b"".join(record.line() for record in records(9, key=b"k")))
        return path

    def test_a_whole_file_is_whole(
        self, canalgate: Canalgate, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the key of the settings, and not without it."""
        assert canalgate("audit", "verify", str(file)).exit_code == Exit.FAILED
        monkeypatch.setenv("CANALGATE_AUDIT__CHAIN_KEY", "k")
        done = canalgate("audit", "verify", str(file))
        assert (done.exit_code, "whole; 9 records, 1 to 9" in done.stdout) == (Exit.OK, True)

    def test_what_is_wrong_is_said(
        self, canalgate: Canalgate, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For people and for scripts."""
        monkeypatch.setenv("CANALGATE_AUDIT__CHAIN_KEY", "k")
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join([*lines[:3], b"nonsense\n", *lines[4:]]))
        done = canalgate("audit", "verify", str(file))
        assert done.exit_code == Exit.FAILED
        assert "unreadable: audit.ndjson:4" in done.stdout
        (found,) = orjson.loads(canalgate("audit", "verify", str(file), "--json").stdout)
        assert {problem["flaw"] for problem in found["problems"]} == {"unreadable", "missing"}

    def test_the_end_of_a_sink_s_file_is_known_to_redis(
        self, canalgate: Canalgate, file: Path, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that was cut is whole by itself."""
        sink = {"type": "file", "options": {"path": str(file)}}
        monkeypatch.setenv("CANALGATE_AUDIT__CHAIN_KEY", "k")
        monkeypatch.setenv("CANALGATE_AUDIT__SINKS", orjson.dumps([sink]).decode())
        client.hset(keys.audit_chain, "sink:file", records(9, key=b"k")[-1].position.text())
        assert canalgate("audit", "verify", "--sink", "file").exit_code == Exit.OK
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:7]))
        assert canalgate("audit", "verify", str(file)).exit_code == Exit.OK
        done = canalgate("audit", "verify", "--sink", "file")
        assert (done.exit_code, "end_cut: records 8 to 9" in done.stdout) == (Exit.FAILED, True)
        assert canalgate("audit", "verify", "--sink", "other").exit_code == Exit.USAGE

    def test_a_table_of_a_postgres_sink_is_verified(
        self, canalgate: Canalgate, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Up to where Redis knows it; a server that does not answer is a setting to look at."""
        given = records(9, key=b"k")
        client.hset(keys.audit_chain, "sink:postgres", given[-1].position.text())
        monkeypatch.setenv("CANALGATE_AUDIT__CHAIN_KEY", "k")
        with postgres_server() as server:
            sink = {"type": "postgres", "options": {"url": server.url}}
            monkeypatch.setenv("CANALGATE_AUDIT__SINKS", orjson.dumps([sink]).decode())
            with closing(PostgresSink(PostgresOptions(url=server.url))) as table:  # type: ignore[arg-type]
                table.write(given[:8])
                assert canalgate("audit", "verify", "--sink", "postgres").exit_code == Exit.FAILED
                table.write(given)
            done = canalgate("audit", "verify", "--sink", "postgres")
            assert (done.exit_code, "canalgate_audit: whole; 9 records" in done.stdout) == (Exit.OK, True)
        assert canalgate("audit", "verify", "--sink", "postgres").exit_code == Exit.USAGE

    def test_what_redis_holds_is_verified(
        self, canalgate: Canalgate, journal: Journal, client: Client
    ) -> None:
        """Nothing sealed is nothing wrong."""
        journal.record(AuditEvent(kind=EventKind.SESSION_CREATED))
        assert canalgate("audit", "verify", "--redis").exit_code == Exit.OK

    def test_nothing_to_verify_is_refused(self, canalgate: Canalgate, client: Client) -> None:
        """And a file that is not there."""
        assert canalgate("audit", "verify").exit_code == Exit.USAGE
        assert canalgate("audit", "verify", "nowhere").exit_code == Exit.REFUSED
