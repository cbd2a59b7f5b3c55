"""A stdio backend that answers each call with the very line that it got: ``python witness.py --era both``.

Whatever is called (a tool, a resource, a prompt, a completion), the text of the answer is ``{"tool", "line"}``: the
id of the tool, from ``WITNESS_TOOL``, and the line. Each such line is also appended to ``WITNESS_LOG``, for calls whose
answer nobody sees.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading

if not __package__:  # run as a file: make the repository importable
    sys.path[0] = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))

from tests.support.servers.echo import StdioServer
from tests.support.servers.echo_core import (
    INVALID_PARAMS,
    MODERN,
    EchoServer,
    Exchange,
    Json,
    RefusedError,
    text,
    tool,
)

TOOLS = ("see", "other")
PROMPT, URI, TEMPLATE = "ask", "witness://one", "witness://{number}"
CALLS = frozenset({"tools/call", "resources/read", "prompts/get", "completion/complete"})
_ANYTHING: Json = {"type": "object"}


class Witness(EchoServer):
    """Offers all that a backend can offer."""

    def __init__(self, *, era: str) -> None:
        super().__init__(era=era, name="witness")
        self.entries = [{**tool(name), "inputSchema": _ANYTHING} for name in TOOLS]
        self.line = threading.local()
        """The line being answered; one a thread, though here there is but one."""

    def _result(self, exchange: Exchange) -> Json:
        if exchange.method in CALLS:
            return self._seen(exchange)
        match exchange.method:
            case "resources/list":
                return {"resources": [{"uri": URI, "name": "one"}]}
            case "resources/templates/list":
                return {"resourceTemplates": [{"uriTemplate": TEMPLATE, "name": "numbered"}]}
            case "prompts/list":
                return {"prompts": [{"name": PROMPT, "arguments": [{"name": "about"}]}]}
            case "resources/subscribe" | "resources/unsubscribe":
                return {}
            case "server/discover" if exchange.modern:
                return {"supportedVersions": [MODERN], "capabilities": self._capabilities()}
            case "initialize" if not exchange.modern:
                return {**super()._result(exchange), "capabilities": self._capabilities()}
        return super()._result(exchange)

    @staticmethod
    def _capabilities() -> Json:
        return {
            "tools": {},
            "resources": {"subscribe": True},
            "prompts": {},
            "completions": {},
            "logging": {},
        }

    def _seen(self, exchange: Exchange) -> Json:
        line: str = self.line.value
        told = json.dumps({"tool": os.environ.get("WITNESS_TOOL", ""), "line": line})
        log(told)
        match exchange.method:
            case "tools/call":
                return text(told)
            case "resources/read":
                return {"contents": [{"uri": URI, "text": told}]}
            case "prompts/get":
                return {"messages": [{"role": "user", "content": {"type": "text", "text": told}}]}
            case "completion/complete":
                return {"completion": {"values": [told]}}
        raise RefusedError(INVALID_PARAMS, exchange.method)

    def _stamped(self, exchange: Exchange, result: Json) -> Json:
        stamped = super()._stamped(exchange, result)
        lists = {"resources/list", "resources/templates/list", "prompts/list", "resources/read"}
        if exchange.modern and exchange.method in lists:
            return {"ttlMs": 0, "cacheScope": "private", **stamped}
        return stamped


class WitnessOverStdio(StdioServer):
    """Hands the raw line on."""

    def __init__(self, witness: Witness) -> None:
        super().__init__(witness)
        self._witness = witness

    def received(self, line: bytes) -> None:
        """Answer one line."""
        self._witness.line.value = line.decode("utf-8", "backslashreplace").rstrip("\n")
        super().received(line)


def log(entry: str) -> None:
    """Append to ``WITNESS_LOG``."""
    path = os.environ.get("WITNESS_LOG")
    if path:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, entry.encode() + b"\n")
        finally:
            os.close(descriptor)


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--era", choices=("legacy", "modern", "both"), default="both")
    WitnessOverStdio(Witness(era=parser.parse_args().era)).serve()


if __name__ == "__main__":
    main()
