"""A gateway on one machine with one command: state directory, embedded Redis, supervised children."""

from gateway_web.supervisor.backoff import Backoff
from gateway_web.supervisor.child import ChildSpec
from gateway_web.supervisor.errors import (
    ChildStartError,
    ReadinessTimeoutError,
    RedisNotFoundError,
    RedisUnreachableError,
    RedisUrlError,
    StateDirectoryBusyError,
    StateDirectoryError,
    SupervisorError,
)
from gateway_web.supervisor.events import Event, EventKind
from gateway_web.supervisor.readiness import (
    http_ready,
    redis_ready,
    strangers_refused,
    wait_http_ready,
    wait_redis_ready,
)
from gateway_web.supervisor.redis_server import RedisServer, find_redis
from gateway_web.supervisor.redis_url import RedisUrl
from gateway_web.supervisor.state import (
    RunRecord,
    StateDirectory,
    held_state_dir,
    running_instance,
    state_dir_path,
)
from gateway_web.supervisor.supervisor import Supervisor

__all__ = [
    "Backoff",
    "ChildSpec",
    "ChildStartError",
    "Event",
    "EventKind",
    "ReadinessTimeoutError",
    "RedisNotFoundError",
    "RedisServer",
    "RedisUnreachableError",
    "RedisUrl",
    "RedisUrlError",
    "RunRecord",
    "StateDirectory",
    "StateDirectoryBusyError",
    "StateDirectoryError",
    "Supervisor",
    "SupervisorError",
    "find_redis",
    "held_state_dir",
    "http_ready",
    "redis_ready",
    "running_instance",
    "state_dir_path",
    "strangers_refused",
    "wait_http_ready",
    "wait_redis_ready",
]
