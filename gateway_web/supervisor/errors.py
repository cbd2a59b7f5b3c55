"""What can keep a local gateway from running, each with the way out."""

from __future__ import annotations


class SupervisorError(Exception):
    """Base of the errors of this package. The message is for the user and never holds a password."""


class StateDirectoryError(SupervisorError):
    """The state directory cannot be created, or others could write to it."""


class StateDirectoryBusyError(StateDirectoryError):
    """Another running instance holds the state directory.

    Attributes:
        pid: process id of the holder, None if it did not say.
    """

    def __init__(self, message: str, *, pid: int | None) -> None:
        super().__init__(message)
        self.pid = pid


class RedisUrlError(SupervisorError):
    """The configured Redis URL cannot be used."""


class RedisUnreachableError(SupervisorError):
    """No usable answer from the Redis server."""


class RedisNotFoundError(SupervisorError):
    """No Redis server is configured, and none that could be started was found."""


class ReadinessTimeoutError(SupervisorError):
    """What was waited for did not become ready in time."""


class ChildStartError(SupervisorError):
    """A child ended, or did not become ready, while the gateway was starting.

    Attributes:
        child: its name.
        log_tail: the last lines it wrote since it was started.
    """

    def __init__(self, message: str, *, child: str, log_tail: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.child = child
        self.log_tail = log_tail
