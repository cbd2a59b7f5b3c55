"""The process that keeps the journal: ``python -m gateway_worker.keeper_program <pid of its worker>``.

A process and not a thread of the worker, so that sealing and slow sinks take nothing from the calls. What it needs
comes as one line of JSON on standard input, since there are secrets in it. When that input ends, the worker has.
"""

from __future__ import annotations

import os
import sys
import threading
import time

ORPHANED_AFTER = 1.0
"""Seconds for which it lives on when its worker has died. What is not delivered by then the next keeper delivers."""
LOOK = 0.2
"""Seconds between two looks at whether the worker still lives."""


def main() -> int:
    """Keep the journal; the exit code."""
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True, name="worker").start()
    # It takes a second to load on a busy machine, in which the worker may die as well.
    from gateway_worker.keeper_run import keep

    return keep()


def _end_with(worker: int) -> None:
    """A worker that ends in order waits for this process; one that died leaves nothing behind that lives on."""
    while os.getppid() == worker:
        time.sleep(LOOK)
    time.sleep(ORPHANED_AFTER)
    os._exit(1)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # A sink that hangs in its thread must not hold the process.
    os._exit(code)
