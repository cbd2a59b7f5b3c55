"""Prometheus' own programs, and what ``deploy/monitoring`` has for them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
TOKEN = "of-the-metrics-0123456789"


def program(name: str) -> str:
    """Where it is; the test is skipped where it is not, and says so."""
    found = shutil.which(name)
    if found is None:
        pytest.skip("NO PROMETHEUS HERE: alert rules are not run (Debian: apt install prometheus)")
    return found


def checked(*words: str | Path) -> str:
    """What promtool says; the test fails with it if it finds a fault."""
    done = subprocess.run(
        [program("promtool"), *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def configured(directory: Path, target: str = "web:8080") -> Path:
    """The configuration with its rules, the token's file and the gateway at their places here, and asking often."""
    told = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    (directory / "token").write_text(TOKEN)
    (job,) = told["scrape_configs"]
    job["authorization"]["credentials_file"] = str(directory / "token")
    job["static_configs"] = [{"targets": [target]}]
    told["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    shutil.copy(MONITORING / "alerts.yml", directory)
    (directory / "prometheus.yml").write_text(yaml.safe_dump(told))
    return directory / "prometheus.yml"
