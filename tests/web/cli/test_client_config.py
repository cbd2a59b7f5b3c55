"""``canalgate client-config``: the entry in each client's own format, printed or put into its file."""

from __future__ import annotations

import socket
import tomllib
from pathlib import Path

import orjson
import pytest

from gateway_web.cli.output import Exit
from tests.web.cli.conftest import Canalgate

URL = "https://gw.example"
VERB = "client-config"
KEY = "cgk_0123456789abcdef_" + "s" * 43
GOLDEN = {
    "claude-code": """\
{
  "mcpServers": {
    "canalgate": {
      "type": "http",
      "url": "https://gw.example/mcp",
      "headers": {
        "Authorization": "Bearer ${GATEWAY_KEY}"
      }
    }
  }
}
""",
    "cursor": """\
{
  "mcpServers": {
    "canalgate": {
      "url": "https://gw.example/mcp",
      "headers": {
        "Authorization": "Bearer ${env:GATEWAY_KEY}"
      }
    }
  }
}
""",
    "vscode": """\
{
  "servers": {
    "canalgate": {
      "type": "http",
      "url": "https://gw.example/mcp",
      "headers": {
        "Authorization": "Bearer ${env:GATEWAY_KEY}"
      }
    }
  }
}
""",
    "codex": """\
[mcp_servers.canalgate]
url = "https://gw.example/mcp"
bearer_token_env_var = "GATEWAY_KEY"
""",
}
"""As the clients' documents have it; ``common/interchange/client_config.py`` names these."""
FILES = {
    "claude-code": ".mcp.json",
    "cursor": ".cursor/mcp.json",
    "vscode": ".vscode/mcp.json",
    "codex": "codex/config.toml",
}


