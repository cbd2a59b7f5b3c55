"""Log files of children."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway_web.supervisor import logs


def test_a_follower_gives_each_complete_line_once(tmp_path: Path) -> None:
    """Half a line waits for its other half; bytes that are no UTF-8 do no harm."""
    path = tmp_path / "web.log"
    path.write_bytes(b"old\n")
    follower = logs.LogFollower.at_end(path)
    with path.open("ab", buffering=0) as file:
        assert follower.new_lines() == []
        file.write(b"one\ntw")
        assert follower.new_lines() == ["one"]
        file.write(b"o\n\xff\n")
        assert follower.new_lines() == ["two", "�"]


def test_a_follower_begins_anew_with_a_new_file(tmp_path: Path) -> None:
    """Rotation moves the file away; a missing file has no lines."""
    path = tmp_path / "web.log"
    follower = logs.LogFollower.at_end(path)
    assert follower.new_lines() == []
    path.write_text("a long first line\n")
    assert follower.new_lines() == ["a long first line"]
    path.unlink()
    assert follower.new_lines() == []
    path.write_text("new\n")
    assert follower.new_lines() == ["new"]


def test_a_large_log_is_moved_away_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One earlier file is kept, and the new one is private to the user."""
    monkeypatch.setattr(logs, "_ROTATE_AT", 10)
    path = tmp_path / "logs" / "web.log"
    for text in (b"first, long enough", b"second, long enough", b"third"):
        with logs.opened_log(path) as descriptor:
            os.write(descriptor, text)
    assert path.read_bytes() == b"third"
    assert path.with_name("web.log.1").read_bytes() == b"second, long enough"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_tail_is_the_last_lines_after_the_start(tmp_path: Path) -> None:
    """Nothing before ``start``, nothing from a file that is not there."""
    path = tmp_path / "web.log"
    path.write_text("".join(f"{i}\n" for i in range(10)))
    assert logs.log_tail(path, lines=3) == ("7", "8", "9")
    assert logs.log_tail(path, start=16) == ("8", "9")
    assert logs.log_tail(tmp_path / "missing") == ()
