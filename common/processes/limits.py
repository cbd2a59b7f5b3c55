"""Resource limits of a child, in force for it and for whatever it starts (``setrlimit(2)``)."""

from __future__ import annotations

import functools
import resource
import shutil
import sys
from collections.abc import Sequence

import structlog

from common.domain.rules import ProcessLimits

log = structlog.get_logger(__name__)

NO_LIMITS = ProcessLimits()
_RESOURCES = {
    "open_files": ("--nofile", "RLIMIT_NOFILE"),
    "processes": ("--nproc", "RLIMIT_NPROC"),
    "file_bytes": ("--fsize", "RLIMIT_FSIZE"),
    "memory_bytes": ("--as", "RLIMIT_AS"),
}


class LimitsUnsupported(RuntimeError):
    """This platform has no way to limit a process from outside."""


def limited(argv: Sequence[str], limits: ProcessLimits) -> tuple[str, ...]:
    """The command line that sets the limits before the command's first instruction, or ``argv`` where there is none.

    That is ``prlimit`` of util-linux, which sets its own limits and becomes the command: 2 ms, and no process more.
    A Python function between fork and exec would do it for nothing, but is not safe in a program with threads.
    """
    wanted = _wanted(limits)
    program = _prlimit() if wanted else None
    if program is None:
        return tuple(argv)
    options = [f"{_RESOURCES[name][0]}={value}:{value}" for name, value in wanted.items()]
    return (program, "--core=0:0", *options, "--", *argv)


def limit_started(pid: int, limits: ProcessLimits) -> None:
    """Set what :func:`limited` could not, on a child that has just been started, and forbid core dumps.

    What the child started or opened in its first instants, before this came, keeps the limits of before.

    Raises:
        LimitsUnsupported: there are limits to be set, and no way to do it. The child is to be ended.
    """
    wanted = _wanted(limits)
    if sys.platform != "linux":
        if wanted:
            raise LimitsUnsupported("limits of a tool's process can be kept on Linux only")
        return  # degrade: a core dump is left to the machine's own limit
    values = {} if _prlimit() else {getattr(resource, _RESOURCES[name][1]): n for name, n in wanted.items()}
    try:
        for number, value in {**values, resource.RLIMIT_CORE: 0}.items():
            resource.prlimit(pid, number, (value, value))
    except ProcessLookupError:
        return  # it has ended already
    except PermissionError as error:  # a program that changes its user: its limits are no longer ours to set
        if values:
            raise LimitsUnsupported("the limits of a program that changes its user cannot be set") from error


def no_core_dumps() -> None:
    """Let neither this process nor what it starts leave a core file, in which every secret of its memory would stand.

    It is still told to a program that the kernel's ``core_pattern`` names (``|...``): that one is the machine's own.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _wanted(limits: ProcessLimits) -> dict[str, int]:
    """The limits that are below our own: nobody without privileges can raise one."""
    found: dict[str, int] = {}
    for name, (_, number) in _RESOURCES.items():
        value = getattr(limits, name)
        if value is not None:
            _, most = resource.getrlimit(getattr(resource, number))
            found[name] = value if most == resource.RLIM_INFINITY else min(value, most)
    return found


@functools.cache
def _prlimit() -> str | None:
    """Where it is; looked for once, and said once if it is missing."""
    if sys.platform != "linux":
        return None
    found = shutil.which("prlimit")
    if found is None:
        log.warning(
            "prlimit_not_found", effect="limits of tools are set right after the start of their processes"
        )
    return found
