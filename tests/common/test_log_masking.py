"""What has a secret's name, or looks like a secret, reaches no log."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from common.domain.tool import MASK
from common.log_masking import mask_secrets, masked_text
from common.logs import configure
from common.settings import LoggingSettings

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Cookie",
        "Set-Cookie",
        "x-api-key",
        "password",
        "client_secret",
        "access_token",
        "params",
    ],
)
def test_names_hide_their_values(name: str) -> None:
    """However they are written, and however deep."""
    event: dict[str, Any] = {"event": "x", name: SECRET, "deep": [{name: SECRET}], name + "s_count": 3}
    assert SECRET not in str(mask_secrets(None, "info", event))
    assert event[name + "s_count"] == 3


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"Authorization: Bearer {SECRET}", "Bearer"),
        (f"redis://user:{SECRET}@host/0 refused", "redis://user:"),
        (f"token={SECRET}", "token="),
        (f'{{"password": "{SECRET}"}}', "password"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtZSJ9.hunter2hunter2", ""),
        (f"ghp_{SECRET}", ""),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, kept: str) -> None:
    """In any text; what it is stays readable."""
    masked = masked_text(f"before {text} after")
    assert SECRET not in masked
    assert MASK in masked
    assert kept in masked
    assert masked.startswith("before ")


@pytest.mark.parametrize(
    "text",
    ["call_begun", "tool.local", "celery@host:1:2", "http://127.0.0.1:9000/mcp", "the token of a fence is 7"],
)
def test_plain_words_stay(text: str) -> None:
    """A log that hides everything is none; a fencing token is a number."""
    assert masked_text(text) == text
    assert mask_secrets(None, "info", {"token": 7}) == {"token": 7}


@pytest.mark.parametrize("format_", ["console", "json"])
def test_no_line_of_any_logger_holds_one(format_: str, tmp_path: Path) -> None:
    """Ours, a library's, and the text of an exception."""
    file = tmp_path / "log"
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure(LoggingSettings(format=format_), process="test", file=str(file))  # type: ignore[arg-type]
    try:
        structlog.get_logger("ours").info("seen", authorization=SECRET, note=f"Bearer {SECRET}")
        logging.getLogger("library").warning("sent %s", f"Bearer {SECRET}")
        try:
            raise ValueError(f"password={SECRET}")
        except ValueError:
            structlog.get_logger("ours").exception("broke")
    finally:
        root.handlers[0].close()
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    text = file.read_text()
    assert "broke" in text
    assert SECRET not in text
    if format_ == "json":
        assert all(orjson.loads(line) for line in text.splitlines())
