"""``canalgate flower``: Flower alone, as in a container of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway_web.cli.programs import exec_flower


def flower(
    config: Annotated[Path | None, typer.Option("--config", help="Settings file.")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on (flower.host).")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on (flower.port).")] = None,
) -> None:
    """Run Flower alone: calls, workers and queues in a browser, for whoever has a token of the admin API."""
    exec_flower(config, host=host, port=port)
