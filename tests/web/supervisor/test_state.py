"""The state directory: where it is, who may use it, what it says about the running instance."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway_web.supervisor import (
    RunRecord,
    StateDirectoryBusyError,
    StateDirectoryError,
    held_state_dir,
    running_instance,
    state_dir_path,
)

_RECORD = RunRecord(
    pid=1,
    endpoint="http://127.0.0.1:8080/mcp",
    redis_url="unix:///r.sock",
    started_at=1.5,
    children={"web": 2},
)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"CANALGATE_STATE_DIR": "/a", "XDG_STATE_HOME": "/b"}, "/a"),
        ({"XDG_STATE_HOME": "/b"}, "/b/canalgate"),
        ({"XDG_STATE_HOME": "relative"}, "/home/me/.local/state/canalgate"),
        ({}, "/home/me/.local/state/canalgate"),
    ],
)
def test_the_first_of_three_places_is_used(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own variable, the XDG one if it is absolute, the home directory."""
    monkeypatch.setenv("HOME", "/home/me")
    assert state_dir_path(environment) == Path(expected)


def test_a_relative_choice_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children have other working directories."""
    monkeypatch.chdir(tmp_path)
    assert state_dir_path({"CANALGATE_STATE_DIR": "here"}) == tmp_path / "here"


def test_it_is_created_private_and_locked(tmp_path: Path) -> None:
    """Mode 0700, and a second holder is told the first one's process id; afterwards it is free again."""
    path = tmp_path / "a" / "state"
    with held_state_dir(path) as held:
        assert path.stat().st_mode & 0o777 == 0o700
        assert held.log("web") == path / "logs" / "web.log"
        expected = pytest.raises(StateDirectoryBusyError, match=f"process {os.getpid()} already runs")
        with expected as caught, held_state_dir(path):
            pass
        assert caught.value.pid == os.getpid()
        assert "CANALGATE_STATE_DIR" in str(caught.value)
    with held_state_dir(path):
        pass


def test_a_lock_whose_holder_is_dead_is_waited_for_and_given_up(tmp_path: Path) -> None:
    """Its reaper may still be at work; if it never ends, the user is told."""
    with held_state_dir(tmp_path):
        (tmp_path / "lock").write_text("4194305\n")
        expected = pytest.raises(
            StateDirectoryBusyError, match="still in use after the end of process 4194305"
        )
        with expected, held_state_dir(tmp_path, patience=0.2):
            pass


def test_the_run_record_is_private_and_gone_at_the_end(tmp_path: Path) -> None:
    """Other commands find the running instance through it; a stopped one leaves nothing."""
    with held_state_dir(tmp_path) as held:
        assert running_instance(tmp_path) is None
        held.write_run(_RECORD)
        assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o600
        assert running_instance(tmp_path) == _RECORD
    assert running_instance(tmp_path) is None
    assert not (tmp_path / "run.json").exists()


def test_a_record_left_by_a_killed_instance_is_not_believed(tmp_path: Path) -> None:
    """Nobody holds the lock, so nothing runs; the next instance removes it."""
    with held_state_dir(tmp_path) as held:
        held.write_run(_RECORD)
        left = (tmp_path / "run.json").read_bytes()
    (tmp_path / "run.json").write_bytes(left)
    assert running_instance(tmp_path) is None
    with held_state_dir(tmp_path):
        assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"pid": 1}'])
def test_a_damaged_record_is_an_error(tmp_path: Path, text: str) -> None:
    """It names the file."""
    with held_state_dir(tmp_path):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(StateDirectoryError, match=r"cannot read .*run\.json"):
            running_instance(tmp_path)


def test_a_directory_that_was_never_used_runs_nothing(tmp_path: Path) -> None:
    """Asking does not create it."""
    assert running_instance(tmp_path / "state") is None
    assert not (tmp_path / "state").exists()


def test_a_directory_anybody_may_write_to_is_refused(tmp_path: Path) -> None:
    """Somebody else could plant files there; its mode is not changed behind the user's back."""
    tmp_path.chmod(0o777)
    with pytest.raises(StateDirectoryError, match="anybody may write"), held_state_dir(tmp_path):
        pass
    assert tmp_path.stat().st_mode & 0o777 == 0o777


def test_a_place_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    """With the way out."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirectoryError, match="CANALGATE_STATE_DIR"), held_state_dir(tmp_path / "file"):
        pass
