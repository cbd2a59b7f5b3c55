"""What a running process takes over of other settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.domain.errors import ConfigurationError
from common.settings import Settings, changes, load
from common.settings.changes import Applies, applies, changes_between
from common.settings.model import SECTIONS

API_KEY = {"key": "k", "tenant": "t", "client": "c"}
OTHER_KEY = {"key": "other", "tenant": "t", "client": "c"}
JWT = {"issuer": "https://i.example", "jwks": "/keys.json", "audience": ["us"], "tenant": "t"}
OF_TOOLS = {
    "request_timeout": 7.0,
    "startup_timeout": 7.0,
    "idle_timeout": 7.0,
    "queue_max_length": 7,
    "queue_max_age": 7.0,
    "circuit_failures": 7,
    "circuit_open_for": 7.0,
    "circuit_probes": 7,
    "health_interval": 77.0,
    "health_timeout": 3.5,
    "health_degraded_after": 0.7,
    "pinning": "quarantine",
    "approve_first": True,
    "hidden_characters": "reject",
}
"""Every key of ``runtime`` that is live, with a value that is not its default."""


def made(**sections: Any) -> Settings:
    return Settings.model_validate(sections)


def test_live_settings_are_taken_over_and_the_others_stay() -> None:
    """And each is named."""
    now = made(web={"max_body_bytes": 2000}, logging={"level": "info"}, runtime={"result_ttl": 5})
    wanted = made(
        web={"max_body_bytes": 3000}, logging={"level": "debug"}, runtime={"result_ttl": 6, "idle_timeout": 9}
    )
    found = changes_between(now, wanted)
    assert found.live == ("logging.level", "runtime.idle_timeout")
    assert found.restart == ("runtime.result_ttl", "web.max_body_bytes")
    assert found.settings.web.max_body_bytes == 2000
    assert found.settings.logging.level == "debug"
    assert (found.settings.runtime.result_ttl, found.settings.runtime.idle_timeout) == (5, 9)
    # Until the restart it is said each time.
    assert changes_between(found.settings, wanted).restart == found.restart
    assert changes_between(now, now).nothing


def test_a_tenant_s_null_is_not_the_same_as_no_key() -> None:
    """The one is no bound, the other the bound of all."""
    now = made(tenants={"max_calls": 5, "listed": [{"id": "a"}]})
    found = changes_between(now, made(tenants={"max_calls": 5, "listed": [{"id": "a", "max_calls": None}]}))
    assert found.live == ("tenants.listed",)
    assert dict(found.settings.tenants.layers["a"])["max_calls"] is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"resolver": "api_key", "api_keys": [API_KEY]}, {"resolver": "jwt", "jwt": JWT}),
        ({"resolver": "none"}, {"resolver": "none", "required_scopes": ["a"]}),
        (
            {"resolver": "jwt", "jwt": JWT},
            {"resolver": "jwt", "jwt": JWT, "oauth": {"resource": "https://g.example"}},
        ),
        (
            {"resolver": ["api_key", "none"], "api_keys": [API_KEY]},
            {"resolver": ["api_key", "none"], "api_keys": [OTHER_KEY], "default_tenant": "x"},
        ),
    ],
)
def test_identity_is_taken_over_as_a_whole_or_not_at_all(before: Any, after: Any) -> None:
    """Its parts lean on each other: a chain without what its resolvers need would let nobody in, or everybody."""
    now, wanted = made(identity=before), made(identity=after)
    found = changes_between(now, wanted)
    assert found.settings.identity == now.identity
    assert found.live == ()
    assert found.restart


HOST = {"host": "10.0.0.1", "trusted_proxies": ["10.0.0.2"]}
OF_CLIENTS = {"tls_cert_file": "/c", "tls_client_auth": "optional", "tls_client_ca_file": "/ca"}
HEADERS = {"resolver": "header"}
LISTENER = {"resolver": "mtls", "mtls": {"form": "listener", "tenant": "t"}}
XFCC = {"resolver": "mtls", "mtls": {"form": "xfcc", "tenant": "t"}}


@pytest.mark.parametrize(
    ("web", "other", "before", "after"),
    [
        (HOST, {**HOST, "trusted_proxies": ["10.0.0.3"]}, HEADERS, {**HEADERS, "subject_header": "X-Sub"}),
        (HOST, {**HOST, "host": "127.0.0.1"}, HEADERS, {**HEADERS, "subject_header": "X-Sub"}),
        ({}, {"trusted_proxies": ["10.0.0.2"]}, LISTENER, XFCC),
        ({}, OF_CLIENTS, XFCC, LISTENER),
        (OF_CLIENTS, {**OF_CLIENTS, "tls_client_auth": "required"}, LISTENER, XFCC),
        (OF_CLIENTS, {**OF_CLIENTS, "tls_client_ca_file": "/b"}, LISTENER, XFCC),
    ],
)
def test_identity_waits_with_whose_word_counts(web: Any, other: Any, before: Any, after: Any) -> None:
    """New rules about headers under the old proxies would believe whom nobody meant."""
    now = made(web=web, identity=before)
    found = changes_between(now, made(web=other, identity=after))
    assert found.settings == now
    assert found.live == ()
    assert [name for name in found.restart if name.startswith("identity.")]
    # Where that stays as it is, they are live.
    assert changes_between(made(web=other, identity=before), made(web=other, identity=after)).live


def test_what_would_hold_is_held_against_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is taken over and held back: a mixture that no file could be is refused."""
    monkeypatch.setattr(changes, "_BESIDE_IDENTITY", ())
    now = made(web={"host": "10.0.0.1"}, identity=LISTENER)
    with pytest.raises(ConfigurationError, match="restart"):
        changes_between(now, made(web=HOST, identity=XFCC))


