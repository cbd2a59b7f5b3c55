"""Where settings come from, which source wins, and how everything wrong is told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.domain.errors import ConfigurationError
from common.settings import Settings, load
from common.settings.layers import PROCESS_VARIABLES


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gate.yaml"


def refusal(path: Path | None, environ: dict[str, str], **options: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(path, environ, **options)
    return caught.value.message


def test_without_anything_the_defaults_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No file, no variables: a working local gateway."""
    monkeypatch.chdir(tmp_path)
    assert load(None, {}) == Settings()


def test_the_command_line_beats_the_environment_which_beats_the_file(file: Path) -> None:
    """Each layer replaces single settings, and leaves those beside them alone."""
    file.write_text("web: {port: 1, processes: 2, host: localhost}\n")
    settings = load(
        file,
        {"CANALGATE_WEB__PORT": "3", "CANALGATE_WEB__PROCESSES": "4"},
        overrides={"web.port": 5, "worker.processes": None},
    )
    assert (settings.web.port, settings.web.processes, settings.web.host) == (5, 4, "localhost")
    assert settings.worker.processes == 1


def test_the_file_is_the_one_named_by_the_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument wins over CANALGATE_CONFIG, which wins over canalgate.yaml in the working directory."""
    other = file.with_name("other.yaml")
    local = file.with_name("canalgate.yaml")
    monkeypatch.chdir(file.parent)
    for path, port in ((file, 1), (other, 2), (local, 3)):
        path.write_text(f"web: {{port: {port}}}\n")
    environ = {"CANALGATE_CONFIG": str(other)}
    assert [load(file, environ).web.port, load(None, environ).web.port, load(None, {}).web.port] == [1, 2, 3]
    assert load(None, {"CANALGATE_CONFIG": ""}).web.port == 3


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Without a mapping, what the process was started with counts."""
    file.write_text("")
    monkeypatch.setenv("CANALGATE_WEB__PORT", "7")
    assert load(file).web.port == 7


