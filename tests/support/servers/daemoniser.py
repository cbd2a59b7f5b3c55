"""Leaves daemons behind: ``python daemoniser.py COUNT PID_FILE [stubborn]``; each forks twice, calls setsid, stays.

Their process ids go to the file, one a line. ``stubborn``: everybody ignores SIGTERM. Nothing but the standard library
is needed, also when run isolated.
"""

from __future__ import annotations

import os
import signal
import sys
import time


def leave_daemons(count: int, pid_file: str) -> None:
    """Fork so many daemons; each writes its process id."""
    for _ in range(count):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                with open(pid_file, "a", encoding="ascii") as file:
                    file.write(f"{os.getpid()}\n")
                time.sleep(600)
            os._exit(0)
        os.wait()


def main() -> None:
    """Fork, then stay."""
    count, pid_file, *traits = sys.argv[1:]
    if "stubborn" in traits:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    leave_daemons(int(count), pid_file)
    time.sleep(600)


if __name__ == "__main__":
    main()
