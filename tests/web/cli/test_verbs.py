"""The verbs that need no running gateway."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import yaml
from typer.testing import CliRunner, Result

from common.settings import load
from gateway_web.cli.app import cli
from gateway_web.cli.output import Exit
from gateway_web.cli.programs import web_command, worker_command
from gateway_web.wsgi_address import authority, free_port


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory and a state directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANALGATE_STATE_DIR", str(tmp_path / "state"))


def canalgate(*words: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(cli, list(words))


def test_version_names_the_product() -> None:
    """``version`` prints name and version."""
    assert canalgate("version").stdout.startswith("canalgate 0.")


def test_a_good_file_is_good(tmp_path: Path) -> None:
    """``config check`` says so, and how many tools there are."""
    (tmp_path / "canalgate.yaml").write_text("tools: {a: {command: python3}}")
    done = canalgate("config", "check")
    assert done.exit_code == Exit.OK
    assert "1 tools" in done.stdout


@pytest.mark.parametrize("words", [("other.yaml",), ("--config", "other.yaml")])
def test_the_file_to_check_may_be_given_in_two_ways(tmp_path: Path, words: tuple[str, ...]) -> None:
    """As an argument, and as for every other verb."""
    (tmp_path / "other.yaml").write_text("tools: {a: {command: python3}}")
    done = canalgate("config", "check", *words)
    assert (done.exit_code, done.stdout) == (Exit.OK, "other.yaml: good, 1 tools\n")


def test_a_file_to_check_is_given_once(tmp_path: Path) -> None:
    """Nobody guesses which of the two is meant."""
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("")
    done = canalgate("config", "check", "a.yaml", "--config", "b.yaml")
    assert done.exit_code == Exit.USAGE
    assert "given twice" in done.output


def test_the_mistakes_of_all_sections_are_shown(tmp_path: Path) -> None:
    """Those of tools as well, each with its key."""
    (tmp_path / "canalgate.yaml").write_text("web: {prot: 1}\nruntime: {idle_timeout: x}\ntools: {a: {}}")
    for words in (("config", "check"), ("web",), ("up",)):
        done = canalgate(*words)
        assert done.exit_code == Exit.USAGE
        for place in ("unknown key 'prot' in web", "runtime.idle_timeout must be", "tools.a has neither"):
            assert place in done.output


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("web: {prot: 1}", Exit.USAGE, "port"),
        ("web: {port: many}", Exit.USAGE, "web.port"),
        ("tools: {a: {comand: x}}", Exit.FAILED, "command"),
        ("tools: {a: {command: x, env: {T: '${NOT_SET_ANYWHERE}'}}}", Exit.USAGE, "NOT_SET_ANYWHERE"),
        ("web: [", Exit.USAGE, "canalgate.yaml:1"),
        ("identity: {resolver: api_key}", Exit.FAILED, "tenants.listed"),
        ("identity: {resolver: jwt}", Exit.USAGE, "identity.jwt"),
        ("web: {host: 0.0.0.0}", Exit.USAGE, "identity.resolver"),
    ],
)
def test_a_bad_file_is_named_with_its_fix(tmp_path: Path, text: str, code: Exit, words: str) -> None:
    """``config check`` names the key, and has an exit code of its own for a tool that would be skipped."""
    (tmp_path / "canalgate.yaml").write_text(text)
    done = canalgate("config", "check")
    assert done.exit_code == code
    assert words in done.output
    assert "Traceback" not in done.output


def test_show_masks_secrets(tmp_path: Path) -> None:
    """``config check --show`` prints everything but the secrets."""
    (tmp_path / "canalgate.yaml").write_text(
        "redis: {url: 'redis://u:hunter2@h:1/0'}\ntools: {a: {command: x, env: {TOKEN: hunter2}}}"
    )
    done = canalgate("config", "check", "--show")
    assert done.exit_code == Exit.OK
    assert "hunter2" not in done.output
    assert '"command": "x"' in done.stdout


def test_import_adds_to_a_file_and_export_gives_an_entry(tmp_path: Path) -> None:
    """A client's servers become tools; an entry for a client points at the gateway."""
    (tmp_path / "mcp.json").write_text('{"mcpServers": {"time": {"command": "mcp-server-time"}}}')
    assert canalgate("import", "mcp.json", "--into", "canalgate.yaml").exit_code == Exit.OK
    assert [tool.id for tool in load(tmp_path / "canalgate.yaml", {}).tools] == ["time"]
    assert (
        yaml.safe_load(canalgate("import", "mcp.json").stdout)["tools"]["time"]["command"]
        == "mcp-server-time"
    )
    entry = orjson.loads(canalgate("export", "--for", "claude", "--url", "http://gw:1").stdout)
    assert entry["mcpServers"]["canalgate"]["url"] == "http://gw:1/mcp"
    tools = orjson.loads(canalgate("export", "--tools", "--for", "vscode").stdout)
    assert tools["servers"]["time"]["command"] == "mcp-server-time"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("import", "no-such-file.json"), Exit.USAGE),
        (("export", "--for", "emacs"), Exit.USAGE),
        (("tools",), Exit.UNREACHABLE),
        (("call", "a", "b", "--url", "http://127.0.0.1:9"), Exit.UNREACHABLE),
        (("call", "a", "b", "notapair", "--url", "http://127.0.0.1:9"), Exit.UNREACHABLE),
        (("call", "a", "b", "--header", "nocolon"), Exit.USAGE),
        (("web",), Exit.USAGE),
        (("worker",), Exit.USAGE),
    ],
)
def test_mistakes_have_exit_codes_and_one_line(words: tuple[str, ...], code: Exit) -> None:
    """No mistake gives a traceback."""
    done = canalgate(*words)
    assert done.exit_code == code, done.output
    assert done.output.startswith("error: ")
    assert "Traceback" not in done.output


def test_doctor_finds_a_missing_command(tmp_path: Path) -> None:
    """``doctor`` names the tool whose command is not there, and fails."""
    (tmp_path / "canalgate.yaml").write_text("tools: {a: {command: no-such-command-anywhere}}")
    done = canalgate("doctor")
    assert done.exit_code == Exit.FAILED
    assert "no-such-command-anywhere" in done.output


def test_the_web_settings_reach_gunicorn() -> None:
    """``web.processes`` and ``web.connections`` are gunicorn's options."""
    settings = load(None, {"CANALGATE_WEB__PROCESSES": "3", "CANALGATE_WEB__CONNECTIONS": "77"})
    command = web_command(settings, host="::1", port=81, extra=["--log-level", "debug"])
    assert command[command.index("--workers") + 1] == "3"
    assert command[command.index("--worker-connections") + 1] == "77"
    assert command[command.index("--bind") + 1] == "[::1]:81"
    assert command[-1] == "gateway_web.wsgi:app"


def test_a_worker_is_a_celery_worker() -> None:
    """Its command line is celery's, and takes celery's options."""
    command = worker_command("w1@%h", ["-Q", "tool.a", "-c", "4"])
    assert command[2] == "celery"
    assert command[-4:] == ["-Q", "tool.a", "-c", "4"]


def test_a_port_in_use_is_named() -> None:
    """The error says which address, and how to choose another."""
    import socket

    from common.domain.errors import ConfigurationError

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(ConfigurationError, match="--port"),
    ):
        free_port("127.0.0.1", listener.getsockname()[1])
    assert free_port("127.0.0.1", 0) > 0
    assert authority("::1", 80) == "[::1]:80"