@pytest.mark.parametrize("environ", [{}, {"CANALGATE_CONFIG": "/nowhere/x.yaml"}])
def test_a_file_that_was_named_must_be_there(environ: dict[str, str]) -> None:
    """Only the unnamed default may be absent."""
    path = None if environ else Path("/nowhere/x.yaml")
    assert "/nowhere/x.yaml: the configuration file cannot be read: No such file" in refusal(path, environ)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"just text", "must be a mapping with the sections"),
        (b"[]", "must be a mapping with the sections"),
        (b"web: {port: 1", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(file: Path, content: bytes, said: str) -> None:
    """Each with the file's name and no traceback."""
    file.write_bytes(content)
    message = refusal(file, {})
    assert said in message
    assert str(file) in message


def test_a_directory_is_refused(tmp_path: Path) -> None:
    """The operating system's reason is given."""
    assert "Is a directory" in refusal(tmp_path, {})


def test_a_byte_order_mark_is_no_content(file: Path) -> None:
    """Editors on Windows write one."""
    file.write_bytes(b"\xef\xbb\xbfweb: {port: 9}\n")
    assert load(file, {}).web.port == 9


def test_an_empty_section_counts_as_absent(file: Path) -> None:
    """A section whose keys are all commented out is still there as a word."""
    file.write_text("web:\ntools:\n")
    assert load(file, {}) == Settings()


def test_all_problems_are_told_at_once(file: Path) -> None:
    """One start, one list: from the file with its lines, the environment and the command line."""
    file.write_text(
        "web:\n  prot: 1\n  processes: 0\nport: 5\nlogging: {level: inof}\nredis: {url: '${P}'}\n"
    )
    message = refusal(
        file,
        {"CANALGATE_WORKER__PROCESSES": "two", "CANALGATE_WEB_PORT": "1"},
        overrides={"web.prot": 1, "discovery.ttl": 0},
    )
    assert message.splitlines()[0] == "the configuration is not valid (9 problems):"
    for line in (
        f"  - {file}:2: unknown key 'prot' in web; did you mean 'port'?",
        f"  - {file}:3: web.processes must be at least 1",
        f"  - {file}:4: unknown key 'port'; did you mean 'web.port'?",
        f"  - {file}:5: logging.level must be one of 'debug', 'info', 'warning' or 'error'",
        f"  - {file}:6: redis.url: the environment variable P is not set: set it, or write ${{P:-default}}",
        "  - CANALGATE_WORKER__PROCESSES: worker.processes must be a whole number",
        "  - environment: unknown variable CANALGATE_WEB_PORT; did you mean 'CANALGATE_WEB__PORT'?",
        "  - command line: unknown setting 'web.prot'; did you mean 'web.port'?",
        "  - command line: discovery.ttl must be above 0",
    ):
        assert line in message.splitlines()


def test_tools_are_told_with_what_else_is_wrong(file: Path) -> None:
    """One list for all sections: nobody mends one to learn of the next. By themselves tools are only left out."""
    bad = "tools:\n  a: {comand: x, request_timeout: 0}\n  b: 5\n  c: {command: x, pool_size: 3}\n"
    file.write_text(bad)
    assert [problem.id for problem in load(file, {}).tool_problems] == ["a", "b", "c"]
    file.write_text(bad + "web: {prot: 1}\nlogging: {level: x}\n")
    lines = refusal(file, {}).splitlines()
    assert lines[0] == "the configuration is not valid (5 problems):"
    for line in (
        f"  - {file}:2: unknown key 'comand' in tools.a; did you mean 'command'?",
        f"  - {file}:2: tools.a.request_timeout must be above 0",
        f"  - {file}:3: tools.b must be a mapping with command, url or factory",
        f"  - {file}:5: unknown key 'prot' in web; did you mean 'port'?",
    ):
        assert line in lines
    # Whether a tool's settings go together is asked once the sections that they come from are right.
    assert not any("tools.c" in line for line in lines)


def test_a_tool_that_goes_with_nothing_is_told_with_a_variable_that_is_unknown(file: Path) -> None:
    """The sections are right, so the tool is held against them."""
    file.write_text("tools: {c: {command: x, pool_size: 3}}\n")
    message = refusal(file, {"CANALGATE_WEB_PORT": "1"})
    assert f"{file}:1: tools.c: pool_size goes with routing: least_loaded" in message


def test_the_rule_across_sections_is_asked_beside_other_mistakes(file: Path) -> None:
    """But not where what it reads is itself wrong: whoever set a resolver meant one."""
    file.write_text("web: {host: 0.0.0.0}\nruntime: {request_timeout: soon}\n")
    assert f"{file}:1: web.host is reachable" in refusal(file, {})
    for resolver in ("api_key", "nonsense", "5"):
        file.write_text(f"web: {{host: 0.0.0.0, port: x}}\nidentity: {{resolver: {resolver}}}\n")
        assert "reachable" not in refusal(file, {})


def test_a_reference_that_stands_for_nothing_is_told_once(file: Path) -> None:
    """Not once more for the value that it has not become."""
    file.write_text("web: {port: '${P}'}\ntools: {a: {url: '${U}'}}\n")
    message = refusal(file, {})
    assert message.splitlines()[0] == "the configuration is not valid (2 problems):"
    assert "variable P is not set" in message
    assert "variable U is not set" in message


@pytest.mark.parametrize(
    "text",
    [
        "tools: {a: {url: 'https://x/mcp', headers: {Authorization: 'Bearer ${T}'}}}",
        "tools: {a: {command: 'x', args: ['${T}'], env: {}}}",
        "tools: '${T}'",
        "web: {host: '${T}'}",
        "redis: {url: 'redis://:${T}@host:6379/0'}",
        "identity: {resolver: api_key, api_keys: [{key: '${T}', tenant: t, client: c}]}",
    ],
)
def test_what_is_around_a_reference_that_stands_for_nothing_is_no_second_mistake(
    file: Path, text: str
) -> None:
    """The header would be a good one if the variable were set."""
    file.write_text(text)
    message = refusal(file, {})
    assert message.splitlines()[0] == "the configuration is not valid (1 problem):"
    assert "variable T is not set" in message


@pytest.mark.parametrize("key", ["mcpServers", "mcp_servers", "servers"])
def test_the_key_of_a_client_s_file_says_where_servers_stand(file: Path, key: str) -> None:
    """Whoever pastes an ``mcp.json`` is told how to go on."""
    file.write_text(f"{key}: {{a: {{command: x}}}}")
    message = refusal(file, {})
    assert f"unknown key '{key}'; servers stand under 'tools' here" in message
    assert "canalgate import" in message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("wbe: {}", "unknown key 'wbe'; did you mean 'web'?"),
        ("processes: 1", "did you mean 'web.processes'?"),
        ("web: {key_prefix: x}", "unknown key 'key_prefix' in web; did you mean 'redis.key_prefix'?"),
        ("web: {zzzzzz: x}", "known keys: host, port"),
        ("identity: {api_keys: [{kay: x, tenant: t, client: c}]}", "api_keys[0]; did you mean 'key'?"),
        ("tool_problems: []", "unknown key 'tool_problems'"),
    ],
)
def test_an_unknown_key_brings_the_nearest_name(file: Path, text: str, hint: str) -> None:
    """Also if the key is right and only its place is wrong."""
    file.write_text(text)
    assert hint in refusal(file, {})


