"""The table of exit codes in ``docs/cli.md``: each code is the program's, and what it stands for gives it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.domain.ids import ToolId
from common.domain.tool import StdioTransport, Tool
from common.registry.registry import Registry
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.cli.output import MEANINGS, Exit
from tests.support.egress import ANYTHING
from tests.web.cli.conftest import Canalgate

DOCUMENT = Path(__file__).parents[3] / "docs" / "cli.md"
REMOTE = (Exit.UNAUTHENTICATED, Exit.FORBIDDEN, Exit.BUSY, Exit.UNAVAILABLE, Exit.UNTRUSTED)
PRODUCED: Sequence[tuple[int, tuple[str, ...]]] = [
    (0, ("version",)),
    (0, ("tools", "show", "demo")),
    (0, ("config", "check", "good.yaml")),
    (1, ("config", "check", "skipped.yaml")),
    (1, ("doctor", "--config", "skipped.yaml")),
    (1, ("tools", "drain", "demo", "--wait", "0")),
    (2, ("config", "check", "wrong.yaml")),
    (2, ("tools", "--no-such-option")),
    (2, ("no-such-verb",)),
    (2, ("tools", "update", "demo", "{request_timeout: soon}")),
    (3, ("status",)),
    (8, ("tools", "enable", "nobody")),
    (9, ("tools", "add", "demo", "{command: x}")),
    (5, ("apply", "wanted.yaml", "--diff")),
    (4, ("call", "demo", "add", "--url", "http://127.0.0.1:9")),
]


@pytest.fixture
def place(canalgate: Canalgate, client: Client, keys: Keys) -> Canalgate:
    """A directory with some settings files, and a tool that has a session."""
    for name, text in {
        "good.yaml": "tools: {a: {command: python3}}",
        "skipped.yaml": "tools: {a: {}}",
        "wrong.yaml": "web: {prot: 1}",
        "wanted.yaml": "tools: {new: {command: cmd}}",
    }.items():
        Path(name).write_text(text, encoding="utf-8")
    tool = ToolId("demo")
    Registry(client, keys, ANYTHING).put(Tool(id=tool, transport=StdioTransport(command="cmd")))
    client.hset(keys.sessions(tool), "a:b", "n 1 1")
    return canalgate


def documented() -> dict[int, str]:
    """The codes of the table, and what they mean."""
    _, _, rest = DOCUMENT.read_text(encoding="utf-8").partition("<!-- exit codes -->\n")
    table, _, _ = rest.partition("\n\n")
    return {int(code): text for code, text in re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)}


def test_the_table_has_the_program_s_codes() -> None:
    """All, and no other, in the same words."""
    assert documented() == {code.value: text for code, text in MEANINGS.items()}


def test_each_code_is_produced_somewhere() -> None:
    """Those that only a gateway elsewhere gives are produced by ``test_remote_errors``."""
    here = {code for code, _ in PRODUCED}
    assert here | {code.value for code in REMOTE} == {code.value for code in Exit}


@pytest.mark.parametrize(("code", "words"), PRODUCED, ids=str)
def test_each_code_is_produced(place: Canalgate, code: int, words: tuple[str, ...]) -> None:
    """By what the table says of it."""
    done = place(*words)
    assert done.exit_code == code, done.output
    assert code == 0 or done.output
    assert "Traceback" not in done.output


def test_without_redis_the_code_is_that_of_nobody_there(
    place: Canalgate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without a gateway: neither one that runs here, nor a Redis that is named."""
    monkeypatch.setenv("CANALGATE_REDIS__URL", "unix:///nonexistent/redis.sock")
    assert place("tools").exit_code == Exit.UNREACHABLE
    monkeypatch.delenv("CANALGATE_REDIS__URL")
    monkeypatch.setenv("CANALGATE_STATE_DIR", str(Path.cwd() / "nobody"))
    done = place("tools")
    assert done.exit_code == Exit.UNREACHABLE
    assert done.output.startswith("error: no gateway runs from this state directory")
    assert "None" not in done.output
