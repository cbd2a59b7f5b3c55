"""Every source keeps the contract, the one that comes with the gateway and the one in the examples."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from common.contracts.discovery import DiscoveryContract
from common.discovery.loading import make_source
from common.domain.errors import ConfigurationError
from common.ports import Discovery
from common.settings.sources import SourceSettings

Entries = Mapping[str, Mapping[str, Any]]


class TestMcpJson(DiscoveryContract):
    """A client's file, replaced as editors do."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "mcp.json"

    def source(self) -> Discovery:
        return make_source(
            SourceSettings.model_validate(
                {"name": "f", "type": "file", "path": str(self.path), "interval": 0.1}
            )
        )

    def name(self, entries: Entries) -> None:
        new = self.path.with_suffix(".new")
        new.write_bytes(orjson.dumps({"mcpServers": entries}))
        new.replace(self.path)


class TestDirectory(DiscoveryContract):
    """A file for each tool."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path

    def source(self) -> Discovery:
        return make_source(
            SourceSettings.model_validate(
                {"name": "f", "type": "file", "path": str(self.path), "interval": 0.1}
            )
        )

    def name(self, entries: Entries) -> None:
        for name, entry in entries.items():
            new = self.path / f".{name}.yaml"
            new.write_text(yaml.safe_dump({"tools": {name: dict(entry)}}), encoding="utf-8")
            new.replace(self.path / f"{name}.yaml")
        for file in self.path.glob("[!.]*.yaml"):
            if file.stem not in entries:
                file.unlink()


class TestExample(DiscoveryContract):
    """As the settings name it."""

    @pytest.fixture(autouse=True)
    def _place(self) -> Iterator[None]:
        self.entries: Entries = {}
        test = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"tools": test.entries}).encode())

            def log_message(self, *_: object) -> None:
                """Nothing."""

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as self.server:
            thread = threading.Thread(target=self.server.serve_forever)
            thread.start()
            yield
            self.server.shutdown()
            thread.join()

    def source(self) -> Discovery:
        options = {"url": f"http://127.0.0.1:{self.server.server_port}/", "every": 0.1}
        return make_source(
            SourceSettings.model_validate(
                {"name": "w", "type": "examples.discovery_source:WebCatalogue", "options": options}
            )
        )

    def name(self, entries: Entries) -> None:
        self.entries = entries


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("mcp.json", "{", "JSON"),
        ("mcp.json", "[]", "JSON object"),
        ("t.yaml", "tools: [", "t.yaml"),
        ("t.yaml", "tools: 5", "no mapping `tools`"),
        ("t.yaml", "x: 1", "no mapping `tools`"),
        ("mcp.json", '{"mcpServers": {"a": {"url": "https://x/${SECRET}"}}}', "a reference"),
        ("t.yaml", "tools: {a: {command: x, env: {A: '${SECRET}'}}}", "a reference"),
    ],
)
def test_what_cannot_be_read_is_a_fault(tmp_path: Path, name: str, text: str, words: str) -> None:
    """It names the file; nothing of this gateway's environment is put into it."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    settings = SourceSettings.model_validate({"name": "f", "type": "file", "path": str(tmp_path / name)})
    with pytest.raises(ConfigurationError, match=words):
        next(iter(make_source(settings).watch(lambda: True)))


def test_a_name_in_two_files_is_a_fault(tmp_path: Path) -> None:
    """Nobody knows which is meant."""
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("tools: {x: {url: https://x.example}}", encoding="utf-8")
    settings = SourceSettings.model_validate({"name": "f", "type": "file", "path": str(tmp_path)})
    with pytest.raises(ConfigurationError, match="in another file as well"):
        next(iter(make_source(settings).watch(lambda: True)))


@pytest.mark.parametrize("kind", ["nowhere:Class", "json:dumps", "nobody"])
def test_a_source_that_cannot_be_made_is_told(kind: str) -> None:
    """By its name, without its words."""
    with pytest.raises(ConfigurationError, match="source 'x'"):
        make_source(SourceSettings.model_validate({"name": "x", "type": kind}))
