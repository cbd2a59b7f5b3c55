"""Each example is started as its README says, and shows what its README says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from common.settings import load
from tests.examples.readme import EXAMPLES, commands, environment, hold
from tests.support.otlp_collector import collector
from tests.support.servers.gateway import START_TIMEOUT, gateway_command
from tests.support.servers.process import free_port, running
from tests.support.wait import wait_until

FOLDERS = sorted(path.name for path in EXAMPLES.iterdir() if (path / "README.md").is_file())
ALONE = ["header-identity", "minimal", "policy-and-admin", "quotas"]
"""Those that need nothing beside the gateway."""


def test_the_index_names_each() -> None:
    """And nothing that is not there."""
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\(([a-z-]+)/README\.md\)", text)) == FOLDERS


@pytest.mark.parametrize("name", FOLDERS)
def test_its_settings_are_good(name: str) -> None:
    """Without a variable set."""
    settings = load(EXAMPLES / name / "canalgate.yaml", {})
    assert settings.tools
    assert settings.tool_problems == ()


def test_the_full_file_is_checked_as_its_readme_says() -> None:
    """By the command line, without a gateway."""
    for command in commands("full"):
        hold(command, environment(), {})


@contextmanager
def up(name: str, directory: Path, **values: str) -> Iterator[tuple[dict[str, str], int]]:
    """The example's gateway; what its commands have in their environment, and its port."""
    port = free_port()
    env = environment(CANALGATE_STATE_DIR=str(directory / "s"), **values)
    config = f"examples/{name}/canalgate.yaml"
    command = [*gateway_command(), "up", "--config", config, "--port", str(port)]
    with running(command, log=directory / "up.log", env=env, remove="CANALGATE_") as process:
        process.line_beginning("ready", timeout=START_TIMEOUT)
        yield env, port


@contextmanager
def remote(directory: Path) -> Iterator[str]:
    """The demo server behind HTTP; its port."""
    port = free_port()
    words = [sys.executable, "-m", "gateway_worker.demo_server", "--port", str(port)]
    log = directory / "remote.log"
    with running(words, log=log) as process:
        wait_until(lambda: "running on" in process.output(), timeout=30, description="the remote server")
        yield str(port)


@pytest.mark.e2e
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ALONE)
def test_it_shows_what_its_readme_says(name: str, tmp_path: Path) -> None:
    """Command for command."""
    with up(name, tmp_path) as (env, port):
        for command in commands(name):
            hold(command, env, {8080: port})


@pytest.mark.e2e
@pytest.mark.timeout(120)
def test_every_call_of_audited_http_is_in_the_file(tmp_path: Path) -> None:
    """Also one of what the server does not have."""
    journal = tmp_path / "audit.jsonl"
    with (
        remote(tmp_path) as at,
        up("audited-http", tmp_path, REMOTE_PORT=at, AUDIT_FILE=str(journal)) as (env, port),
    ):
        for command in commands("audited-http"):
            hold(command, env, {8080: port})
        wait_until(
            lambda: (
                journal.exists() and all(f'"{name}"' in journal.read_text() for name in ("add", "nothing"))
            ),
            description="the calls in the file",
        )


@pytest.mark.e2e
@pytest.mark.timeout(120)
def test_the_hub_is_all_of_it_together(tmp_path: Path) -> None:
    """With a collector, which is told of the calls."""
    with (
        collector() as spans,
        remote(tmp_path) as at,
        up(
            "ai-hub",
            tmp_path,
            SEARCH_PORT=at,
            AUDIT_FILE=str(tmp_path / "hub.jsonl"),
            TRACES="otlp_http",
            COLLECTOR=spans.http_url,
        ) as (env, port),
    ):
        for command in commands("ai-hub"):
            hold(command, env, {8080: port})
        wait_until(
            lambda: any(span.name.startswith("tools/call") for span in spans.spans),
            description="a call's span",
        )
        wait_until(
            lambda: '"research"' in (tmp_path / "hub.jsonl").read_text(),
            description="the journal in the file",
        )


def test_the_compose_file_of_the_cluster_is_one() -> None:
    """Two web services and three workers, valid against the Compose specification."""
    file = EXAMPLES / "cluster" / "docker-compose.yml"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()
    services = yaml.safe_load(file.read_text(encoding="utf-8"))["services"]
    assert {"web-1", "web-2"} < services.keys()
    assert services["worker"]["deploy"]["replicas"] == 3
