"""``recorder_core`` over stdio: ``python recorder.py --era legacy|modern|both``."""

from __future__ import annotations

import argparse
import os
import sys

if not __package__:  # run as a file: make the repository importable
    sys.path[0] = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))

from tests.support.servers import recorder_core
from tests.support.servers.echo import StdioServer
from tests.support.servers.echo_core import Exchange
from tests.support.servers.recorder_core import BrokenOff, Recorder


class RecorderOverStdio(StdioServer):
    """Breaking off means that the process ends."""

    def respond(self, exchange: Exchange) -> None:
        """Compute and send the response, if there is one."""
        try:
            super().respond(exchange)
        except BrokenOff:
            os._exit(4)


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--era", choices=("legacy", "modern", "both"), default="both")
    arguments = parser.parse_args()
    recorder_core.delayed_start()
    recorder_core.take_time_apart()
    recorder = Recorder(era=arguments.era)
    recorder.opened("any", recorder._marker)
    RecorderOverStdio(recorder).serve()
    os._exit(0)  # threads of blocked calls must not keep the process


if __name__ == "__main__":
    main()
