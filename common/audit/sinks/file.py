"""Records in a file, one JSON object a line, safe against the end of the process at any moment.

The last line of a file whose writer was killed may be torn: it is cut off at the start, and comes again, since Redis
was never told that it is safe. What Redis was not told of although it is here is recognised by its number.

When writing or forcing fails, the file goes back to what was last forced, and all behind that must be given again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog

from common.domain.audit_chain import Position, SealedRecord, position_of
from common.domain.errors import ConfigurationError, InvalidRequest
from common.settings.audit_sinks import FileOptions

log = structlog.get_logger(__name__)

TAIL = 64 * 1024
"""Bytes that are read from the end of a file at a time, to find its last line."""


class FileSink:
    """Implements :class:`common.ports.AuditSink`. Belongs to one thread. The file is the keeper's alone."""

    def __init__(self, options: FileOptions) -> None:
        """Open the file, or the directory for it, and mend its end. Raises :class:`ConfigurationError`."""
        self._options = options
        self._path = Path(options.path)
        self.last: SealedRecord | None = None
        """The last record in the file, or in the newest rotated one."""
        self._fd = -1
        self._size = 0
        self._begun_at = 0
        self._safe = 0
        self._synced_at = time.monotonic()
        self._synced_last: SealedRecord | None = None
        self._synced_size: int | None = None
        """Last record and size at the last good sync; None before the first, when all that is there is left alone."""
        try:
            self._open()
        except OSError as error:
            raise ConfigurationError(
                f"audit.sinks: the file cannot be written: {error.strerror}", field="audit.sinks"
            ) from error

    def write(self, records: Sequence[SealedRecord]) -> int:
        """Append them and make them safe as the policy says.

        Raises :class:`OSError`: none but those that were called safe are in the file then.
        """
        if self._fd < 0:
            self._open()
        fresh = [record for record in records if self.last is None or record.seq > self.last.seq]
        if fresh:
            self._append(fresh)
        if self._due():
            self._sync()
        return self._safe

    def close(self) -> None:
        """Force what is written to the disk, and close."""
        if self._fd >= 0:
            self._sync()
            self._let_go()

    # -- writing ----------------------------------------------------------------------------------------

    def _append(self, records: Sequence[SealedRecord]) -> None:
        if self._full(records[0].at):
            self._rotate()
        if self.last is None:
            first = records[0]
            _write_begin(self._path, Position("0-0", first.seq - 1, first.prev))
        data = memoryview(b"".join(record.line() for record in records))
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            # A full disk, say: half a line must not stand before the next one. Cutting needs no room.
            self._fall_back()
            raise
        self._size = os.fstat(self._fd).st_size
        self._begun_at = self._begun_at or records[0].at
        self.last = records[-1]

    def _due(self) -> bool:
        if self.last is None or self._safe >= self.last.seq:
            return False
        options = self._options
        late = time.monotonic() - self._synced_at >= options.fsync_interval
        return options.fsync != "interval" or late

    def _sync(self) -> None:
        if self._options.fsync != "never":
            try:
                _force(self._fd)
            except OSError:
                self._fall_back()
                raise
        self._synced_at = time.monotonic()
        self._synced_last, self._synced_size = self.last, self._size
        self._safe = 0 if self.last is None else self.last.seq

    def _fall_back(self) -> None:
        """Go back to the last good sync, and have the file opened anew.

        Linux tells a descriptor once that writing back failed, and calls the pages clean: forced again all would seem
        well. So what was written since is taken out, now or when the file is opened, and is written again.
        """
        self.last = self._synced_last
        if self._synced_size is not None:
            with suppress(OSError):
                os.ftruncate(self._fd, self._synced_size)
        self._let_go()

    def _let_go(self) -> None:
        """Close the descriptor. An error of closing tells nothing that the last sync did not."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    # -- rotation ---------------------------------------------------------------------------------------

    def _full(self, at: int) -> bool:
        options = self._options
        if not self._size:
            return False
        aged = options.rotate_after and self._begun_at and at - self._begun_at >= options.rotate_after * 1000
        return self._size >= options.rotate_bytes or bool(aged)

    def _rotate(self) -> None:
        """Set the file aside under the time and number of its last record, and begin a new one."""
        self._sync()
        self._let_go()
        if self.last is not None:
            stamp = datetime.fromtimestamp(self.last.at / 1000, UTC).strftime("%Y%m%dT%H%M%S")
            os.replace(self._path, self._path.with_name(f"{self._path.name}.{self.last.seq:015d}.{stamp}"))
            self._synced_size = 0
        self._begin_file()
        self._forget_old()

    def _forget_old(self) -> None:
        keep = self._options.keep_files
        if keep:
            for old in rotated(self._path)[:-keep]:
                last = last_record(old)
                if last is not None:
                    _write_begin(self._path, last.position)
                old.unlink(missing_ok=True)

    # -- opening ----------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._begin_file()
        try:
            self._cut_unsynced()
            self._mend()
            if self.last is None:
                older = rotated(self._path)
                self.last = last_record(older[-1]) if older else None
            # What is in the file is in the system's hands, and called safe only when it is forced to the disk.
            self._safe = 0
            if self.last is None:
                self._synced_size = 0
            else:
                self._sync()
        except (OSError, ConfigurationError):
            # A descriptor that is kept counts as mended.
            self._let_go()
            raise

    def _cut_unsynced(self) -> None:
        """Take out what a failed sync left here, if that could not be done then."""
        if self._synced_size is not None and self._size > self._synced_size:
            os.ftruncate(self._fd, self._synced_size)
            self._size = self._synced_size

    def _begin_file(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o640)
        self._size = os.fstat(self._fd).st_size
        self._begun_at = 0
        try:
            _force_folder(self._path.parent)
        except OSError:
            self._let_go()
            raise

    def _mend(self) -> None:
        """Cut off a torn last line, and learn what stands before it."""
        end = _end_of_last_line(self._fd, self._size)
        if end < self._size:
            log.warning("audit_file_mended", file=self._path.name, bytes=self._size - end)
            os.ftruncate(self._fd, end)
            self._size = end
        if end:
            self.last = last_record(self._path)
            first = _first_record(self._path)
            self._begun_at = 0 if first is None else first.at


_force = getattr(os, "fdatasync", os.fsync)
"""Data and size; the times of the file may wait."""


def _force_folder(path: Path) -> None:
    """The name of a new file is safe only with its directory."""
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def rotated(path: Path) -> list[Path]:
    """The rotated files beside a file, the oldest first: their names begin with its own and hold a number."""
    begin = f"{path.name}."
    numbered = {
        other: other.name.removeprefix(begin).partition(".")[0]
        for other in path.parent.iterdir()
        if other.name.startswith(begin)
    }
    found = [other for other, number in numbered.items() if number.isdigit()]
    return sorted(found, key=lambda other: int(numbered[other]))


def begin_of(path: Path) -> Position | None:
    """What stands before the first record that is kept in a file and the rotated ones beside it; None: nobody wrote it.

    Raises :class:`InvalidRequest` if that is no position.
    """
    try:
        return position_of(_begin_path(path).read_text(encoding="ascii").strip())
    except FileNotFoundError:
        return None


def _begin_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.begin")


def _write_begin(path: Path, place: Position) -> None:
    target = _begin_path(path)
    fresh = target.with_name(f"{target.name}.new")
    with fresh.open("w", encoding="ascii") as file:
        file.write(place.text() + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, target)


def last_record(path: Path) -> SealedRecord | None:
    """The record in the last whole line of a file; None for an empty file.

    Raises :class:`ConfigurationError` for a file whose last line is no record: it is not the journal's.
    """
    line = b""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        reach = TAIL
        while True:
            file.seek(max(0, size - reach))
            lines = file.read(reach).splitlines(keepends=True)
            whole = [found for found in lines if found.endswith(b"\n")]
            if len(whole) > 1 or (whole and reach >= size):
                line = whole[-1]
                break
            if reach >= size:
                return None
            reach *= 2
    try:
        return SealedRecord.from_line(line)
    except InvalidRequest as error:
        raise ConfigurationError(
            f"audit.sinks: {path.name} holds something else than records of a journal; name another file",
            field="audit.sinks",
        ) from error


def _first_record(path: Path) -> SealedRecord | None:
    with path.open("rb") as file:
        line = file.readline()
    try:
        return SealedRecord.from_line(line)
    except InvalidRequest:
        return None


def _end_of_last_line(fd: int, size: int) -> int:
    """Where the last whole line ends."""
    at = size
    while at > 0:
        start = max(0, at - TAIL)
        found = os.pread(fd, at - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return 0
