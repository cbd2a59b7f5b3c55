"""Every sink keeps the contract, those that come with the gateway and the one in the examples."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pytest

from common.audit.sink_contract import AuditSinkContract
from common.audit.sinks import make_sink
from common.audit.sinks.file import FileSink
from common.audit.sinks.webhook import WebhookSink
from common.domain.audit_chain import SealedRecord
from common.ports import AuditSink
from common.settings.audit import AuditSink as SinkSettings
from common.settings.audit_sinks import FileOptions, WebhookOptions
from tests.support.webhook_receiver import webhook_receiver


class TestFileSink(AuditSinkContract):
    """One JSON object a line."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "audit.ndjson"

    def make(self) -> AuditSink:
        return FileSink(FileOptions(path=str(self.path)))

    def held(self) -> Sequence[SealedRecord]:
        return [SealedRecord.from_line(line) for line in self.path.read_bytes().splitlines(keepends=True)]


class TestWebhookSink(AuditSinkContract):
    """The receiver leaves out what it has had."""

    @pytest.fixture(autouse=True)
    def _place(self) -> Iterator[None]:
        with webhook_receiver() as self.receiver:
            yield

    def make(self) -> AuditSink:
        return WebhookSink(WebhookOptions(url=self.receiver.url))  # type: ignore[arg-type]

    def held(self) -> Sequence[SealedRecord]:
        return self.receiver.taken


class TestExample(AuditSinkContract):
    """As the settings name it."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "audit.db"

    def make(self) -> AuditSink:
        return make_sink(
            SinkSettings.model_validate(
                {
                    "type": "examples.sqlite_sink:SqliteSink",
                    "name": "sqlite",
                    "options": {"path": str(self.path)},
                }
            )
        )

    def held(self) -> Sequence[SealedRecord]:
        database = sqlite3.connect(self.path)
        try:
            rows = database.execute("SELECT seq, id, event, prev, hash FROM audit ORDER BY seq").fetchall()
        finally:
            database.close()
        return [
            SealedRecord(seq, name, orjson.loads(event), prev, digest)
            for seq, name, event, prev, digest in rows
        ]


class _Careless:
    """Calls everything safe, keeps everything twice."""

    def __init__(self, kept: list[SealedRecord]) -> None:
        self._kept = kept

    def write(self, records: Sequence[SealedRecord]) -> int:
        self._kept += records
        return 10**6

    def close(self) -> None:
        """Nothing."""


def test_a_careless_sink_fails() -> None:
    """Each of the tests that it should fail."""

    class Careless(AuditSinkContract):
        __test__ = False
        kept: list[SealedRecord] = []  # noqa: RUF012

        def make(self) -> AuditSink:
            return _Careless(self.kept)

        def held(self) -> Sequence[SealedRecord]:
            return self.kept

    for name in ("test_what_is_safe_is_there_whole_and_in_order", "test_what_comes_again_is_there_once"):
        Careless.kept = []
        with pytest.raises(AssertionError):
            getattr(Careless(), name)()
