"""Credentials through a whole gateway: they arrive, per tenant, change after rotation, and are found nowhere else."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson
import psutil
import pytest
from redis.exceptions import ConnectionError as RedisGone
from redis.exceptions import TimeoutError as RedisSilent

from tests.support.mcp import RawClient, legacy, modern
from tests.support.redis import RedisServer, running_redis
from tests.support.servers.authorization import AuthorizationServer, running_authorization
from tests.support.servers.gateway import RunningGateway, gateway_command, running_gateway
from tests.support.servers.issuer import private_key
from tests.support.servers.process import running_http, server_command
from tests.support.wait import wait_until
from tests.worker.credentials.issuing import pem

pytestmark = pytest.mark.e2e

KEYS = {"acme": "canary-inbound-acme", "globex": "canary-inbound-globex"}
PEOPLE = {"ann": "canary-inbound-ann", "bob": "canary-inbound-bob"}
"""Subjects of one client of acme."""
META = "com.example/token"


def secret(tool: str, tenant: str, version: int = 1) -> str:
    """The value that this tool of this tenant is given."""
    return f"canary-secret-{tool}-{tenant}-{version}"


class Scene:
    """A gateway, what goes to its Redis, and what its tools log."""

    def __init__(self, gateway: RunningGateway, redis: RedisServer, home: Path, written: bytearray) -> None:
        self.gateway, self.redis, self.home, self.written = gateway, redis, home, written

        self.authorization = AuthorizationServer()
        """Who issues the tokens of the tool ``issued``."""

    def put(self, tool: str, tenant: str, version: int) -> None:
        """Mount a version of a secret."""
        place = self.home / "secrets" / tool / tenant
        place.mkdir(parents=True, exist_ok=True)
        (place / ".new").write_text(secret(tool, tenant, version))
        os.replace(place / ".new", place / "token")

    def person(self, who: str, era: Callable[..., RawClient]) -> RawClient:
        """A subject's, of the tool that has a token for each."""
        return era(self.gateway.tool_url("delegated"), authorization=f"Bearer {PEOPLE[who]}")

    def client(self, tool: str, tenant: str, era: Callable[..., RawClient]) -> RawClient:
        """A tenant's."""
        return era(self.gateway.tool_url(tool), authorization=f"Bearer {KEYS[tenant]}")

    def order(self, *words: str) -> str:
        """``canalgate credentials ...``"""
        command = [*gateway_command(), "credentials", *words, "--config", str(self.gateway.config)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout

    def received(self) -> list[dict[str, object]]:
        """All messages that the stdio tool was sent."""
        log = self.home / "echo.jsonl"
        lines = [orjson.loads(line) for line in log.read_bytes().splitlines()]
        return [line["received"] for line in lines if "received" in line]


@contextmanager
def monitored(redis: RedisServer) -> Iterator[bytearray]:
    """All that anybody sends to Redis, which no command can hide from."""
    written = bytearray()
    watcher = redis.client()

    def watch() -> None:
        try:
            with watcher.monitor() as monitor:
                started.set()
                while True:
                    with suppress(RedisSilent):
                        written.extend(monitor.connection.read_response(disconnect_on_error=False) + b"\n")
        except (RedisGone, OSError, ValueError, AttributeError):
            pass

    started = threading.Event()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    assert started.wait(5)
    yield written


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Two tenants, a stdio tool and an HTTP tool with the credentials of each."""
    home = tmp_path_factory.mktemp("c")
    with (
        running_redis() as redis,
        monitored(redis) as written,
        running_http("echo_http", log=home / "http.log", env={"ECHO_LOG": str(home / "http.jsonl")}) as url,
        running_authorization() as authorization,
    ):
        command, *args = server_command("echo")
        tools = {
            "local": {
                "command": command,
                "args": args,
                "env": {"ECHO_LOG": str(home / "echo.jsonl")},
                "credentials": {"inject": {"env": {"TOKEN": "token"}, "meta": {META: "token"}}},
            },
            "remote": {
                "url": url,
                "credentials": {
                    "providers": "file",
                    "inject": {"headers": {"Authorization": "Bearer {token}"}},
                },
            },
            "issued": {
                "url": url,
                "credentials": {
                    "scope": "tool",
                    "providers": "client_credentials",
                    "inject": {"headers": {"Authorization": "Bearer {access_token}"}},
                },
            },
        }
        tools["delegated"] = {
            "url": url,
            "credentials": {
                "scope": "subject",
                "providers": "token_exchange",
                "inject": {"headers": {"Authorization": "Bearer {access_token}"}},
            },
        }
        authorization.issuers["gate"] = private_key("ES256", "gate").public_key()
        authorization.clients["gateway"] = "canary-secret-of-the-gateway"
        client = {
            "tool": "issued",
            "token_url": authorization.url,
            "client_id": "gateway",
            "client_secret": "canary-secret-of-the-gateway",
        }
        keys = [{"key": key, "tenant": tenant, "client": "one"} for tenant, key in KEYS.items()]
        keys += [
            {"key": key, "tenant": "acme", "client": "one", "subject": who} for who, key in PEOPLE.items()
        ]
        settings = {
            "redis": {"url": redis.url()},
            "identity": {"resolver": "api_key", "api_keys": keys},
            "tenants": {"allow_unlisted": True},
            "credentials": {
                "providers": ["file", "client_credentials", "token_exchange"],
                "directory": str(home / "secrets"),
                "discovery_tenant": "acme",
            },
            "client_credentials": {"clients": [client]},
            "token_exchange": {
                "issuer": "gate",
                "signing_key": pem("ES256", "gate"),
                "signing_algorithm": "ES256",
                "exchanges": [client | {"tool": "delegated", "subject_audience": authorization.audience}],
            },
            "logging": {"level": "debug", "format": "json"},
        }
        unborn = Scene(None, redis, home, written)  # type: ignore[arg-type]
        for tool in ("local", "remote"):
            for tenant in KEYS:
                unborn.put(tool, tenant, 1)
        with running_gateway(tools, directory=home / "g", settings=settings) as gateway:
            scene = Scene(gateway, redis, home, written)
            scene.authorization = authorization
            yield scene


ERAS = pytest.mark.parametrize("era", [legacy, modern], ids=["legacy", "modern"])


@ERAS
@pytest.mark.parametrize("tenant", KEYS)
def test_each_tenant_has_its_own(scene: Scene, tenant: str, era: Callable[..., RawClient]) -> None:
    """In the environment of its child, in its requests' ``_meta`` and headers; never the caller's own token."""
    local = orjson.loads(scene.client("local", tenant, era).text("env"))
    assert local["TOKEN"].startswith(secret("local", tenant)[:-1])
    assert not [name for name, value in local.items() if "inbound" in value or name.startswith("CANALGATE")]
    remote = orjson.loads(scene.client("remote", tenant, era).text("headers"))
    assert remote["authorization"].startswith("Bearer " + secret("remote", tenant)[:-1])


def test_a_token_is_issued_once_for_everybody_until_it_is_refused(scene: Scene) -> None:
    """By the gateway's own name, whoever calls; an order has another one issued."""
    tokens = scene.authorization.tokens

    def sent(tenant: str) -> str:
        seen = orjson.loads(scene.client("issued", tenant, legacy).text("headers"))
        return str(seen["authorization"]).removeprefix("Bearer ")

    first = sent("acme")
    assert tokens[first].client == "gateway"
    assert sent("globex") == first
    scene.order("rotate", "--tool", "issued")
    wait_until(lambda: sent("acme") != first, description="another token", timeout=15)
    assert sent("acme") in tokens


@ERAS
def test_two_subjects_of_one_client_have_a_token_each(scene: Scene, era: Callable[..., RawClient]) -> None:
    """Made for them by the authorization server; what they called with goes nowhere."""
    people = {who: scene.person(who, era) for who in PEOPLE}
    for _ in range(3):
        for who, client in people.items():
            token = orjson.loads(client.text("headers"))["authorization"].removeprefix("Bearer ")
            stated = scene.authorization.tokens[token].subject
            assert stated is not None
            assert (stated["sub"], stated["tenant"], stated["client_id"]) == (who, "acme", "one")
    assert "canary-inbound" not in repr(scene.authorization.forms)
    nobody = scene.client("delegated", "acme", era).call("headers")
    assert "CREDENTIAL_UNAVAILABLE" in str(nobody)


def test_they_change_after_rotation(scene: Scene) -> None:
    """A mounted file that changed is seen by itself; an order builds anew what did not change."""
    local, remote = (scene.client(tool, "globex", legacy) for tool in ("local", "remote"))
    pid, other = local.text("pid"), scene.client("local", "acme", legacy).text("pid")
    for tool in ("local", "remote"):
        scene.put(tool, "globex", 2)

    def seen() -> bool:
        token = orjson.loads(local.text("env"))["TOKEN"]
        header = orjson.loads(remote.text("headers"))["authorization"]
        return token == secret("local", "globex", 2) and header == "Bearer " + secret("remote", "globex", 2)

    wait_until(seen, description="both tools to get the second version", timeout=15)
    second = local.text("pid")
    assert second != pid
    assert "tool local" in scene.order("rotate", "--tool", "local", "--tenant", "globex")
    wait_until(lambda: local.text("pid") != second, description="a new child", timeout=15)
    assert scene.client("local", "acme", legacy).text("pid") == other


def test_without_them_nothing_is_started(scene: Scene) -> None:
    """The refusal has its code, and the tool's circuit stays closed."""
    place = scene.home / "secrets" / "local" / "acme" / "token"
    place.unlink()
    client = scene.client("local", "acme", modern)

    def refused() -> bool:
        return client.call("pid").get("error", {}).get("data", {}).get("code") == "CREDENTIAL_UNAVAILABLE"

    wait_until(refused, description="the tool to be refused", timeout=15)
    for _ in range(6):
        assert refused()
    scene.put("local", "acme", 1)
    wait_until(lambda: "result" in client.call("pid"), description="the tool to be back", timeout=15)


def test_they_are_found_nowhere_else(scene: Scene) -> None:
    """In no message, key or event in Redis, no log, no command line; nor is the caller's own token at a backend."""
    scene.client("local", "acme", legacy).text("env")
    scene.order("rotate")
    for tool in ("remote", "issued"):
        scene.client(tool, "globex", modern).text("headers")
    scene.person("ann", modern).text("headers")
    canary = b"canary-secret"
    # What the tools answered is the callers' own: it came from tools that say what they were given.
    requests = [line for line in bytes(scene.written).splitlines() if b"gateway.invoke" in line]
    assert requests
    assert not [line for line in requests if canary in line or b"canary-inbound" in line]
    with scene.redis.client() as redis:
        redis.config_set("rdbcompression", "no")  # which DUMP heeds as well
        events = redis.xrange("canalgate:audit")
        assert {fields[b"kind"] for _, fields in events} >= {b"credential_resolution", b"credentials_rotated"}
        assert canary not in repr(events).encode()
        for key in redis.scan_iter():
            if not key.startswith(b"celery-task-meta-"):
                assert canary not in (redis.dump(key) or b""), key
    log = scene.gateway.process.log.read_bytes()
    assert canary not in log
    forms = scene.authorization.forms
    statements = {value.encode() for form in forms for name, value in form if name == "subject_token"}
    assert statements
    for text in (b"PRIVATE KEY", *statements):
        assert text not in log
        assert text not in scene.written
    state = scene.home / "g" / "state"
    for file in [found for found in state.rglob("*") if found.is_file()]:
        assert canary not in file.read_bytes(), file
    for process in [psutil.Process(scene.gateway.process.popen.pid), *scene.gateway.process.descendants()]:
        assert "canary" not in " ".join(process.cmdline())
    for log in ("echo.jsonl", "http.jsonl"):
        assert b"canary-inbound" not in (scene.home / log).read_bytes()
    told = [message for message in scene.received() if message.get("method") == "tools/call"]
    assert all(META in message["params"]["_meta"] for message in told)  # type: ignore[index]
