"""The examples of docs/configuration.md, as settings that are loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from common.settings import Settings, load

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"


def documented(name: str, directory: Path, places: Mapping[str, str]) -> Settings:
    """The block after ``<!-- example: name -->``, with other texts in the places of some, such as a server's URL."""
    pattern = rf"<!-- example: {re.escape(name)} -->\n```yaml\n(.*?)```"
    found = re.search(pattern, DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, name
    text = found[1]
    for old, new in places.items():
        assert old in text, old
        text = text.replace(old, new)
    file = directory / "canalgate.yaml"
    file.write_text(text, encoding="utf-8")
    settings = load(file, {})
    assert settings.tools
    assert not settings.tool_problems
    return settings