@pytest.fixture
def ask(canalgate: Canalgate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Canalgate:
    monkeypatch.setenv("CODEX_HOME", str(tmp_path / "codex"))
    Path("key").write_text(KEY + "\n")
    return lambda client, *words: canalgate("--url", URL, "client-config", "--for", client, *words)


@pytest.mark.parametrize("client", GOLDEN)
def test_the_entry_is_in_the_client_s_format(ask: Canalgate, client: str) -> None:
    """With the key by its variable; without one there is no header."""
    done = ask(client, "--key-env", "GATEWAY_KEY")
    assert (done.exit_code, done.stdout, done.stderr) == (Exit.OK, GOLDEN[client], "")
    plain = ask(client).stdout
    assert "https://gw.example/mcp" in plain
    assert "KEY" not in plain
    assert "headers" not in plain


@pytest.mark.parametrize("client", GOLDEN)
def test_one_tool_has_an_entry_and_an_address_of_its_own(ask: Canalgate, client: str) -> None:
    """Named so that every client takes the name."""
    done = ask(client, "--tool", "demo", "--tool", "a b/ü")
    assert done.exit_code == Exit.OK, done.output
    if client == "codex":
        found = tomllib.loads(done.stdout)["mcp_servers"]
    else:
        found = next(iter(orjson.loads(done.stdout).values()))
    assert {name: entry["url"] for name, entry in found.items()} == {
        "canalgate-demo": f"{URL}/servers/demo/mcp",
        "canalgate-a-b": f"{URL}/servers/a%20b%2F%C3%BC/mcp",
    }
    assert ask(client, "--tool", "a b", "--tool", "a-b").exit_code == Exit.USAGE


@pytest.mark.parametrize("client", GOLDEN)
def test_it_is_put_into_the_client_s_file(ask: Canalgate, client: str) -> None:
    """Made if it is not there; the second time nothing is changed."""
    words = ("--key-env", "GATEWAY_KEY", "--write")
    done = ask(client, *words)
    assert done.exit_code == Exit.OK, done.output
    assert "GATEWAY_KEY" in done.stderr
    place = Path(FILES[client])
    assert place.read_text() == GOLDEN[client]
    at = place.stat().st_mtime_ns
    again = ask(client, *words)
    assert (again.exit_code, "is there already" in again.stdout) == (Exit.OK, True)
    assert place.stat().st_mtime_ns == at
    assert [path.name for path in place.parent.iterdir() if "canalgate" in path.name] == []


@pytest.mark.parametrize("client", ["claude-code", "cursor", "vscode"])
def test_what_the_file_holds_stays(ask: Canalgate, client: str) -> None:
    """Other servers, other members, the file's mode; a link stays a link."""
    section = "servers" if client == "vscode" else "mcpServers"
    before = {"inputs": [{"id": "x"}], section: {"other": {"command": "x"}}, "zz": [1, {"y": None}]}
    real = Path("real.json")
    real.write_bytes(orjson.dumps(before))
    real.chmod(0o640)
    Path("link.json").symlink_to(real)
    assert ask(client, "--write", "--file", "link.json").exit_code == Exit.OK
    after = orjson.loads(real.read_bytes())
    assert after[section].pop("canalgate")["url"] == f"{URL}/mcp"
    assert after == before
    assert real.stat().st_mode & 0o777 == 0o640
    assert Path("link.json").is_symlink()


def test_what_a_toml_file_holds_stays(ask: Canalgate) -> None:
    """To the letter, comments included."""
    before = '# mine\nmodel = "x"\n\n[mcp_servers.other]\ncommand = "y" # why\n'
    Path("c.toml").write_text(before)
    assert ask("codex", "--write", "--file", "c.toml").exit_code == Exit.OK
    text = Path("c.toml").read_text()
    assert text.startswith(before)
    assert set(tomllib.loads(text)["mcp_servers"]) == {"other", "canalgate"}


@pytest.mark.parametrize(
    ("client", "text", "said"),
    [
        ("cursor", '{"mcpServers": {"canalgate": {"url": "http://other"}}}', "--replace"),
        ("vscode", '{"servers": {} /* mine */}', "comments"),
        ("cursor", '{"mcpServers": []}', "must be an object"),
        ("cursor", "[1]", "JSON object"),
        ("cursor", "{", "not JSON"),
        ("codex", '[mcp_servers.canalgate]\nurl = "http://other"\n', "take it out"),
        ("codex", "mcp_servers = {}\n", "not TOML, or would not be"),
        ("codex", "mcp_servers = 5\n", "not TOML, or would not be"),
        ("codex", "= 5", "not TOML"),
    ],
)
def test_a_file_that_it_does_not_fit_into_is_left_as_it_is(
    ask: Canalgate, client: str, text: str, said: str
) -> None:
    """One line that says what to do."""
    Path("f").write_text(text)
    done = ask(client, "--write", "--file", "f")
    assert done.exit_code == Exit.USAGE, done.output
    assert said in done.stderr
    assert Path("f").read_text() == text


def test_an_entry_of_the_same_name_is_replaced_on_request(ask: Canalgate) -> None:
    """And no other."""
    Path("f").write_text('{"mcpServers": {"a": {"url": "x"}, "canalgate": {"url": "http://other"}}}')
    assert ask("cursor", "--write", "--file", "f", "--replace").exit_code == Exit.OK
    found = orjson.loads(Path("f").read_bytes())["mcpServers"]
    assert found == {"a": {"url": "x"}, "canalgate": {"url": f"{URL}/mcp"}}


@pytest.mark.parametrize("client", GOLDEN)
def test_the_key_itself_only_when_asked_for(ask: Canalgate, client: str) -> None:
    """From a file, never from the command line; then the client's file is its owner's alone."""
    assert KEY in ask(client, "--key-file", "key").stdout
    done = ask(client, "--key-file", "key", "--write")
    assert done.exit_code == Exit.OK
    assert KEY not in done.output
    place = Path(FILES[client])
    assert KEY in place.read_text()
    assert place.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "words",
    [
        ("emacs",),
        ("cursor", "--key-env", "A-B"),
        ("cursor", "--key-env", "A", "--key-file", "key"),
        ("cursor", "--key-file", "nothing"),
        ("cursor", "--name", "a b"),
        ("cursor", "--file", "x"),
    ],
)
def test_what_makes_no_sense_is_refused(ask: Canalgate, words: tuple[str, ...]) -> None:
    """With the option at fault."""
    done = ask(*words)
    assert done.exit_code == Exit.USAGE
    assert done.stderr.startswith("error: ")
    assert "--for" in done.stderr if len(words) == 1 else words[1] in done.stderr or words[-1] in done.stderr


def test_a_key_on_an_open_way_is_warned_of(canalgate: Canalgate) -> None:
    """Not on this machine."""
    for url, warned in (("http://gw.example", True), ("http://127.0.0.1:1", False)):
        done = canalgate("--url", url, "client-config", "--for", "cursor", "--key-env", "K")
        assert (done.exit_code, "warning" in done.stderr) == (Exit.OK, warned)


def test_an_address_at_which_nothing_runs_is_told(
    canalgate: Canalgate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry is the same, for a gateway that is started later; one that was named is not looked for."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        monkeypatch.setenv("CANALGATE_WEB__PORT", str(port))
        there = canalgate("client-config", "--for", "cursor")
    gone = canalgate("client-config", "--for", "cursor")
    named = canalgate("--url", f"http://127.0.0.1:{port}", "client-config", "--for", "cursor")
    assert there.exit_code == gone.exit_code == named.exit_code == Exit.OK
    assert there.stdout == gone.stdout == named.stdout
    assert f"nothing runs at http://127.0.0.1:{port}/mcp now" in gone.stderr
    assert there.stderr == named.stderr == ""
