"""A process that guards a child which leaves daemons behind. Run as a program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.processes import MARK_NAME, ProcessGuard, is_running
from tests.support.servers.process import SERVERS
from tests.support.wait import wait_until

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Kept:
    """A keeper, its two reapers, its child, and the daemons that the child left behind."""

    keeper: subprocess.Popen[str]
    reapers: tuple[int, int]
    child: int
    daemons: tuple[int, ...]

    @property
    def family(self) -> tuple[int, ...]:
        return (self.child, *self.daemons)


@contextmanager
def keeper(
    *traits: str, daemons: int = 1, grace: float = 0.5, words: str = "", directory: Path
) -> Iterator[Kept]:
    """A process with a guard and a marked child; whatever is left is killed at the end.

    Traits: ``stubborn`` (all ignore SIGTERM), ``unregistered`` (the guard never hears of the child), ``closes`` and
    ``exits`` (the keeper closes its guard in order, or just exits, when its standard input ends), ``replaced`` (the
    first reaper was killed and the guard has started others), ``wordy`` (the words are long). ``words``: a Redis URL
    where the list ``said`` gets one element more when a reaper says the last words.
    """
    pid_file = directory / "pids"
    argv = [sys.executable, "-m", "tests.common.processes.daemons"]
    argv += [str(daemons), str(grace), str(pid_file), words, *traits]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdin is not None
    left: list[int] = []
    reapers: tuple[int, ...] = ()
    try:
        first, second, child = (int(word) for word in process.stdout.readline().split())
        reapers = (first, second)
        left.append(child)
        wait_until(lambda: len(_pids(pid_file)) == daemons, description="all daemons to be there")
        left += _pids(pid_file)
        yield Kept(process, (first, second), child, tuple(_pids(pid_file)))
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        wait_until(lambda: not any(map(is_running, reapers)), description="the reapers to end")


def _pids(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def _keep(count: int, grace: float, pid_file: str, words: str, traits: list[str]) -> None:
    guard = ProcessGuard(grace=grace)
    guard.start()
    if words:
        _leave_words(guard, words, 30_000 if "wordy" in traits else 0)
    if "replaced" in traits:
        os.kill(guard.reaper_pid or 0, signal.SIGKILL)
        wait_until(guard.ensure, description="the guard to start other reapers")
    argv = [sys.executable, "-I", "-S", str(SERVERS / "daemoniser.py"), str(count), pid_file, *traits]
    environment = {MARK_NAME: guard.new_mark()}
    child = subprocess.Popen(argv, start_new_session=True, env=environment, stdout=subprocess.DEVNULL)
    if "unregistered" not in traits:
        guard.add(child.pid)
    print(guard.reaper_pid, guard.second_reaper_pid, child.pid, flush=True)
    sys.stdin.read()
    if "closes" in traits:
        guard.close()


def _leave_words(guard: ProcessGuard, url: str, padding: int) -> None:
    from common.store.client import StoreAddress
    from common.store.last_words import last_words_of

    commands = (("ECHO", "x" * padding), ("RPUSH", "said", "dead"), ("LRANGE", "said", 0, -1))
    guard.last_words(last_words_of(StoreAddress(url=url), *commands))


def _main() -> None:
    count, grace, pid_file, words, *traits = sys.argv[1:]
    _keep(int(count), float(grace), pid_file, words, traits)


if __name__ == "__main__":
    _main()
