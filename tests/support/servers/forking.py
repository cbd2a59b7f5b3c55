"""A server that takes what it can get: ``python forking.py --daemons N --files N --disk FILE --pid-file FILE``.

It leaves daemons behind, opens files and fills a file before it serves, and says on standard error what it was refused.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

if not __package__:  # run as a file: make the repository importable
    sys.path[0] = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))

from tests.support.servers.daemoniser import leave_daemons
from tests.support.servers.echo import StdioServer
from tests.support.servers.echo_core import EchoServer


def take_files(count: int) -> int:
    """Open so many; how many that were."""
    for number in range(count):
        try:
            os.open("/dev/null", os.O_RDONLY)
        except OSError as error:
            print(f"refused: file {number}: {error.strerror}", file=sys.stderr, flush=True)
            return number
    return count


def fill(path: str, size: int) -> None:
    """Write so many bytes to a file."""
    try:
        with open(path, "wb", buffering=0) as file:
            file.writelines(b"d" * 65536 for _ in range(size >> 16))
    except OSError as error:
        print(f"refused: disk: {error.strerror}", file=sys.stderr, flush=True)


def main() -> None:
    """Take, then serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--daemons", type=int, default=0)
    parser.add_argument("--files", type=int, default=0)
    parser.add_argument("--disk", default="")
    parser.add_argument("--bytes", type=int, default=8 << 20)
    parser.add_argument("--pid-file", default="daemons.pid")
    parser.add_argument("--stubborn", action="store_true")
    options = parser.parse_args()
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    leave_daemons(options.daemons, options.pid_file)
    if options.disk:
        fill(options.disk, options.bytes)
    take_files(options.files)
    StdioServer(EchoServer(name="forking")).serve()
    os._exit(0)


if __name__ == "__main__":
    main()