def test_a_section_must_be_a_mapping(file: Path) -> None:
    """Also when the environment sets one of its keys."""
    file.write_text("web: 5\ntools: [1]\n")
    message = refusal(file, {"CANALGATE_WEB__PORT": "1"})
    assert f"{file}:1: web must be a mapping" in message
    assert f"{file}:2: tools must be a mapping of names to tools" in message


@pytest.mark.parametrize(
    "name", ["CANALGATE_WEB__PROT", "CANALGATE_Web__Port", "CANALGATE_", "CANALGATE_TOOLS__A"]
)
def test_an_unknown_variable_is_refused(name: str) -> None:
    """A typo in a variable must not be ignored."""
    assert name in refusal(None, {name: "1"})


def test_a_variable_for_tools_says_where_tools_go() -> None:
    """The environment holds values that the file refers to, not tools."""
    assert "tools are given in the file" in refusal(None, {"CANALGATE_TOOLS__ECHO__URL": "x"})


@pytest.mark.parametrize("name", PROCESS_VARIABLES)
def test_process_variables_are_no_settings(name: str, file: Path) -> None:
    """They are for whoever starts the process."""
    file.write_text("")
    assert load(file, {name: str(file)}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CANALGATE_SERVICE_HOST", "10.0.0.1"),
        ("CANALGATE_SERVICE_PORT", "8080"),
        ("CANALGATE_SERVICE_PORT_HTTP", "8080"),
        ("CANALGATE_PORT", "tcp://10.0.0.1:8080"),
        ("CANALGATE_WEB_PORT", "tcp://10.0.0.1:8080"),
        ("CANALGATE_WEB_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("CANALGATE_WEB_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_service_links_of_kubernetes_are_no_typos(name: str, value: str) -> None:
    """A Service named canalgate puts these variables into every pod beside it."""
    assert load(None, {name: value}) == Settings()


def test_lookalikes_outside_the_prefix_are_ignored() -> None:
    """Only CANALGATE_ is ours."""
    assert load(None, {"CANALGATEX": "1", "canalgate_web__port": "x", "PATH": "/"}) == Settings()


def test_a_reference_fills_any_kind_of_setting(file: Path) -> None:
    """Numbers, flags and lists may come from the environment by reference."""
    file.write_text("web: {port: '${P}', allowed_hosts: '${H}'}\nworker: {events: '${E:-no}'}\n")
    settings = load(file, {"P": "81", "H": "a, b"})
    assert (settings.web.port, settings.web.allowed_hosts, settings.worker.events) == (81, ("a", "b"), False)


def test_an_unset_variable_in_a_tool_stops_the_start(file: Path) -> None:
    """A tool's mistakes skip the tool, but a token ``${TOKEN}`` must never be sent."""
    file.write_text("tools:\n  a:\n    url: http://h\n    headers:\n      X: Bearer ${TOKEN}\n")
    message = refusal(file, {})
    assert f"{file}:5: tools.a.headers.X: the environment variable TOKEN is not set" in message


def test_variables_and_options_are_not_interpolated() -> None:
    """References are for the file; elsewhere a dollar is a dollar."""
    settings = load(
        None, {"CANALGATE_IDENTITY__DEFAULT_TENANT": "${A}"}, overrides={"identity.default_client": "$$"}
    )
    assert (settings.identity.default_tenant, settings.identity.default_client) == ("${A}", "$$")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "gate.example", "127.0.0.1.evil.example"])  # noqa: S104
