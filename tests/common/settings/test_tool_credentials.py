"""Tools whose credentials nobody can give are left out, with what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.settings import load


def problem_of(tmp_path: Path, known: list[str], rules: dict[str, Any]) -> str:
    """What is wrong with a tool of these rules; empty if nothing is."""
    file = tmp_path / "canalgate.yaml"
    tool = {"url": "https://t", "credentials": {"inject": {"headers": {"A": "{a}"}}, **rules}}
    file.write_text(yaml.safe_dump({"credentials": {"providers": known}, "tools": {"t": tool}}))
    settings = load(file, {})
    assert len(settings.tools) + len(settings.tool_problems) == 1
    return "".join(problem.message for problem in settings.tool_problems)


@pytest.mark.parametrize(
    ("providers", "rules", "words"),
    [
        ([], {}, "nobody can be asked"),
        (["file"], {"providers": "fiel"}, "'fiel' is not among credentials.providers"),
        (["file", "vault"], {"scope": "subject"}, "those named know nothing of subjects"),
        (
            ["file", "token_exchange"],
            {"scope": "subject", "providers": "token_exchange, file"},
            "'file' knows nothing of subjects",
        ),
        (["token_exchange"], {"providers": "token_exchange"}, "goes with scope: subject"),
    ],
)
def test_what_nobody_can_give_is_told(
    providers: list[str], rules: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """By the key at fault."""
    found = problem_of(tmp_path, providers, rules)
    assert "tools.t.credentials.providers" in found
    assert words in found


@pytest.mark.parametrize(
    ("providers", "rules"),
    [
        (["file"], {}),
        (["file", "token_exchange"], {"scope": "subject"}),
        (["file", "token_exchange"], {"scope": "client"}),
        (["acme"], {"scope": "subject"}),
        (["file", "token_exchange"], {"scope": "subject", "providers": "token_exchange"}),
    ],
)
def test_what_somebody_can_give_is_taken(providers: list[str], rules: dict[str, Any], tmp_path: Path) -> None:
    """Also by a provider of one's own, of which nothing is known here."""
    assert problem_of(tmp_path, providers, rules) == ""
