"""A source of tools of one's own: a list that a web server answers with.

The server answers ``{"tools": {"<id>": {"url": "..."}}}``. In canalgate.yaml, with this file where Python finds it
(PYTHONPATH)::

    sources:
      listed:
        - name: catalogue
          type: "examples.discovery_source:WebCatalogue"
          options: {url: "https://catalogue.example.com/tools.json", every: 30}
    egress:
      discovered_hosts: ["*.tools.internal"]

`tests/common/discovery/test_contract.py` holds it to what every source must do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx


class WebCatalogue:
    """Implements ``common.ports.Discovery``."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._url = options["url"]
        self._every = float(options.get("every", 30))

    def watch(self, wanted: Callable[[], bool]) -> Iterator[Mapping[str, Mapping[str, Any]]]:
        """Whatever goes wrong is raised: the gateway keeps the tools, and makes a new source in a moment."""
        last = None
        with httpx.Client(timeout=10) as client:
            while wanted():
                tools = client.get(self._url).raise_for_status().json()["tools"]
                if tools != last:
                    last = tools
                    yield tools
                end = time.monotonic() + self._every
                while wanted() and time.monotonic() < end:
                    time.sleep(0.1)