def test_an_open_gateway_without_identity_does_not_start(host: str) -> None:
    """Both keys and the fix are named."""
    message = refusal(None, {"CANALGATE_WEB__HOST": host})
    assert "  - CANALGATE_WEB__HOST: web.host is reachable" in message
    for word in ("web.host", "identity.resolver", "api_key or jwt", "127.0.0.1"):
        assert word in message
    assert (
        load(None, {"CANALGATE_WEB__HOST": host, "CANALGATE_IDENTITY__RESOLVER": "api_key"}).web.host == host
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_on_loopback_no_identity_is_needed(host: str) -> None:
    """Only this machine can call."""
    assert load(None, {"CANALGATE_WEB__HOST": host}).web.host == host


@pytest.mark.parametrize("resolver", ["header", "mtls", "api_key,header"])
def test_headers_of_anybody_are_not_believed(resolver: str) -> None:
    """Beyond loopback those of trusted proxies are, so there must be some."""
    environ = {
        "CANALGATE_WEB__HOST": "0.0.0.0",  # noqa: S104
        "CANALGATE_IDENTITY__RESOLVER": resolver,
        "CANALGATE_IDENTITY__MTLS": "{tenant: t}",
    }
    assert "set web.trusted_proxies" in refusal(None, environ)
    assert load(None, {**environ, "CANALGATE_WEB__TRUSTED_PROXIES": "10.0.0.0/8"})
    assert load(None, {**environ, "CANALGATE_WEB__HOST": "127.0.0.1"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{resolver: jwt}", "resolver jwt needs identity.jwt"),
        ("{resolver: mtls}", "resolver mtls needs identity.mtls"),
        ("{resolver: [none, api_key]}", "none takes everybody"),
        ("{resolver: [api_key, api_key]}", "names a resolver twice"),
        ("{jwt: {issuer: i, jwks: /k, tenant: t}}", "jwt.audience must name this gateway"),
        ("{jwt: {issuer: i, jwks: /k, audience: a}}", "give either tenant, or tenant_claim"),
        (
            "{jwt: {issuer: i, jwks: 'http://idp.example/k', audience: a, tenant: t}}",
            "must begin with https://",
        ),
        ("{jwt: {issuer: i, jwks: /k, audience: a, tenant: t, algorithms: [HS256]}}", "asymmetric"),
        ("{jwt: {issuer: i, jwks: /k, audience: a, tenant: t, algorithms: [none]}}", "asymmetric"),
        ("{jwt: {issuer: i, jwks: /k, audience: a, tenant: t, leeway: 301}}", "must be at most 300"),
        ("{jwt: {issuer: i, jwkz: /k}}", "did you mean 'jwks'?"),
        ("{oauth: {resource: 'https://g.example'}}", "oauth.authorization_servers must name at least one"),
        ("{oauth: {resource: 'https://g.example/'}}", "no final slash"),
        ("{oauth: {resource: 'http://g.example'}}", "must begin with https://"),
        ("{mtls: {}}", "give either tenant, or tenant_attribute"),
        ("{mtls: {tenant_attribute: O, source: uri}}", "tenant must be set"),
        ("{mtls: {tenant: t, form: dn, source: uri}}", "go with form xfcc"),
        ("{mtls: {tenant: t, form: listener, source: dns}}", "go with form xfcc"),
        ("{required_scopes: ['a b']}", "must hold scopes"),
        ("{api_keys: [{key: 'a,b', tenant: t, client: c}]}", "must hold no comma"),
        ("{subject_header: x-tenant-id}", "must be different headers"),
    ],
)
def test_what_of_identity_does_not_go_together(file: Path, text: str, words: str) -> None:
    """Each is told with its fix."""
    file.write_text(f"identity: {text}")
    assert words in refusal(file, {})


def test_the_default_tenant_is_listed_with_resolver_none() -> None:
    """A local gateway works without a list; with a resolver, only what is listed counts."""
    assert load(None, {"CANALGATE_TENANTS__LISTED": "a"}).listed_tenants == {"a", "default"}
    environ = {"CANALGATE_TENANTS__LISTED": "a", "CANALGATE_IDENTITY__RESOLVER": "header"}
    assert load(None, environ).listed_tenants == {"a"}


@pytest.mark.parametrize(
    "text",
    [
        "redis: {url: 'http://user:hunter2@h'}",
        "identity: {api_keys: [{key: 'hunter2 x', tenant: t, client: c}]}",
        "identity: {api_keys: [{key: hunter2, tenant: t, client: c}, {key: hunter2, tenant: t, client: c}]}",
        "identity: {api_keys: hunter2}",
        "identity: {api_keys: '[hunter2'}",
        "redis: hunter2",
        "web: {port: hunter2, host: 'hunter2 ', allowed_origins: [hunter2]}",
        "redis: {url: 'redis://:hunter2${'}",
        "logging: {level: hunter2, format: hunter2}",
    ],
)
def test_no_message_holds_a_value(file: Path, text: str) -> None:
    """What was given may be a secret in the wrong place."""
    file.write_text(text)
    assert "hunter2" not in refusal(file, {})


def test_names_from_the_file_cannot_write_to_the_terminal(file: Path) -> None:
    """Control characters in a key are shown escaped."""
    file.write_text('"\\e[31mred\\n": 1\n')
    assert "\\x1b[31mred\\n" in refusal(file, {})


def test_text_that_is_not_utf8_is_refused() -> None:
    """Environment bytes outside UTF-8 come as lone surrogates."""
    assert "not UTF-8" in refusal(None, {"CANALGATE_IDENTITY__DEFAULT_TENANT": "a\udcff"})


def test_settings_made_by_hand_do_not_leak_either() -> None:
    """A validation error that gets into a log by another way holds no value."""
    with pytest.raises(ValueError, match="port") as caught:
        Settings.model_validate({"web": {"port": "hunter2"}})
    assert "hunter2" not in str(caught.value)


def test_settings_do_not_change() -> None:
    """What was checked at the start stays true."""
    with pytest.raises(ValueError, match="frozen"):
        Settings().web.port = 1
