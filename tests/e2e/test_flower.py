"""Flower beside a real gateway: what it shows of real calls, to whom, and what it does not do."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.mcp import modern
from tests.support.servers.gateway import RunningGateway, gateway_command, running_gateway
from tests.support.servers.process import free_port, running, server_command
from tests.support.wait import wait_until

pytestmark = pytest.mark.e2e
TOKEN = "a-viewer-s-token-of-the-tests"
CANARY = "a-canary-in-an-argument"
CLIENT = "robot<img src=x>"
COMMAND, *ARGS = server_command("echo")
ROWS = {
    "draw": "1",
    "start": "0",
    "length": "50",
    "order[0][column]": "0",
    "order[0][dir]": "desc",
    "columns[0][data]": "received",
}


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[RunningGateway]:
    settings = {
        "flower": {"port": port},
        "admin": {"tokens": [{"name": "eye", "token": TOKEN}]},
        "identity": {
            "resolver": "api_key",
            "api_keys": [{"key": "k" * 20, "tenant": "acme", "client": CLIENT}],
        },
        "tenants": {"listed": ["acme"]},
    }
    tools = {"local": {"command": COMMAND, "args": ARGS}, "idle": {"command": COMMAND, "args": ARGS}}
    directory = tmp_path_factory.mktemp("flw")
    with running_gateway(tools, directory=directory, settings=settings, options=["--flower"]) as found:
        yield found


@pytest.fixture(scope="module")
def flower(gateway: RunningGateway, port: int) -> Iterator[httpx.Client]:
    """A browser of somebody who has a token; two calls have been made."""
    client = modern(gateway.tool_url("local"))
    client.headers["authorization"] = f"Bearer {'k' * 20}"
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=("anybody", TOKEN), timeout=30) as browser:
        client.text("echo", {"text": CANARY})
        client.post("tools/call", {"name": "fail", "arguments": {"text": CANARY}})
        yield browser


def calls(flower: httpx.Client) -> list[dict[str, Any]]:
    """The rows of the list of calls that are ours, once both have ended."""

    def ended() -> list[dict[str, Any]]:
        rows = flower.post("/tasks/datatable", data=ROWS).json()["data"]
        found = [row for row in rows if row["state"] == "SUCCESS" and row["canalgate_tenant"]]
        return found if len(found) >= 2 else []

    return wait_until(ended, timeout=20, description="both calls to be shown")


def test_a_call_is_seen_with_tool_tenant_request_id_state_and_time(flower: httpx.Client) -> None:
    """In the list, on its own page and in the API."""
    row = calls(flower)[0]
    assert row["name"] == "local tools/call"
    assert row["canalgate_tenant"] == "acme"
    assert row["canalgate_client"] == CLIENT
    assert row["canalgate_request_id"]
    assert row["routing_key"] == "tool.local"
    assert row["worker"].startswith("worker1@")
    assert row["runtime"] > 0
    page = flower.get(f"/task/{row['uuid']}")
    assert page.status_code == 200
    for text in ("local tools/call", "acme", "robot&lt;", "SUCCESS", "tool.local"):
        assert text in page.text
    assert flower.get(f"/api/task/info/{row['uuid']}").json()["canalgate_tool"] == "local"
    assert "Tenant" in flower.get("/tasks").text


def test_every_column_can_be_asked_for_in_order(flower: httpx.Client) -> None:
    """The page lets its reader click on each of them."""
    for column in calls(flower)[0]:
        assert flower.post("/tasks/datatable", data=ROWS | {"columns[0][data]": column}).status_code == 200, (
            column
        )


def test_workers_and_queues_are_shown_as_they_are(flower: httpx.Client) -> None:
    """The worker is online; each tool has its queue, and nothing waits."""

    def online() -> bool:
        workers = flower.get("/workers", params={"json": "1", "refresh": "1"}).json()["data"]
        return [worker["status"] for worker in workers if worker["hostname"].startswith("worker1@")] == [True]

    wait_until(online, timeout=20, description="the worker to be online")
    lengths = {
        queue["name"]: queue["messages"] for queue in flower.get("/api/queues/length").json()["active_queues"]
    }
    assert {"tool.local", "tool.idle"} <= lengths.keys()
    assert lengths["tool.local"] == 0
    assert "tool.idle" in flower.get("/broker").text
    (name,) = [
        name for name in flower.get("/api/workers", params={"refresh": "1"}).json() if "worker1@" in name
    ]
    page = flower.get(f"/worker/{name}")
    assert page.status_code == 200
    assert "tool.local" in page.text
    assert "tab-limits" not in page.text
    assert 'type="number"' not in page.text


def test_nothing_shown_holds_an_argument_or_a_secret(flower: httpx.Client) -> None:
    """Whatever page one opens."""
    rows = calls(flower)
    (name,) = [
        name for name in flower.get("/api/workers", params={"refresh": "1"}).json() if "worker1@" in name
    ]
    paths = (
        "/",
        "/workers",
        "/tasks",
        "/broker",
        "/api/tasks",
        "/api/workers",
        "/api/task/types",
        f"/worker/{name}",
    )
    shown = [flower.get(path) for path in (*paths, *(f"/task/{row['uuid']}" for row in rows))]
    assert {answer.status_code for answer in shown} == {200}
    everything = "".join(answer.text for answer in shown) + str(rows)
    for secret in (CANARY, TOKEN, "k" * 20):
        assert secret not in everything
    assert "broker_url" not in everything


def test_a_browser_shows_the_pages_whole(flower: httpx.Client, tmp_path: Path) -> None:
    """Rows that its scripts fetch, nothing that our rules for content keep from it, and nothing that changes."""
    seen = {row["uuid"]: row for row in calls(flower)}
    (name,) = [
        name for name in flower.get("/api/workers", params={"refresh": "1"}).json() if "worker1@" in name
    ]
    call = next(iter(seen))
    wanted = {
        "tasks": (*seen, "acme", "robot", "tool.local"),
        f"task/{call}": (call, "&lt;redacted&gt;"),
        "workers": (name, "Online"),
        f"worker/{name}": ("EnginePool",),
        "broker": ("tool.local", "tool.idle"),
    }
    for path, texts in wanted.items():
        page, complaints = browsed(flower, path, tmp_path)
        for text in texts:
            assert text in page, (path, text)
        assert CANARY not in page
        assert "<form" not in page
        for word in ("Refused to", "Content Security Policy", "Uncaught"):
            assert word not in complaints, complaints
        buttons = set(re.findall(r'<button[^>]* class="([\w-]+)', page))
        assert buttons <= HARMLESS, path


HARMLESS = {"navbar-toggler", "task-state-filter", "nav-link", "dropdown-item", "task-uuid-copy"}
"""The menu, the theme, which calls are shown, a copy of an id."""


def browsed(flower: httpx.Client, path: str, home: Path) -> tuple[str, str]:
    """What a browser makes of a page, and what it says of it. Skips, loudly, without one."""
    browser = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium"))), None)
    if browser is None:
        pytest.skip("NO CHROMIUM HERE: Flower is not seen by a browser (Debian: apt install chromium)")
    options = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={home}",
    )
    url = f"http://eye:{TOKEN}@127.0.0.1:{flower.base_url.port}/{path}"
    done = subprocess.run(
        [browser, *options, "--virtual-time-budget=8000", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr


def test_a_page_is_nobody_elses_and_runs_nothing_that_a_client_named(flower: httpx.Client) -> None:
    """No other site frames or reads it, and a name that is HTML is shown as it is."""
    (uuid, *_) = (row["uuid"] for row in calls(flower))
    for path in ("/", "/tasks", f"/task/{uuid}", "/api/workers", "/nothing"):
        answer = flower.get(path, headers={"Origin": "https://evil.example"})
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        scripts = policy.partition("script-src ")[2].partition(";")[0].split()
        assert [word.partition("-")[0] for word in scripts] == ["'self'", "'sha256"]
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert "<img src=x>" not in answer.text or answer.headers["content-type"].startswith(
            "application/json"
        )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/worker/shutdown/x"),
        ("POST", "/api/worker/pool/grow/x"),
        ("POST", "/api/worker/pool/shrink/x"),
        ("POST", "/api/worker/pool/restart/x"),
        ("POST", "/api/worker/pool/autoscale/x"),
        ("POST", "/api/worker/queue/add-consumer/x"),
        ("POST", "/api/worker/queue/cancel-consumer/x"),
        ("POST", "/api/task/apply/gateway.invoke"),
        ("POST", "/api/task/async-apply/gateway.invoke"),
        ("POST", "/api/task/send-task/gateway.invoke"),
        ("POST", "/api/task/abort/x"),
        ("POST", "/api/task/timeout/gateway.invoke"),
        ("POST", "/api/task/rate-limit/gateway.invoke"),
        ("POST", "/api/task/revoke/x"),
        ("GET", "/api/task/result/x"),
        ("GET", "/metrics"),
        ("GET", "/login"),
        ("POST", "/workers"),
        ("PUT", "/tasks/datatable"),
        ("DELETE", "/task/x"),
    ],
)
def test_nothing_can_be_changed_nor_a_result_be_read(flower: httpx.Client, method: str, path: str) -> None:
    """With a good token, too."""
    assert flower.request(method, path).status_code in (403, 404)


@pytest.mark.parametrize(
    "path", ["/", "/tasks", "/api/tasks", "/api/queues/length", "/static/js/flower.js", "/nothing"]
)
@pytest.mark.parametrize("auth", [None, ("eye", "wrong"), (TOKEN, "")])
def test_nobody_looks_without_a_token(flower: httpx.Client, path: str, auth: tuple[str, str] | None) -> None:
    """A browser is asked for one."""
    answer = httpx.get(f"{flower.base_url}{path}", auth=auth)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")


def test_the_token_is_taken_as_a_bearer_too(flower: httpx.Client) -> None:
    """As the admin API takes it."""
    answer = httpx.get(f"{flower.base_url}/api/task/types", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert httpx.get(f"{flower.base_url}/healthcheck").text == "OK"


def test_alone_it_needs_a_token_to_ask_for(tmp_path: Path) -> None:
    """``canalgate flower`` with settings that list none ends, and says what to do."""
    config = tmp_path / "canalgate.yaml"
    config.write_text("redis: {url: 'redis://127.0.0.1:1/0'}\n")
    command = [*gateway_command(), "flower", "--config", str(config)]
    with running(command, log=tmp_path / "log", remove="CANALGATE_") as process:
        wait_until(lambda: process.popen.poll() is not None, timeout=30, description="it to end")
    assert "admin.tokens" in (tmp_path / "log").read_text()


def test_a_token_that_is_listed_later_is_taken_at_a_hangup(
    gateway: RunningGateway, flower: httpx.Client
) -> None:
    """``canalgate up`` passes the signal on; the tokens of before that are still listed hold."""
    settings = yaml.safe_load(gateway.config.read_text())
    settings["admin"]["tokens"].append({"name": "later", "token": "a-token-that-is-listed-later"})
    gateway.config.write_text(yaml.safe_dump(settings))

    def known(token: str) -> bool:
        return httpx.get(f"{flower.base_url}/api/task/types", auth=("x", token)).status_code == 200

    assert not known("a-token-that-is-listed-later")
    gateway.process.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: known("a-token-that-is-listed-later"), timeout=20, description="the token to be known")
    assert known(TOKEN)
