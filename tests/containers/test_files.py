"""What can be told of the container files without building them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.settings import load

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MONITORS = ("prometheus", "grafana", "collector")
PROGRAMS = sorted(name for name, service in COMPOSE["services"].items() if "build" in service)


def test_the_dockerfile_has_no_known_fault() -> None:
    """hadolint finds nothing."""
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), ROOT / "Dockerfile"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout.decode()


def test_the_compose_file_is_one() -> None:
    """It is valid against the Compose specification."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, ROOT / "docker-compose.yml"], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_may_do_nothing_it_need_not(name: str) -> None:
    """No capabilities, no new privileges, nothing to write but memory, bounded memory."""
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["mem_limit"]
    assert "privileged" not in service


def test_only_loopback_is_published() -> None:
    """Whoever wants more says so."""
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_keys_of_callers_are_not_given_to_workers() -> None:
    """A worker runs other people's programs; it has no use for the keys."""
    workers = [service for name, service in COMPOSE["services"].items() if name.startswith("worker")]
    assert workers
    for worker in workers:
        assert not [name for name in worker["environment"] if "IDENTITY" in name]


def test_a_worker_may_drain_before_it_is_killed() -> None:
    """``stop_grace_period`` is above ``worker.drain_timeout``."""
    grace = int(COMPOSE["services"]["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace > load(ROOT / "deploy/container/canalgate.yaml", {}).worker.drain_timeout


def test_every_variable_of_the_compose_file_is_in_the_example() -> None:
    """And no other."""
    text = (ROOT / "docker-compose.yml").read_text()
    used = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", text))
    passed_on = [service.get("environment", {}) for service in COMPOSE["services"].values()]
    used |= {name for variables in passed_on for name, value in variables.items() if value is None}
    told = set(re.findall(r"(?m)^#?([A-Z_]+)=", (ROOT / ".env.example").read_text()))
    assert used == told


def test_the_images_install_what_the_lock_file_names() -> None:
    """Each version of the images' lock file is that of the tests'."""

    def versions(path: Path) -> dict[str, str]:
        return dict(re.findall(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^ ;\\]+)", path.read_text()))

    images, tests = versions(ROOT / "deploy/requirements.lock"), versions(ROOT / "requirements.lock")
    assert images
    assert images.items() <= tests.items()


def test_the_images_run_as_nobody_in_particular() -> None:
    """The last USER is neither root nor a name that only the image knows."""
    assert re.findall(r"(?m)^USER (.*)$", DOCKERFILE)[-1] == "10001:10001"


def test_the_health_checks_start_no_python() -> None:
    """They run every few seconds."""
    for name in ("healthy-web", "healthy-worker"):
        script = (ROOT / "deploy/container" / name).read_text()
        assert re.match(r"#!/bin/(ba)?sh\n", script)
        assert "python" not in re.sub(r"(?m)^#.*$", "", script)


def test_images_of_others_are_pinned() -> None:
    """To a version, so that what runs is what was tried."""
    others = [service["image"] for name, service in COMPOSE["services"].items() if name not in PROGRAMS]
    assert others
    for image in others:
        assert re.search(r":-[a-z.]+/[a-z/-]+:v?\d+\.\d+(\.\d+)?\}$", image), image


def test_every_file_that_is_mounted_is_there() -> None:
    """Where Compose finds none, it makes a directory."""
    mounted = [volume.split(":")[0] for name in MONITORS for volume in COMPOSE["services"][name]["volumes"]]
    files = [name for name in mounted if name.startswith("./")]
    assert len(files) == 6
    assert all((ROOT / name).is_file() for name in files)


@pytest.mark.parametrize("name", [*MONITORS, "flower"])
def test_monitoring_is_wanted_or_not_there(name: str) -> None:
    """It runs with its profile alone, and may do nothing it need not."""
    service = COMPOSE["services"][name]
    assert service["profiles"] == ["monitoring"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]


def test_grafana_asks_the_prometheus_that_asks_the_gateway() -> None:
    """By the names of the services; the rules and the token are where it looks for them."""
    grafana = yaml.safe_load((ROOT / "deploy/monitoring/grafana/datasources.yml").read_text())
    (source,) = grafana["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((ROOT / "deploy/monitoring/grafana/dashboards.yml").read_text())["providers"]
    targets = [
        volume.removesuffix(":ro").rpartition(":")[2]
        for name in MONITORS
        for volume in COMPOSE["services"][name]["volumes"]
    ]
    assert f"{provider['options']['path']}/canalgate.json" in targets
    told = yaml.safe_load((ROOT / "deploy/monitoring/prometheus.yml").read_text())
    (job,) = told["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["web:8080"]}]
    assert job["authorization"]["credentials_file"] in targets
    assert {f"/etc/prometheus/{name}" for name in told["rule_files"]} <= set(targets)


def test_the_collector_takes_what_the_gateway_sends_and_shows_it() -> None:
    """What is piped is defined, what is defined is piped; the endpoint of the example is its own."""
    told = yaml.safe_load((ROOT / "deploy/monitoring/collector.yml").read_text())
    pipelines = told["service"]["pipelines"]
    assert set(pipelines) == {"traces", "metrics"}
    for kind in ("receivers", "processors", "exporters"):
        assert {name for pipe in pipelines.values() for name in pipe[kind]} == set(told[kind])
    service = COMPOSE["services"]["collector"]
    (command,) = service["command"]
    assert command.removeprefix("--config=") in [it.split(":")[1] for it in service["volumes"]]
    example = (ROOT / ".env.example").read_text()
    (url,) = re.findall(r"(?m)^#CANALGATE_TELEMETRY__ENDPOINT=(.*)$", example)
    port = told["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2]
    assert url == f"http://collector:{port}"
    settings = dict(re.findall(r"(?m)^#(CANALGATE_TELEMETRY__[A-Z_]+)=(.*)$", example))
    telemetry = load(ROOT / "deploy/container/canalgate.yaml", settings).telemetry
    assert (telemetry.exporter, telemetry.metrics_exporter) == ("otlp_http", "otlp_http")
    shown = told["exporters"]["prometheus"]["endpoint"].rpartition(":")[2]
    assert [port.rpartition(":")[2] for port in service["ports"]] == [shown]
    commented = (ROOT / "deploy/monitoring/prometheus.yml").read_text()
    assert f'#   static_configs: [{{targets: ["collector:{shown}"]}}]' in commented
    for program in PROGRAMS:
        assert set(settings) <= set(COMPOSE["services"][program]["environment"])
