"""A package that is really installed brings one class of each kind: a gateway and the doctor know them by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.mcp import RawClient, modern
from tests.support.servers.gateway import RunningGateway, gateway_command, running_gateway
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
SOURCE = Path(__file__).parents[1] / "support" / "plugin_package"
INSTALL = "pip install --quiet --no-deps --no-build-isolation --no-index --no-cache-dir --target"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is; built from a copy, and from nothing that is elsewhere."""
    place = tmp_path_factory.mktemp("plug")
    source = shutil.copytree(SOURCE, place / "source", ignore=shutil.ignore_patterns("__pycache__"))
    target = place / "site"
    command = [sys.executable, "-m", *INSTALL.split(), str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert (target / "sample_plugins-1.dist-info" / "entry_points.txt").exists()
    return target


def settings_of(place: Path, name: str = "sample") -> dict[str, Any]:
    """One of each kind, by its name."""
    return {
        "identity": {"resolver": ["sample"]},
        "tenants": {"allow_unlisted": True},
        "policy": {
            "evaluators": [
                {"id": "texts", "type": "custom", "implementation": name, "options": {"denied": "psst"}}
            ],
            "evaluator": "texts",
        },
        "credentials": {"providers": [name]},
        "audit": {
            "sinks": [{"name": "kinds", "type": name, "options": {"path": str(place / "kinds.jsonl")}}]
        },
        "sources": {
            "listed": [{"name": "more", "type": name, "options": {"tools": {"found": {"factory": "sample"}}}}]
        },
        "egress": {"allowed_factories": ["sample"]},
    }


def tools_of(name: str = "sample") -> dict[str, Any]:
    return {"own": {"factory": name, "credentials": {"inject": {"secrets": {"key": "key"}}}}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gw")


@pytest.fixture(scope="module")
def gateway(installed: Path, place: Path) -> Iterator[RunningGateway]:
    env = {"PYTHONPATH": _path(installed)}
    with running_gateway(tools_of(), directory=place, settings=settings_of(place), env=env) as found:
        yield found


def _path(installed: Path) -> str:
    return os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])


def client_of(gateway: RunningGateway, tool: str, who: str = "acme/bot") -> RawClient:
    return modern(gateway.tool_url(tool), **{"x-sample": who})


def test_a_gateway_uses_all_of_them(gateway: RunningGateway, place: Path) -> None:
    """Who calls, whether he may, with which key, by which way, what is kept of it, and what else there is to call."""
    assert client_of(gateway, "own").text("say", {"text": "hello"}) == "hello key-of-acme"
    assert client_of(gateway, "own", "globex/bot").text("say", {"text": "hello"}) == "hello key-of-globex"
    asked = {"name": "say", "arguments": {"text": "psst"}}
    assert modern(gateway.tool_url("own")).post("tools/call", asked).status_code == 401
    denied = client_of(gateway, "own").post("tools/call", asked).json()["error"]
    assert "this text is denied" in denied["message"]
    found, said = client_of(gateway, "found"), {"name": "say", "arguments": {"text": "x"}}
    wait_until(
        lambda: "result" in found.post("tools/call", said).json(), timeout=30, description="the source's tool"
    )
    assert found.text("say", {"text": "hello"}) == "hello no key"
    kinds = place / "kinds.jsonl"
    wait_until(
        lambda: kinds.exists() and "invocation_complete" in kinds.read_text(encoding="utf-8"),
        timeout=30,
        description="a call in the sink",
    )


def doctor(installed: Path, place: Path, settings: dict[str, Any]) -> str:
    """What it says, in one line."""
    config = place / "doctor.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    env = {
        **os.environ,
        "PYTHONPATH": _path(installed),
        "CANALGATE_STATE_DIR": str(place / "none"),
        "COLUMNS": "500",
    }
    command = [*gateway_command(), "doctor", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=env)
    return " ".join((done.stdout + done.stderr).split())


def test_the_doctor_makes_all_of_them(installed: Path, tmp_path: Path) -> None:
    said = doctor(installed, tmp_path, {**settings_of(tmp_path), "tools": tools_of()})
    for words in (
        "credentials.providers: sample is there",
        "audit.sinks: kinds (sample) is there",
        "sources.listed: more (sample) is there",
        "tool own: sample is there",
    ):
        assert words in said
    assert "is unknown" not in said
    assert "cannot be" not in said


def test_an_unknown_name_is_told_with_those_known(installed: Path, tmp_path: Path) -> None:
    """Each with the names of its own kind."""
    said = doctor(installed, tmp_path, {**settings_of(tmp_path, "smaple"), "tools": tools_of("smaple")})
    known = "installed packages bring sample (entry points canalgate.{})"
    for words in (
        f"policy evaluator 'texts': 'smaple' is unknown: {known.format('policy')}",
        "credentials.providers: 'smaple' is unknown: built in are ",
        known.format("credentials"),
        "audit.sinks: type 'smaple' is unknown: built in are file, ",
        known.format("audit"),
        f"source 'more': type 'smaple' is unknown: built in are file, kubernetes; {known.format('discovery')}",
        f"tool own: factory 'smaple' is unknown: {known.format('executors')}",
    ):
        assert words in said
    wrong = {**settings_of(tmp_path), "identity": {"resolver": ["smaple"]}}
    assert "canalgate.identity: sample" in doctor(installed, tmp_path, wrong)
