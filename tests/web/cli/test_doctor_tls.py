"""``canalgate doctor`` says what is wrong with TLS."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from common.settings import load
from gateway_web.cli.doctor_tls import tls_findings
from tests.support.certificates import Authority


def found(tmp_path: Path, **sections: object) -> list[tuple[bool, str]]:
    file = tmp_path / "canalgate.yaml"
    file.write_text(yaml.safe_dump(sections))
    return [(finding.good, finding.text) for finding in tls_findings(load(file, {}))]


def test_files_that_can_be_used_are_good(tmp_path: Path) -> None:
    """Those of Redis and of each tool that names any."""
    ca = Authority(tmp_path)
    mine = ca.issue("me", usage="client")
    keys = {"tls_ca_file": str(ca.file), "tls_cert_file": str(mine.both)}
    tools = {"a": {"url": "https://h/", **keys}, "b": {"url": "https://h/"}, "c": {"command": "x"}}
    assert found(tmp_path, redis={"url": "rediss://h/0", **keys}, tools=tools) == [
        (True, "redis: TLS files can be read"),
        (True, "tool a: TLS files can be read"),
    ]


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """With the reason."""
    gone = str(tmp_path / "gone.pem")
    tools = {"a": {"url": "https://h/", "tls_ca_file": gone}}
    assert found(tmp_path, redis={"url": "rediss://h/0", "tls_cert_file": gone}, tools=tools) == [
        (False, f"redis: TLS: {gone}: No such file or directory"),
        (False, f"tool a: TLS: {gone}: No such file or directory"),
    ]


@pytest.mark.parametrize(
    "query", ["ssl_cert_reqs=none", "ssl_cert_reqs=optional", "ssl_check_hostname=false"]
)
def test_a_redis_that_is_not_asked_who_it_is_is_bad(tmp_path: Path, query: str) -> None:
    """The URL can switch the check off; nobody should forget that it does."""
    ((good, text),) = found(tmp_path, redis={"url": f"rediss://:hunter2@h/0?{query}"})
    assert not good
    assert "not checked" in text
    assert "hunter2" not in text
