"""Alert rules and the dashboard ask for figures that there are, and each alert leads to a section on its cause."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from common.domain.circuit import CircuitState
from common.domain.errors import ErrorCode
from common.domain.tool import ToolState
from common.metrics.figures import Figures
from common.metrics.names import METRICS, OF_PROCESSES, PROCESS
from common.metrics.page import Page
from common.store.client import StoreAddress, connect
from common.store.keys import Keys

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
_NAME = re.compile(r"\bcanalgate_[a-z_]+")
_BY = re.compile(r"by \(([^)]*)\)")
_MATCHER = re.compile(r'([a-z_]+)(?:=|!=|=~|!~)"([^"]*)"')
VALUES = {
    "canalgate_tool_state": {state.value for state in ToolState},
    "canalgate_tool_circuit_state": {state.value for state in CircuitState},
    "canalgate_calls_total": {"ok", "tool_error", "rpc_error", *(code.value for code in ErrorCode)},
    "canalgate_credential_cache_total": {"hit", "miss"},
    "canalgate_credential_answers_total": {"found", "missing", "failed", "refused"},
    "canalgate_refusals_total": {code.value for code in ErrorCode},
}


OF_PROMETHEUS = 'up{job="canalgate"} == 0'
"""Its own figure, of the job that ``prometheus.yml`` names."""


def rules() -> list[dict[str, str]]:
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return list(group["rules"])


def queries() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    for panel in orjson.loads((MONITORING / "dashboard.json").read_bytes())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


@pytest.fixture(scope="module")
def families() -> dict[str, str]:
    """Name and kind of each family on a page; it has all of them, also those without a sample."""
    client = connect(StoreAddress(url="redis://127.0.0.1:1/0", connect_timeout=0.2), size=1)
    text = Page(client, Keys(), Figures("p")).text().decode()
    return {family.name: family.type for family in text_string_to_metric_families(text)}


def of_family(name: str, families: dict[str, str]) -> str:
    """The family that a sample of this name belongs to; it fails if there is none."""
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    for family, kind in families.items():
        if any(name == family + ending for ending in endings[kind]):
            return family
    raise AssertionError(f"{name} is on no page")


@pytest.mark.parametrize("query", list(queries()))
def test_what_is_asked_for_is_on_the_page(query: str, families: dict[str, str]) -> None:
    """Name, labels, and the values that labels are compared with."""
    names = _NAME.findall(query)
    assert names or query == OF_PROMETHEUS
    for name in names:
        family = of_family(name, families)
        labels = {*METRICS[family].labels, *((PROCESS,) if family in OF_PROCESSES else ()), "le"}
        asked = {label.strip() for group in _BY.findall(query) for label in group.split(",")}
        compared = _MATCHER.findall(query)
        assert asked | {label for label, _ in compared} <= labels, query
        for _, values in compared:
            assert set(values.split("|")) <= VALUES[name], query


def test_each_alert_has_a_section_that_leads_to_its_cause() -> None:
    """By its name, in the chapter on alerts; and no section is left of one that is gone."""
    chapter = (
        (ROOT / "docs" / "operations.md").read_text().partition("\n## Alerts\n")[2].partition("\n## ")[0]
    )
    assert re.findall(r"^### (\w+)$", chapter, re.MULTILINE) == [rule["alert"] for rule in rules()]


def test_the_rules_are_those_that_prometheus_is_told_to_read() -> None:
    """And it scrapes the path that the web processes serve."""
    told = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    assert [(MONITORING / name).exists() for name in told["rule_files"]] == [True]
    (job,) = told["scrape_configs"]
    assert job.get("metrics_path", "/metrics") == "/metrics"
    assert f'job="{job["job_name"]}"' in OF_PROMETHEUS
