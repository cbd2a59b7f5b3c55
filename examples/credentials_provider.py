"""A provider of one's own: secrets in a JSON file that something else writes.

The file, named by the variable ``SECRETS_FILE``, holds ``{"<tool>": {"<tenant>": {"token": "..."}}}``; ``*`` as tenant
is for tools whose credentials are everybody's. In canalgate.yaml, with this file where Python finds it (PYTHONPATH)::

    credentials:
      providers: ["examples.credentials_provider:JsonFile"]

`tests/common/contracts/test_examples.py` holds it to what every provider must do.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import orjson

from common.domain.credentials import CredentialRequest, Credentials
from common.settings.credentials import CredentialsSettings


class JsonFile:
    """Implements ``common.ports.CredentialsProvider``."""

    def __init__(self, settings: CredentialsSettings) -> None:  # noqa: ARG002 - what it needs is in the environment
        self._path = Path(os.environ["SECRETS_FILE"])

    async def resolve(self, request: CredentialRequest) -> Credentials | None:
        """Read anew each time: the gateway remembers what it was given, and for how long."""
        if request.client is not None:
            return None
        told: dict[str, Any] = orjson.loads(await asyncio.to_thread(self._path.read_bytes))
        values = told.get(request.tool, {}).get("*" if request.tenant is None else request.tenant)
        return None if values is None else Credentials.of(values, max_age=60)
