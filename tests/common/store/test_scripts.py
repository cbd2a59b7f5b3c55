"""Lua files: each says what it does, none trusts a caller's clock, and a forgotten script is sent again."""

from __future__ import annotations

import asyncio
import re
from importlib import resources

import pytest

from common.store.client import Client, StoreAddress, connect_async
from common.store.scripts import run, run_async, script

FOLDER = resources.files("common.store").joinpath("lua")
NAMES = sorted(file.name.removesuffix(".lua") for file in FOLDER.iterdir() if file.name.endswith(".lua"))


LIBRARY = sorted(file.name.removesuffix(".lua") for file in FOLDER.joinpath("lib").iterdir())
MESSAGE = b'{"canalgate":"1|i|9999999999999||t:c|unsent|0|0|0|0|0|tool.a","n":1}'


ADMIT = [MESSAGE, "test:", 0, 0, 1, 1, 100]


def own_source(name: str) -> str:
    """The file itself, without what it has of the library."""
    return FOLDER.joinpath(f"{name}.lua").read_text(encoding="utf-8")


def uses(source: str) -> list[str]:
    """The files of the library that a script asks for."""
    found = re.search(r"^-- uses: (.+)$", source, re.MULTILINE)
    return found[1].split(", ") if found else []


def head(source: str) -> str:
    lines = []
    for line in source.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").strip())
    return "\n".join(lines)


def section(text: str, name: str) -> str:
    """The lines of one part of the head comment, up to the next part."""
    found = re.search(rf"^{name} (.*?)(?=^(?:KEYS|ARGV|Returns|Race)\b|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def used(source: str, name: str) -> set[int]:
    body = "\n".join(line for line in source.splitlines() if not line.startswith("--"))
    return {int(number) for number in re.findall(rf"\b{name}\[(\d+)\]", body)}


def test_there_are_scripts() -> None:
    """So that the tests below test something."""
    assert len(NAMES) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_its_head_names_every_key_and_argument(name: str) -> None:
    """Purpose first, then KEYS, ARGV and what is returned; as many as the body uses."""
    source = own_source(name)
    text = head(source)
    assert text.splitlines()[0].endswith(".")
    assert section(text, "Returns")
    for kind in ("KEYS", "ARGV"):
        described = {
            int(number) for number in re.findall(r"(?:^|\s{2,}|\n)(\d+)(?=\.\.| )", section(text, kind))
        }
        assert used(source, kind) <= described, kind
        assert described == set(range(1, len(described) + 1)), kind


@pytest.mark.parametrize("name", NAMES)
def test_its_only_clock_is_redis(name: str) -> None:
    """No caller says what time it is, and the script asks nobody else."""
    source = own_source(name)
    arguments = section(head(source), "ARGV").lower()
    assert not re.search(r"\bnow\b|\bclock\b|current time", arguments)
    assert "os.time" not in source
    assert "os.clock" not in source
    assert ("local t = redis.call('TIME')" in source) == bool(re.search(r"\bt\[1\]", source))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_short(name: str) -> None:
    """One decision a file; what several share stands in the library, in files of their own."""
    assert len(own_source(name).splitlines()) <= 120


@pytest.mark.parametrize("name", LIBRARY)
def test_a_file_of_the_library_is_short_and_used(name: str) -> None:
    """It says in its first line what it is for, and some script asks for it."""
    source = FOLDER.joinpath("lib", f"{name}.lua").read_text(encoding="utf-8")
    assert head(source).splitlines()[0].endswith(".")
    assert len(source.splitlines()) <= 80
    assert any(name in uses(own_source(user)) for user in NAMES)


def test_a_forgotten_script_is_not_noticed(client: Client) -> None:
    """After SCRIPT FLUSH or a restart of the server the call works as before, and runs once."""
    for _ in range(2):
        client.script_flush()
        run(client, "admit", ["tool.a", "test:drain", "test:head"], ADMIT)
    assert client.llen("tool.a") == 2


def test_a_forgotten_script_is_not_noticed_by_asyncio(client: Client, address: StoreAddress) -> None:
    """The same in the worker."""

    async def use() -> None:
        other = connect_async(address)
        for _ in range(2):
            await other.script_flush()
            await run_async(other, "admit", ["tool.a", "test:drain", "test:head"], ADMIT)
        await other.aclose()

    asyncio.run(use())
    assert client.llen("tool.a") == 2


def test_a_loaded_script_is_sent_by_digest(client: Client) -> None:
    """Its text travels once."""
    run(client, "admit", ["tool.a", "test:drain", "test:head"], ADMIT)
    client.config_resetstat()
    run(client, "admit", ["tool.a", "test:drain", "test:head"], ADMIT)
    stats = client.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 1
    assert "cmdstat_eval" not in stats


def test_an_unknown_script_is_our_own_mistake() -> None:
    """It fails at once and by name."""
    with pytest.raises(FileNotFoundError, match="no_such_script"):
        script("no_such_script")
