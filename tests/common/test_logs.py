"""Log lines: one event each, named, and no secret that happened to stand in a local variable."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from common.logs import OVER_AFTER, TOLD_EVERY, Rarely

PROGRAM = """
import logging, sys, warnings
warnings.simplefilter("error")
import structlog
from common.logs import configure
from common.settings import LoggingSettings

configure(LoggingSettings(format=sys.argv[1], level=sys.argv[2]), process="web-1")
ours, theirs = structlog.get_logger("common.ours"), logging.getLogger("library")

def broken(log):
    password = "hunter2"
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it broke")

ours.debug("quiet")
ours.info("counted", calls=3)
theirs.info("said %s", "so")
logging.getLogger("httpx").info("one line a request")
broken(ours)
broken(theirs)
"""


def lines(form: str, level: str = "info") -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), form, level],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("form", ["console", "json"])
def test_exceptions_come_with_their_traceback_and_without_locals(form: str) -> None:
    """Ours and a library's alike: locals hold passwords, environments and headers."""
    text = lines(form)
    assert text.count("ValueError: why") == 2
    assert text.count("Traceback (most recent call last)") == 2
    # The source line may be shown, its value in a local must not be.
    assert "password" not in text
    assert "hunter2" not in text


def test_json_is_one_object_a_line() -> None:
    """Each with event, level, logger, process and time, whoever wrote it."""
    found: list[dict[str, Any]] = [json.JSONDecoder().decode(line) for line in lines("json").splitlines()]
    assert [entry["event"] for entry in found] == ["counted", "said so", "it broke", "it broke"]
    assert [entry["logger"] for entry in found] == ["common.ours", "library", "common.ours", "library"]
    assert {entry["process"] for entry in found} == {"web-1"}
    assert all({"level", "timestamp"} <= entry.keys() for entry in found)
    assert found[0]["calls"] == 3
    assert all("ValueError: why" in entry["exception"] for entry in found[2:])


def test_the_level_is_for_all() -> None:
    """What is less severe is not written."""
    assert "quiet" in lines("console", "debug")
    text = lines("console", "error")
    assert "counted" not in text
    assert "said so" not in text
    assert text.count("it broke") == 2


def test_a_file_instead_of_standard_error(tmp_path: Path) -> None:
    """As ``--logfile`` of a worker wants it; moved away, it is begun anew."""
    program = """
    import os, sys, structlog
    from common.logs import configure
    from common.settings import LoggingSettings
    configure(LoggingSettings(), process="w1", file=sys.argv[1])
    structlog.get_logger("a").info("first")
    os.rename(sys.argv[1], sys.argv[1] + ".1")
    structlog.get_logger("a").info("second")
    """
    file = tmp_path / "w.log"
    command = [sys.executable, "-c", textwrap.dedent(program), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    assert "first" in (tmp_path / "w.log.1").read_text()
    assert "second" in file.read_text()
    assert "\x1b" not in file.read_text()


def test_what_is_tried_again_and_again_is_told_once_and_then_rarely() -> None:
    """A Redis that is away is seen at once, and fills no disk; the next outage is news again."""
    now = 0.0
    rarely = Rarely(lambda: now)

    def told(event: str = "replies_wait") -> dict[str, Any] | None:
        try:
            return dict(rarely(None, "warning", {"event": event}))
        except structlog.DropEvent:
            return None

    assert told() == {"event": "replies_wait"}
    assert told("node_not_renewed") == {"event": "node_not_renewed"}
    while (now := now + 1.0) < TOLD_EVERY:
        assert told() is None
    assert told() == {"event": "replies_wait", "left_out": TOLD_EVERY - 1}
    now += 1.0
    assert told() is None
    now += OVER_AFTER
    assert told() == {"event": "replies_wait"}
    assert [told("call_recovered") for _ in range(2)] == [{"event": "call_recovered"}] * 2


def test_a_process_without_redis_does_not_flood_its_log() -> None:
    """One line of each event, from the logger as it is set up."""
    program = """
    import structlog
    from common.logs import configure
    from common.settings import LoggingSettings
    configure(LoggingSettings(), process="w1")
    for n in range(100):
        structlog.get_logger("a").warning("replies_wait", n=n)
    structlog.get_logger("a").warning("other")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert [line.split("] ")[1].split()[0] for line in done.stderr.splitlines()] == ["replies_wait", "other"]


def test_other_settings_hold_from_then_on() -> None:
    """Level and form, and a logger whose own level is named no more has that of all."""
    program = """
    import structlog
    from common.logs import configure, take_over
    from common.settings import LoggingSettings
    take_over(LoggingSettings(level="debug"))  # logs nothing yet, and sets nothing up
    configure(LoggingSettings(format="json", levels={"loud": "debug"}), process="w1")
    def say(n):
        for name in ("loud", "plain"):
            structlog.get_logger(name).debug(f"{name} {n}")
    logs = [structlog.get_logger(name) for name in ("loud", "plain")]
    say(1)
    take_over(LoggingSettings(format="json", level="debug"))
    say(2)
    take_over(LoggingSettings(format="console", level="info"))
    say(3)
    structlog.get_logger("plain").info("plain 4")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    *objects, last = done.stderr.splitlines()
    assert [orjson.loads(line)["event"] for line in objects] == ["loud 1", "loud 2", "plain 2"]
    assert {orjson.loads(line)["process"] for line in objects} == {"w1"}
    assert "plain 4" in last
    assert not last.startswith("{")
