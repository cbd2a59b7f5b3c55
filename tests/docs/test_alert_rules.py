"""What is in ``deploy/monitoring`` for Prometheus, read by Prometheus' own tool."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from tests.support.prometheus import MONITORING, TOKEN, checked

HERE = Path(__file__).parent


def test_the_configuration_and_the_rules_are_prometheus_own(tmp_path: Path) -> None:
    """As it is delivered, but for the place of the token."""
    text = (MONITORING / "prometheus.yml").read_text()
    secret = "/run/secrets/metrics_token"
    assert secret in text
    (tmp_path / "token").write_text(TOKEN)
    shutil.copy(MONITORING / "alerts.yml", tmp_path)
    (tmp_path / "prometheus.yml").write_text(text.replace(secret, str(tmp_path / "token")))
    checked("check", "config", tmp_path / "prometheus.yml")
    assert "14 rules found" in checked("check", "rules", MONITORING / "alerts.yml")


def test_each_alert_fires_in_its_condition_and_is_silent_beside_it(tmp_path: Path) -> None:
    """By the unit tests of the rules, of which each alert has one of either kind."""
    for file in (MONITORING / "alerts.yml", HERE / "alerts.test.yml"):
        shutil.copy(file, tmp_path)
    checked("test", "rules", tmp_path / "alerts.test.yml")


def test_each_alert_has_a_test_that_it_fires_and_one_that_it_does_not() -> None:
    """Whoever adds one adds its tests."""
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    fires, silent = set(), set()
    for test in yaml.safe_load((HERE / "alerts.test.yml").read_text())["tests"]:
        for case in test["alert_rule_test"]:
            assert case["alertname"] == test["name"]
            (fires if case.get("exp_alerts") else silent).add(test["name"])
    assert fires == silent == {rule["alert"] for rule in group["rules"]}
