"""The file sink: what it calls safe is in the file, whole, once, whenever its process ended."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from common.audit.sinks.file import FileSink, begin_of, rotated
from common.audit.verify import verify_file
from common.domain.audit_chain import SealedRecord
from common.domain.audit_verify import Flaw
from common.domain.errors import ConfigurationError
from common.settings.audit_sinks import FileOptions
from tests.common.audit.chains import records


def sink(path: Path, **options: Any) -> FileSink:
    return FileSink(FileOptions(path=str(path), **options))


def held(path: Path) -> list[int]:
    return [SealedRecord.from_line(line).seq for line in path.read_bytes().splitlines(keepends=True)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "audit.ndjson"


def test_what_is_safe_is_in_the_file(path: Path) -> None:
    """Each record a line; only the gateway's own group may read it."""
    file = sink(path)
    assert file.write(records(3)) == 3
    assert held(path) == [1, 2, 3]
    assert path.stat().st_mode & 0o777 == 0o640 & ~_umask()
    assert verify_file(path).sound
    file.close()


def test_what_comes_again_is_dropped(path: Path) -> None:
    """In one life, and in the next: the keeper had not remembered that it was safe."""
    file = sink(path)
    all_ = records(9)
    file.write(all_[:5])
    assert file.write(all_[3:7]) == 7
    file.close()
    again = sink(path)
    assert again.last == all_[6]
    assert again.write(all_[2:]) == 9
    assert held(path) == list(range(1, 10))
    again.close()


@pytest.mark.parametrize("kept_bytes", [0, 1, 50, -1])
def test_a_torn_last_line_is_cut_off(path: Path, kept_bytes: int) -> None:
    """Its writer was killed; Redis was never told of it, so it comes again."""
    all_ = records(4)
    file = sink(path)
    file.write(all_[:3])
    file.close()
    torn = all_[3].line()
    with path.open("ab") as raw:
        raw.write(torn[:kept_bytes] if kept_bytes else b"")
    again = sink(path)
    assert path.read_bytes() == b"".join(record.line() for record in all_[:3])
    assert again.write(all_[3:]) == 4
    assert held(path) == [1, 2, 3, 4]
    assert verify_file(path).sound
    again.close()


def test_a_file_with_nothing_but_a_torn_line_is_empty(path: Path) -> None:
    """The first write of all was cut off."""
    path.parent.mkdir()
    path.write_bytes(records(1)[0].line()[:30])
    file = sink(path)
    assert file.last is None
    assert file.write(records(2)) == 2
    assert held(path) == [1, 2]
    file.close()


def test_a_file_of_somebody_else_is_left_alone(path: Path) -> None:
    """Named by mistake, it is not cut and not written to."""
    path.parent.mkdir()
    path.write_text("my diary\n")
    with pytest.raises(ConfigurationError, match=r"audit\.ndjson"):
        sink(path)
    assert path.read_text() == "my diary\n"


def test_a_file_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """At the start, with the setting's name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError) as caught:
        sink(tmp_path / "file" / "audit")
    assert caught.value.data["field"] == "audit.sinks"


def test_it_rotates_by_size_and_keeps_the_newest(path: Path) -> None:
    """The chain goes over the files, and its known beginning moves with what is removed."""
    file = sink(path, rotate_bytes=1024, keep_files=2)
    all_ = records(40)
    for start in range(0, 40, 2):
        file.write(all_[start : start + 2])
    older = rotated(path)
    assert len(older) == 2
    assert all(1024 <= other.stat().st_size < 2048 for other in older)
    found = verify_file(path)
    assert (found.sound, found.last) == (True, 40)
    first = SealedRecord.from_line(older[0].read_bytes().splitlines(keepends=True)[0])
    begin = begin_of(path)
    assert begin is not None
    assert (begin.seq, begin.hash) == (first.seq - 1, first.prev)
    older[0].unlink()
    assert {problem.flaw for problem in verify_file(path).problems} == {Flaw.START_CUT}
    file.close()


def test_it_rotates_by_age(path: Path) -> None:
    """Of the records' own time, so that a restart changes nothing."""
    file = sink(path, rotate_after=10)
    all_ = records(30)
    file.write(all_[:5])
    file.close()
    file = sink(path, rotate_after=10)
    for record in all_[5:]:
        file.write([record])
    assert [len(held(other)) for other in (*rotated(path), path)] == [10, 10, 10]
    file.close()


def test_a_keeper_that_died_while_it_rotated_goes_on(path: Path) -> None:
    """The file was set aside and no new one begun."""
    file = sink(path)
    file.write(records(3))
    file.close()
    path.rename(path.with_name(f"{path.name}.000000000000003.x"))
    again = sink(path)
    assert again.last is not None
    assert again.write(records(5)) == 5
    assert held(path) == [4, 5]
    assert verify_file(path).sound
    again.close()


