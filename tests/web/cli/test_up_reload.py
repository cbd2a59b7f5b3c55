"""``canalgate up`` at a SIGHUP: it tells its children of a file that each of them takes, and of no other."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from common.audit.journal import Journal
from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import ConfigurationError
from gateway_web.cli import output, up, up_reload
from gateway_web.cli.up_reload import UpReload, reader, workers_check
from gateway_web.supervisor import Event
from gateway_web.supervisor import EventKind as ChildEvent
from tests.support.certificates import Authority

STATIC = {"credentials": {"providers": ["static"]}}


class Told:
    """What children were told, and the journal."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.signals: list[str] = []
        self.events: list[AuditEvent] = []

    def record(self, event: AuditEvent) -> None:
        self.events.append(event)

    def send(self, children: Sequence[str], _number: signal.Signals) -> list[str]:
        self.signals += children
        return list(children)

    def write(self, **sections: Any) -> None:
        self.file.write_text(yaml.safe_dump(sections))

    def reload(self, *, own_token: bool = False, check: Callable[[], None] | None = None) -> UpReload:
        read = reader(self.file, None, None)
        return UpReload(
            read(),
            read,
            ("web", "worker1"),
            cast("Journal", self),
            own_token=own_token,
            check=check or (lambda: workers_check(self.file)),
        )


@pytest.fixture
def told(tmp_path: Path) -> Told:
    found = Told(tmp_path / "canalgate.yaml")
    found.write()
    return found


def test_providers_that_workers_could_not_make_are_told_to_nobody(
    told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    """The web processes make none: they would take the file over, and the workers not."""
    reload = told.reload()
    told.write(credentials={"providers": ["nobody-brings-it"]}, tenants={"max_calls": 3})
    assert reload(told.send)
    assert told.signals == []
    assert [event.kind for event in told.events] == [EventKind.SETTINGS_REFUSED]
    assert "'nobody-brings-it' is unknown" in capsys.readouterr().err
    told.write(**STATIC)
    assert reload(told.send)
    assert told.signals == ["web", "worker1"]


def test_what_a_provider_prints_is_no_answer(
    told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold a secret: neither who sent the signal nor the journal is told of it."""
    (tmp_path / "talks.py").write_text(
        "print('s3cret')\n\ndef make():\n    print('s3cret')\n    raise ValueError\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    reload = told.reload()
    told.write(credentials={"providers": ["talks:make"]})
    assert reload(told.send)
    assert told.signals == []
    assert "s3cret" not in capsys.readouterr().err
    (event,) = told.events
    assert event.detail
    assert "s3cret" not in event.detail


def test_workers_are_asked_only_where_it_matters(told: Told) -> None:
    """It takes a process; a tool or a tenant that changes does not need one."""

    def check() -> None:
        raise ConfigurationError("asked")

    reload = told.reload(check=check)
    told.write(tenants={"max_calls": 3})
    assert reload(told.send)
    assert told.signals == ["web", "worker1"]
    told.write(**STATIC)
    assert reload(told.send)
    assert [event.detail for event in told.events] == ["asked"]


@pytest.mark.parametrize("own_token", [True, False])
def test_tokens_of_the_file_wait_where_up_has_made_one(
    told: Told, own_token: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stands in the children's environment, which goes before the file; that is said each time."""
    reload = told.reload(own_token=own_token)
    told.write(admin={"tokens": [{"name": "me", "token": "0123456789abcdef"}]})
    wanted = "need a restart: admin.tokens" if own_token else "taken over: admin.tokens"
    assert reload(told.send)
    assert wanted in capsys.readouterr().err
    assert reload(told.send)
    assert (wanted in capsys.readouterr().err) is own_token


def test_a_certificate_that_cannot_be_read_is_told(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    """The listener keeps the one that it has; the settings are taken over all the same."""
    made = Authority(told.file.parent).issue("localhost")
    told.write(web={"tls_cert_file": str(made.both)})
    reload = told.reload()
    assert reload(told.send)
    assert "keeps the certificate" not in capsys.readouterr().err
    made.both.write_text("no certificate")
    assert reload(told.send)
    assert "keeps the certificate" in capsys.readouterr().err
    assert told.signals == ["web", "worker1"] * 2


def test_it_says_no_more_than_it_did(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    """The children were told; what they do is theirs to tell."""
    assert told.reload()(told.send)
    assert "web, worker1 told to take them over: no change" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [OSError(11, "no process"), UnicodeDecodeError("utf-8", b"x", 0, 1, "s3cret")]
)
def test_what_nobody_foresaw_changes_nothing(
    error: Exception, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    """And does not end the supervisor, whose children would end with it."""

    def check() -> None:
        raise error

    reload = told.reload(check=check)
    told.write(**STATIC)
    assert reload(told.send)
    assert told.signals == []
    assert [event.kind for event in told.events] == [EventKind.SETTINGS_REFUSED]
    assert "s3cret" not in capsys.readouterr().err


def test_a_look_for_which_there_is_no_process_is_a_refusal(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same signal may be sent again later."""

    def scarce(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(up_reload.subprocess, "run", scarce)
    with pytest.raises(ConfigurationError, match="Resource temporarily unavailable"):
        workers_check(told.file)


@pytest.mark.parametrize("fault", [OSError(5, "the terminal is gone"), BrokenPipeError(), SystemExit(1)])
def test_a_reader_that_is_gone_does_not_end_what_goes_on(
    fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor keeps it from stopping its children one after the other."""

    def breaks(_line: str) -> None:
        raise fault

    monkeypatch.setattr(output, "remark", breaks)
    up._report(Event(kind=ChildEvent.EXITED, child="web", pid=1))
    up._echo("web", "a line")
