"""A network namespace with one link to the machine's own network, which can be cut and healed.

Addresses are of 10.254.<n>.0/29: .1 and .3 on the machine's side, .2 in the namespace. Redis is reached by .3 and
callers come from .1, so that one can be cut off without the other.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
from pathlib import Path
from typing import Self

import psutil
import pytest

_NAME = re.compile(r"cg(\d+)-\d+")
_numbers = itertools.count(os.getpid() % 100 + 1)


class Namespace:
    """Made on entry, deleted on exit with the link and the routes in it."""

    def __init__(self) -> None:
        number = next(_numbers) % 250
        self.name = f"cg{os.getpid()}-{number}"
        self._outer, self._inner = f"cgo{number}", f"cgi{number}"
        self._net = f"10.254.{number}"

    @property
    def redis_address(self) -> str:
        """The machine's address that the namespace reaches Redis by."""
        return f"{self._net}.3"

    @property
    def outer_address(self) -> str:
        """The machine's address that callers come from."""
        return f"{self._net}.1"

    @property
    def own_address(self) -> str:
        """The address in the namespace."""
        return f"{self._net}.2"

    @property
    def prefix(self) -> list[str]:
        """The words before a command that runs inside."""
        return ["ip", "netns", "exec", self.name]

    def cut(self) -> None:
        """Cut the link both ways; whatever is sent is lost without a word."""
        _ip("-n", self.name, "link", "set", self._inner, "down")

    def cut_one_way(self) -> None:
        """Lose what the namespace sends to Redis; what comes in still arrives."""
        _ip("-n", self.name, "route", "replace", "blackhole", f"{self.redis_address}/32")

    def heal(self) -> None:
        """Undo both cuts."""
        _ip("-n", self.name, "link", "set", self._inner, "up")
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("-n", self.name, "route", "del", "blackhole", f"{self.redis_address}/32")

    def __enter__(self) -> Self:
        _delete_forgotten()
        try:
            _ip("netns", "add", self.name)
        except (OSError, subprocess.CalledProcessError) as error:
            refused(f"network namespaces are refused here: {error}")
        try:
            self._link()
        except (OSError, subprocess.CalledProcessError) as error:
            self._delete()
            refused(f"links between network namespaces are refused here: {error}")
        return self

    def __exit__(self, *_: object) -> None:
        self._delete()

    def _link(self) -> None:
        _ip("link", "add", self._outer, "type", "veth", "peer", "name", self._inner)
        _ip("link", "set", self._inner, "netns", self.name)
        _ip("addr", "add", f"{self.outer_address}/29", "dev", self._outer)
        _ip("addr", "add", f"{self.redis_address}/29", "dev", self._outer)
        _ip("link", "set", self._outer, "up")
        _ip("-n", self.name, "addr", "add", f"{self.own_address}/29", "dev", self._inner)
        _ip("-n", self.name, "link", "set", self._inner, "up")
        _ip("-n", self.name, "link", "set", "lo", "up")

    def _delete(self) -> None:
        for words in (("netns", "del", self.name), ("link", "del", self._outer)):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(*words)


def refused(reason: str) -> None:
    """Skip the test; where CI promises what it needs, fail it.

    Raises:
        pytest.skip.Exception, pytest.fail.Exception: always one of them.
    """
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; in CI this test must run")
    pytest.skip(reason)


def _delete_forgotten() -> None:
    """Delete what a run left behind that was killed itself; the names say whose they are."""
    places = Path("/run/netns")
    for place in places.iterdir() if places.is_dir() else ():
        owner = _NAME.fullmatch(place.name)
        if owner is not None and not psutil.pid_exists(int(owner[1])):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", place.name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)