def test_a_full_disk_leaves_no_half_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write fails, and the same records come again when there is room."""
    file = sink(path)
    all_ = records(6)
    file.write(all_[:2])
    real = os.write

    def full(fd: int, data: Any) -> int:
        if len(data) > 300:
            return real(fd, data[:300])
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="no space"):
            file.write(all_[2:])
    assert file.write(all_[2:]) == 6
    assert held(path) == [1, 2, 3, 4, 5, 6]
    file.close()


class Disk:
    """Tells a failure of writing back once, and calls the pages clean then, as Linux does."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.failing = False
        self.cuts = True
        self._dirty = self._safe = b""
        self._write, self._cut = os.write, os.ftruncate
        patch.setattr(os, "write", self.write)
        patch.setattr(os, "ftruncate", self.ftruncate)
        patch.setattr("common.audit.sinks.file._force", self.force)

    def write(self, fd: int, data: Any) -> int:
        self._dirty += bytes(data)
        return self._write(fd, data)

    def ftruncate(self, fd: int, size: int) -> None:
        if not self.cuts:
            raise OSError(errno.EIO, "not cut")
        self._cut(fd, size)

    def force(self, fd: int) -> None:
        dirty, self._dirty = self._dirty, b""
        if self.failing:
            raise OSError(errno.EIO, "not written back")
        self._safe += dirty

    @property
    def numbers(self) -> list[int]:
        """Of the records that are on it."""
        return [SealedRecord.from_line(line).seq for line in self._safe.splitlines(keepends=True)]


@pytest.mark.parametrize("cuts", [True, False])
@pytest.mark.parametrize("policy", ["batch", "interval"])
def test_what_was_not_forced_to_the_disk_is_written_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, cuts: bool
) -> None:
    """Asked again, the disk would find nothing wrong. What cannot be taken out at once is when the file is opened."""
    disk = Disk(monkeypatch)
    all_ = records(6)
    file = sink(path)
    file.write(all_[:2])
    file.close()
    file = sink(path, fsync=policy, fsync_interval=3600)
    if policy == "interval":
        assert file.write(all_[:4]) == 2
    disk.failing, disk.cuts = True, cuts
    file._synced_at -= 3600
    with pytest.raises(OSError, match="not written back"):
        file.write(all_)
    assert file.last == all_[1]
    disk.failing = False
    if not cuts:
        with pytest.raises(OSError, match="not cut"):
            file.write([])
        disk.cuts = True
    assert file.write([]) == 2
    assert held(path) == [1, 2]
    file.write(all_[2:4])
    file._synced_at -= 3600
    assert file.write(all_[2:]) == 6
    assert held(path) == disk.numbers == [1, 2, 3, 4, 5, 6]
    file.close()


def test_a_file_that_cannot_be_forced_is_not_set_aside(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two syncs as well it is full; and the new file begins with nothing to go back to."""
    disk = Disk(monkeypatch)
    all_ = records(16)
    file = sink(path, fsync="interval", fsync_interval=3600, rotate_bytes=1024)
    assert file.write(all_[:8]) == 0
    disk.failing = True
    with pytest.raises(OSError, match="not written back"):
        file.write(all_[8:])
    assert (rotated(path), file.last) == ([], None)
    disk.failing = False
    file.write(all_[:8])
    assert file.write(all_[8:12]) == 8
    disk.failing = True
    with pytest.raises(OSError, match="not written back"):
        file.close()
    disk.failing = False
    file.write(all_[8:12])
    file.close()
    assert disk.numbers == list(range(1, 13))
    assert held(path) == [9, 10, 11, 12]
    assert verify_file(path).sound


def test_a_directory_that_cannot_be_forced_is_forced_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the name of a new file would count as safe."""
    file = sink(path, rotate_bytes=1024)
    all_ = records(16)
    file.write(all_[:8])
    real, forced = os.fsync, []

    def fails_once(fd: int) -> None:
        forced.append(fd)
        if len(forced) == 1:
            raise OSError(errno.EIO, "not written back")
        real(fd)

    monkeypatch.setattr(os, "fsync", fails_once)
    with pytest.raises(OSError, match="not written back"):
        file.write(all_[8:])
    assert file.write(all_[8:]) == 16
    assert len(forced) == 2
    assert held(path) == list(range(9, 17))
    file.close()


@pytest.mark.parametrize(("policy", "forced"), [("batch", 3), ("interval", 1), ("never", 0)])
def test_the_policy_says_when_it_is_forced_to_the_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, forced: int
) -> None:
    """And safe is what was: with an interval only the last call here, when it is over."""
    calls: list[int] = []
    monkeypatch.setattr("common.audit.sinks.file._force", calls.append)
    file = sink(path, fsync=policy, fsync_interval=3600)
    all_ = records(3)
    safe = [file.write([record]) for record in all_]
    assert safe == ([0, 0, 0] if policy == "interval" else [1, 2, 3])
    file._synced_at -= 3600
    assert file.write([]) == 3
    assert len(calls) == forced
    file.close()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
