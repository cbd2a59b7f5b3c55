"""Both images, built from the Dockerfile, run by the Compose file: calls, more workers, a dead one, an orderly end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import orjson
import pytest

from tests.containers.engine import HERE, Engine, missing
from tests.support.mcp import RawClient, modern
from tests.support.servers.process import free_port
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.containers,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(missing()), reason=f"containers NOT tested here: {missing()}"),
]
KEY = "a-key-of-the-tests"


@dataclass(frozen=True, slots=True)
class Stack:
    """The services of the Compose file, running."""

    engine: Engine
    port: int
    values: dict[str, str]

    @property
    def client(self) -> RawClient:
        found = modern(f"http://localhost:{self.port}/servers/demo/mcp")
        found.headers["authorization"] = f"Bearer {KEY}"
        return found

    def containers(self, service: str) -> list[str]:
        """Names of those of a service that run."""
        names = self.engine.run(
            "podman",
            "ps",
            "--filter",
            f"label=com.docker.compose.service={service}",
            "--format",
            "{{.Names}}",
        )
        return sorted(names.split())

    def workers(self) -> int:
        """How many the gateway sees."""
        answer = httpx.get(f"http://localhost:{self.port}/readyz")
        return int(answer.json()["workers"])

    def sees_workers(self, number: int) -> None:
        """Wait until the gateway sees so many."""
        wait_until(lambda: self.workers() == number, timeout=60, description=f"{number} workers")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    engine = Engine(tmp_path_factory.mktemp("containers"))
    engine.base()
    engine.build("canalgate-web:local", "--target", "web")
    engine.build("canalgate-worker:local", "--target", "worker")
    engine.build("canalgate-test-redis:latest", "--file", str(HERE / "Redis.Dockerfile"), context=HERE)
    port = free_port()
    values = {"REDIS_PASSWORD": "of-the-tests", "CANALGATE_API_KEY": KEY, "CANALGATE_PORT": str(port)}
    engine.down(values=values)
    engine.compose("up", "--detach", "--no-build", values=values)
    found = Stack(engine, port, values)
    try:
        wait_until(lambda: _ready(found), timeout=60, description="the gateway to be ready", interval=0.2)
        yield found
    finally:
        engine.down(values=values)


def _ready(stack: Stack) -> bool:
    try:
        return httpx.get(f"http://localhost:{stack.port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_call_goes_through(stack: Stack) -> None:
    """From outside, through the published port, to a child of the worker's container."""
    assert stack.client.text("add", {"a": 20, "b": 22}) == "42.0"


def test_nobody_calls_without_a_key(stack: Stack) -> None:
    """The web program asks who calls."""
    assert modern(f"http://localhost:{stack.port}/mcp").post("tools/list").status_code == 401


@pytest.mark.parametrize("service", ["web", "worker"])
def test_a_container_is_as_bare_as_the_file_says(stack: Stack, service: str) -> None:
    """Not root, no capabilities, a root file system that cannot be written."""
    (name,) = stack.containers(service)
    assert stack.engine.execute(name, "id", "-u").strip() == "10001"
    status = stack.engine.execute(name, "cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    written = stack.engine.execute(name, "sh", "-c", "touch /etc/x 2>&1 || true")
    assert "Read-only file system" in written


@pytest.mark.parametrize("service", ["web", "worker"])
def test_the_health_check_finds_it_well(stack: Stack, service: str) -> None:
    """podman runs the check that the image names."""
    (name,) = stack.containers(service)
    stack.engine.run("podman", "healthcheck", "run", name)


def test_a_worker_without_a_beat_is_not_well(stack: Stack) -> None:
    """The check looks at the file's age."""
    (name,) = stack.containers("worker")
    old = "f=$(mktemp); touch -d '1 minute ago' $f; CANALGATE_WORKER__HEARTBEAT_FILE=$f healthy-worker || echo refused"
    assert "refused" in stack.engine.execute(name, "sh", "-c", old)


def test_workers_are_scaled_and_one_that_dies_takes_nothing_along(stack: Stack) -> None:
    """Three workers; one is killed; every call is answered, and soon there are two."""
    stack.engine.compose("up", "--detach", "--no-build", "--scale", "worker=3", values=stack.values)
    stack.sees_workers(3)
    client = stack.client
    assert client.text("add", {"a": 1, "b": 1}) == "2.0"
    owner = _owner(stack)
    stack.engine.run("podman", "kill", "--signal", "KILL", owner)
    assert client.text("add", {"a": 2, "b": 2}) == "4.0"
    stack.sees_workers(2)


def _owner(stack: Stack) -> str:
    """The container whose worker holds the session of the demo tool."""
    web = stack.containers("web")[0]
    listed = orjson.loads(stack.engine.execute(web, "canalgate", "sessions", "--json"))
    host = listed[0]["node"].partition("@")[2].partition(":")[0]
    return next(name for name in stack.containers("worker") if _host(stack, name) == host)


def _host(stack: Stack, name: str) -> str:
    return stack.engine.execute(name, "cat", "/etc/hostname").strip()


def test_a_worker_that_is_stopped_says_goodbye(stack: Stack) -> None:
    """SIGTERM reaches the worker through tini, and it leaves the cluster in order."""
    name = stack.containers("worker")[0]
    stack.engine.run("podman", "stop", "--time", "40", name)
    logs = stack.engine.run("podman", "inspect", "--format", "{{.State.ExitCode}}", name)
    assert logs.strip() == "0"
