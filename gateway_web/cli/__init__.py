"""The command ``canalgate``."""

from gateway_web.cli.app import main

__all__ = ["main"]
