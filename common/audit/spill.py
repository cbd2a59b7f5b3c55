"""Records that a sink has not got, on the keeper's own disk instead of in Redis, until the sink takes them.

They are sealed as they were in Redis, and forced to the disk before Redis lets go of them. The directory has a name of
its own, which stands in the chain's state: a keeper without that directory knows that records are elsewhere.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from common.audit.sinks.file import FileSink, rotated
from common.domain.audit_chain import Position, SealedRecord
from common.domain.errors import ConfigurationError
from common.settings.audit_sinks import FileOptions

SEGMENT = 1024 * 1024
"""Bytes of a file: what is read at a time, and removed at a time."""


class Spill:
    """Written by the keeper's thread, read by those of the sinks."""

    def __init__(self, directory: Path) -> None:
        """Open what is there. Raises :class:`ConfigurationError` if that cannot be."""
        self._path = directory / "spill.ndjson"
        self._lock = threading.Lock()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.name = _name_in(directory)
        except OSError as error:
            raise ConfigurationError(
                f"audit.spill_dir cannot be used: {error.strerror}", field="audit.spill_dir"
            ) from error
        self._file = self._opened()

    @property
    def last(self) -> Position | None:
        """The last record that is here; None while none is."""
        last = self._file.last
        return None if last is None else last.position

    def append(self, records: Sequence[SealedRecord]) -> None:
        """Take records that follow those that are here. They are on the disk then. Raises :class:`OSError`."""
        with self._lock:
            self._file.write(records)

    def after(self, place: Position) -> list[SealedRecord] | None:
        """Some records behind a place, in their order; None if what follows it is not here.

        A line without its end is none: the disk was full, and it comes again whole.
        """
        with self._lock:
            last = self._file.last
            if last is None or last.seq <= place.seq:
                return None
            for file in (*rotated(self._path), self._path):
                with file.open("rb") as lines:
                    whole = (line for line in lines if line.endswith(b"\n"))
                    found = [
                        record for record in map(SealedRecord.from_line, whole) if record.seq > place.seq
                    ]
                if found:
                    follows = found[0].seq == place.seq + 1 and found[0].prev == place.hash
                    return found if follows else None
        return None

    def forget(self, seq: int) -> None:
        """Every sink has the records up to this number: remove what holds no others."""
        with self._lock:
            last = self._file.last
            if last is None:
                return
            if last.seq <= seq:
                self._file.close()
                for file in (*rotated(self._path), *self._path.parent.glob("spill.ndjson*")):
                    file.unlink(missing_ok=True)
                self._file = self._opened()
                return
            for file in rotated(self._path):
                if int(file.name.removeprefix(f"{self._path.name}.").partition(".")[0]) <= seq:
                    file.unlink()

    def set_aside(self) -> Path:
        """Put the files into a directory beside, whose path it returns, and begin anew. Raises :class:`OSError`.

        They keep their names, so that they can be verified there, and nothing here reads or removes them.
        """
        with self._lock:
            last = self._file.last
            told = "none" if last is None else f"{last.seq:015d}.{last.hash[:16]}"
            other = self._path.with_name(f"other.{told}")
            other.mkdir(exist_ok=True)
            self._file.close()
            for file in self._path.parent.glob(f"{self._path.name}*"):
                file.replace(other / file.name)
            self._file = self._opened()
        return other

    def close(self) -> None:
        """Close the file; what is in it stays."""
        with self._lock:
            self._file.close()

    def _opened(self) -> FileSink:
        return FileSink(FileOptions(path=str(self._path), rotate_bytes=SEGMENT, rotate_after=0))


def _name_in(directory: Path) -> str:
    """The directory's own name, given to it at its first use."""
    file = directory / "spill.id"
    if not file.exists():
        fresh = directory / "spill.id.new"
        with fresh.open("w", encoding="ascii") as writing:
            writing.write(uuid4().hex)
            writing.flush()
            os.fsync(writing.fileno())
        fresh.replace(file)
    return file.read_text(encoding="ascii").strip()
