"""The state directory of a local gateway: one running instance at a time, and a note of what it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from common.processes import is_running
from gateway_web.supervisor.errors import StateDirectoryBusyError, StateDirectoryError

_LOCK_INTERVAL = 0.05
_CLEAN_UP_PATIENCE = 6.0


def state_dir_path(environment: Mapping[str, str]) -> Path:
    """``CANALGATE_STATE_DIR``, else ``canalgate`` in ``XDG_STATE_HOME``, else ``~/.local/state/canalgate``.

    Raises:
        StateDirectoryError: there is no home directory to fall back to.
    """
    if chosen := environment.get("CANALGATE_STATE_DIR"):
        return Path(chosen).absolute()
    base = environment.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):  # the XDG base directory specification wants relative values ignored
        return Path(base) / "canalgate"
    try:
        return Path.home() / ".local" / "state" / "canalgate"
    except RuntimeError as error:
        raise StateDirectoryError(
            "there is no home directory; set CANALGATE_STATE_DIR to a directory"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What runs from a state directory.

    Attributes:
        pid: process id of the supervisor.
        children: process ids of its children, by name.
        endpoint: URL of the MCP endpoint.
        redis_url: for redis-py; it may hold a password.
        started_at: Unix time in seconds.
        admin_token_file: file with the token of its admin API that was made for whoever may read it; None without.
        config: path of its settings file.
    """

    pid: int
    endpoint: str
    redis_url: str = field(repr=False)
    started_at: float
    children: Mapping[str, int]
    admin_token_file: str | None = None
    config: str = ""


class StateDirectory:
    """A state directory that is ours, from ``held`` on until its end."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self.lock_fd = lock_fd
        """Descriptor of the lock. Give it to ``ProcessGuard(keep_fds=...)``: then the directory stays locked
        until the reaper is done, and no second instance meets the dying children of one that was killed."""

    @property
    def logs(self) -> Path:
        """Directory of the log files of children."""
        return self.path / "logs"

    def log(self, child: str) -> Path:
        """Log file of a child."""
        return self.logs / f"{child}.log"

    def write_run(self, record: RunRecord) -> None:
        """Write ``run.json`` (mode 0600), at once or not at all."""
        target = self.path / "run.json"
        draft = self.path / "run.json.new"
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(orjson.dumps(dataclasses.asdict(record), option=orjson.OPT_INDENT_2))
        draft.replace(target)

    def remove_run(self) -> None:
        """Remove ``run.json``, if it is there."""
        (self.path / "run.json").unlink(missing_ok=True)


@contextlib.contextmanager
def held_state_dir(path: Path, *, patience: float = _CLEAN_UP_PATIENCE) -> Iterator[StateDirectory]:
    """Hold the lock of the directory, created with mode 0700 if missing; remove ``run.json`` at the end.

    Args:
        path: the directory.
        patience: seconds to wait for a lock whose holder is dead: its reaper is still ending its children.

    Raises:
        StateDirectoryError: it cannot be created or used, or anybody may write to it.
        StateDirectoryBusyError: a running instance holds it.
    """
    _create(path)
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(path, descriptor, patience)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        directory = StateDirectory(path, descriptor)
        directory.remove_run()  # left over from one that was killed
        try:
            yield directory
        finally:
            directory.remove_run()
    finally:
        os.close(descriptor)


def running_instance(path: Path) -> RunRecord | None:
    """What ``run.json`` says, if an instance holds the directory now; None if none does or it is starting.

    Raises:
        StateDirectoryError: ``run.json`` cannot be read.
    """
    try:
        with open(path / "lock", "rb") as lock:
            if _try_lock(lock.fileno(), fcntl.LOCK_SH):
                return None
        return RunRecord(**orjson.loads((path / "run.json").read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, TypeError, orjson.JSONDecodeError) as error:
        raise StateDirectoryError(f"cannot read {path / 'run.json'}: {error}") from error


def _create(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise StateDirectoryError(
            f"cannot use the state directory {path}: {error.strerror}{_WAY_OUT}"
        ) from error
    if found.st_mode & stat.S_IWOTH:
        raise StateDirectoryError(f"anybody may write to the state directory {path}{_WAY_OUT}")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise StateDirectoryError(f"no permission to write to the state directory {path}{_WAY_OUT}")


_WAY_OUT = "; set CANALGATE_STATE_DIR to a directory of your own"


def _lock(path: Path, descriptor: int, patience: float) -> None:
    end = time.monotonic() + patience
    while not _try_lock(descriptor, fcntl.LOCK_EX):
        pid = _holder(descriptor)
        if pid is not None and is_running(pid):
            raise StateDirectoryBusyError(
                f"process {pid} already runs a gateway from the state directory {path}; stop it (kill {pid}) "
                "or set CANALGATE_STATE_DIR to another directory",
                pid=pid,
            )
        if time.monotonic() >= end:
            raise StateDirectoryBusyError(
                f"the state directory {path} is still in use after the end of process {pid}; try again, or "
                "set CANALGATE_STATE_DIR to another directory",
                pid=pid,
            )
        time.sleep(_LOCK_INTERVAL)


def _try_lock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> int | None:
    """The process id that the holder wrote; None just after it took the lock."""
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None