def test_tools_are_told_apart_by_what_they_are(tmp_path: Path) -> None:
    """A secret that is another one makes another tool."""

    def read(**tools: Any) -> Settings:
        file = tmp_path / "canalgate.yaml"
        file.write_text(yaml.safe_dump({"tools": tools}))
        return load(file, {})

    now = read(a={"command": "x"}, b={"command": "x", "env": {"TOKEN": "1"}}, c={"command": "x"})
    found = changes_between(
        now, read(b={"command": "x", "env": {"TOKEN": "2"}}, c={"command": "x"}, d={"command": "x"})
    )
    assert (found.added, found.changed, found.removed) == (("d",), ("b",), ("a",))
    assert [tool.id for tool in found.settings.tools] == ["b", "c", "d"]


@pytest.mark.parametrize("key", OF_TOOLS)
def test_a_default_of_tools_changes_the_file_s_tools(key: str, tmp_path: Path) -> None:
    """Each live key of ``runtime``."""
    file = tmp_path / "canalgate.yaml"
    # Only where definitions are pinned is there anything to approve.
    common = {"pinning": "quarantine"} if key == "approve_first" else {}

    def read(**runtime: Any) -> Settings:
        file.write_text(yaml.safe_dump({"runtime": {**common, **runtime}, "tools": {"t": {"command": "x"}}}))
        return load(file, {})

    found = changes_between(read(), read(**{key: OF_TOOLS[key]}))
    assert (found.live, found.changed) == ((f"runtime.{key}",), ("t",))


def test_what_is_live_is_seen_to_be() -> None:
    """Every live setting has a test in which a change of it is seen in a running process."""
    from tests.web.test_reload import PROBES
    from tests.worker.test_reloading import LIVE

    live = {
        f"{section}.{key}"
        for section, model in SECTIONS.items()
        for key in model.model_fields
        if applies(section, key) is Applies.LIVE
    }
    logging = {"logging.level", "logging.format", "logging.levels"}
    """By ``tests/common/test_logs.py``."""
    seen = {*PROBES, *LIVE, *(f"runtime.{key}" for key in OF_TOOLS), *logging}
    assert live == seen
