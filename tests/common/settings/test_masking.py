"""The effective configuration for people shows everything but the secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from common.domain.tool import MASK
from common.settings import Settings, load, masked
from common.settings.entry import HttpEntry, StdioEntry
from common.settings.fields import masked_url
from common.settings.secrecy import masked_args, means_secret

SECRET = "hunter2"
FILE = f"""
redis: {{url: "redis://me:{SECRET}@h/0?password={SECRET}"}}
identity: {{resolver: api_key, api_keys: [{{key: {SECRET}, tenant: t, client: c}}]}}
telemetry: {{headers: "authorization=Bearer {SECRET}"}}
tools:
  a: {{command: x, args: [--token, {SECRET}, --api-key={SECRET}, --port, 80], env: {{K: {SECRET}}}}}
  b: {{url: "http://u:{SECRET}@h/mcp?key={SECRET}", headers: {{X-Any: {SECRET}}}}}
  bad: {{url: {SECRET}}}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    file = tmp_path / "c.yaml"
    file.write_text(FILE)
    return load(file, {})


def test_no_secret_is_shown(settings: Settings) -> None:
    """Wherever it stood in the file."""
    shown = yaml.safe_dump(masked(settings))
    assert SECRET not in shown
    assert MASK in shown


def test_all_else_is_shown(settings: Settings) -> None:
    """Names, structure and defaults stay readable."""
    shown = masked(settings)
    assert shown["redis"]["url"] == f"redis://me:{MASK}@h/0?password={MASK}"
    assert shown["identity"]["api_keys"] == [
        {"key": MASK, "tenant": "t", "client": "c", "subject": None, "scopes": []}
    ]
    assert shown["tools"]["a"]["args"] == ["--token", MASK, f"--api-key={MASK}", "--port", "80"]
    assert shown["tools"]["a"]["env"] == {"K": MASK}
    assert shown["tools"]["b"]["url"] == f"http://u:{MASK}@h/mcp?key={MASK}"
    assert shown["tools"]["b"]["headers"] == {"X-Any": MASK}
    assert list(shown["tool_problems"]) == ["bad"]
    assert shown["telemetry"]["headers"] == MASK
    assert shown["web"]["port"] == 8080


def test_what_is_shown_is_a_configuration(tmp_path: Path) -> None:
    """Without secrets and problems it can be read back and means the same."""
    file = tmp_path / "c.yaml"
    file.write_text(
        "web: {port: 1}\ntenants: {listed: [a, {id: b, max_sessions: 2}], max_sessions: 9}\n"
        "tools:\n"
        "  a: {command: x, enabled: false, limit_open_files: 64, retry: safe, affinity: mcp_session}\n"
        "  b: {url: 'http://h', routing: least_loaded, pool_size: 2, max_in_flight: 3, health_interval: 0}\n"
        "  c: {command: x, max_session_age: 9, circuit_failures: 1, trust_annotations: true}\n"
    )
    settings = load(file, {})
    file.write_text(yaml.safe_dump(masked(settings)))
    assert load(file, {}) == settings


def test_every_key_of_a_tool_is_shown(settings: Settings) -> None:
    """Those of its kind; ``type`` is said by the others, and without a pool there is no size of one."""
    first, second = masked(settings)["tools"].values()
    assert set(first) == set(StdioEntry.model_fields) - {"type", "pool_size"}
    assert set(second) == set(HttpEntry.model_fields) - {"type", "pool_size"}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h/0", "redis://h/0"),
        ("redis://:p@h:1", f"redis://:{MASK}@h:1"),
        ("redis://u@h", "redis://u@h"),
        ("unix:///run/s?db=1", f"unix:///run/s?db={MASK}"),
        ("http://u:p@q@h/", f"http://u:{MASK}@h/"),
        ("http://[::1", MASK),
        ("http://h/#t", f"http://h/#{MASK}"),
        ("http://h?a=1&b&c=", f"http://h?a={MASK}&{MASK}&c={MASK}"),
        ("http://[::1]:80/@x/y", "http://[::1]:80/@x/y"),
        ("redis://u:p/q@h", MASK),
        ("redis://u:p?q@h", MASK),
        ("redis://u:p#q@h", MASK),
        ("u:p@h", MASK),
    ],
)
def test_a_url_loses_its_password_and_query_values(url: str, shown: str) -> None:
    """What cannot be taken apart is hidden whole."""
    assert masked_url(url) == shown


@pytest.mark.parametrize(
    "name",
    [
        "API_KEY",
        "apikey",
        "apiKey",
        "x-api-key",
        "AUTH_TOKEN",
        "githubToken",
        "GITHUB_PAT",
        "password",
        "DB_PASS",
        "pwd",
        "client-secret",
        "Authorization",
        "Cookie",
        "SENTRY_DSN",
        "PRIVATE_KEY",
        "X-Auth-Key",
        "--token",
        "JWT",
        "AWS_SECRET_ACCESS_KEY_ID_2",
    ],
)
def test_these_names_mean_a_secret(name: str) -> None:
    """Capitals, hyphens and underscores divide words."""
    assert means_secret(name)


@pytest.mark.parametrize(
    "name", ["PATH", "PORT", "HOME", "LOG_LEVEL", "--verbose", "X-Tenant", "PATTERN", "", "5"]
)
def test_these_names_do_not(name: str) -> None:
    """Everyday names stay readable."""
    assert not means_secret(name)


def test_the_argument_after_a_secret_option_is_hidden() -> None:
    """Also if it looks like an option itself."""
    assert masked_args(["--token", "-x", "y", "--key=a=b", "--token"]) == [
        "--token",
        MASK,
        "y",
        f"--key={MASK}",
        "--token",
    ]
