"""The postgres sink on a real server: what it calls safe is committed, once, whatever happens to the server."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing

import psycopg
import pytest

from common.audit import delivery
from common.audit.sink_contract import AuditSinkContract
from common.audit.sinks.postgres import OtherRecords, PostgresSink, stored
from common.audit.verify import verify_table
from common.domain.audit_chain import START, Position, SealedRecord
from common.domain.audit_verify import Flaw
from common.domain.errors import ConfigurationError
from common.settings.audit_sinks import PostgresOptions
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from tests.common.audit.chains import head_of, keeper_of, kept, records, write_events
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


@pytest.fixture
def options(server: PostgresServer) -> Iterator[PostgresOptions]:
    found = PostgresOptions(url=server.url, table="public.journal", timeout=5)  # type: ignore[arg-type]
    yield found
    sql(found, "DROP TABLE IF EXISTS journal")


def sql(options: PostgresOptions, statement: str) -> None:
    with psycopg.connect(str(options.url)) as connection:
        connection.execute(statement)  # type: ignore[arg-type]


class TestContract(AuditSinkContract):
    """What every sink must do."""

    @pytest.fixture(autouse=True)
    def _place(self, options: PostgresOptions) -> None:
        self.options = options

    def make(self) -> PostgresSink:
        return PostgresSink(self.options)

    def held(self) -> Sequence[SealedRecord]:
        return list(stored(self.options))


def test_it_knows_its_last_record(options: PostgresOptions) -> None:
    """In its next life: Redis may have forgotten."""
    with closing(PostgresSink(options)) as sink:
        assert sink.last is None
        sink.write(records(7))
    with closing(PostgresSink(options)) as sink:
        assert sink.last == records(7)[-1]


def test_other_records_under_the_same_numbers_are_not_passed_over(options: PostgresOptions) -> None:
    """Two gateways that write to one table would each lose half, and not know it."""
    with closing(PostgresSink(options)) as sink:
        sink.write(records(4))
        with pytest.raises(OtherRecords, match="between 3 and 6"):
            sink.write(records(6, key=b"another")[2:])
        assert sink.write(records(6)) == 6
    assert list(stored(options)) == records(6)


def test_a_table_is_made_only_if_that_is_wanted(options: PostgresOptions) -> None:
    """Or the sink waits for whoever makes it."""
    bare = options.model_copy(update={"create": False})
    with closing(PostgresSink(bare)) as sink:
        with pytest.raises(psycopg.errors.UndefinedTable):
            sink.write(records(1))
        with closing(PostgresSink(options)) as maker:
            maker.write(records(1))
        assert sink.write(records(2)) == 2


def test_what_is_wrong_in_a_table_is_found(options: PostgresOptions) -> None:
    """Edited, taken out, cut off."""
    given = records(20, key=b"k")
    with closing(PostgresSink(options)) as sink:
        sink.write(given)
    found = verify_table(options, b"k", safe=given[-1].position)
    assert (found.sound, found.records, found.last) == (True, 20, 20)
    sql(options, """UPDATE journal SET event = '{"kind": "y"}' WHERE seq = 5""")
    sql(options, "DELETE FROM journal WHERE seq IN (9, 20)")
    found = verify_table(options, b"k", safe=given[-1].position)
    assert {problem.flaw for problem in found.problems} == {Flaw.EDITED, Flaw.MISSING, Flaw.END_CUT}


def test_a_table_that_cannot_be_read_is_said(options: PostgresOptions) -> None:
    """As a setting to look at."""
    with pytest.raises(ConfigurationError, match="UndefinedTable"):
        verify_table(options)


def test_without_the_package_it_is_said_what_to_install(
    options: PostgresOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"canalgate\[postgres\]"):
        PostgresSink(options)


def test_a_server_that_crashes_loses_nothing(
    client: Client,
    keys: Keys,
    address: StoreAddress,
    server: PostgresServer,
    options: PostgresOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind a keeper: it connects anew, and goes on where it was."""
    monkeypatch.setattr(delivery, "RETRY_MAX", 0.3)
    keeper = keeper_of(address, keys, {"pg": PostgresSink(options)}, key=b"k")
    with kept(keeper):
        write_events(client, keys, 700)
        wait_until(
            lambda: "pg" in keeper.deliveries and keeper.deliveries["pg"].standing.safe >= 500,
            description="the first part",
        )
        server.stop()
        write_events(client, keys, 700, first=700)
        wait_until(lambda: keeper.deliveries["pg"].standing.failing, description="it fails")
        server.start()
        wait_until(lambda: keeper.deliveries["pg"].standing.safe == 1400, description="all of them")
    found = verify_table(options, b"k", safe=head_of(client, keys))
    assert (found.sound, found.records, found.repeated) == (True, 1400, 0)


def test_a_gateway_whose_redis_was_lost_goes_on_behind_the_table(
    client: Client, keys: Keys, address: StoreAddress, options: PostgresOptions
) -> None:
    """Numbers are never given twice."""
    place = Position("5000-0", 5, records(5)[-1].hash)
    with closing(PostgresSink(options)) as sink:
        sink.write(records(5))
        assert head_of(client, keys) == START
        with kept(keeper_of(address, keys, {"pg": sink})):
            write_events(client, keys, 2)
            wait_until(lambda: head_of(client, keys).seq >= 8, description="all, and word of the gap")
            wait_until(lambda: len(list(stored(options))) >= 8, description="the sink")
    assert next(iter(list(stored(options))[5:])).prev == place.hash
    assert verify_table(options).sound
