"""Spelling of listening addresses."""

from __future__ import annotations

import socket

from common.domain.errors import ConfigurationError


def authority(host: str, port: int) -> str:
    """``host:port`` as it stands in a URL: an IPv6 address gets its brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def bind_address(host: str, port: int) -> str:
    """The address as gunicorn wants it."""
    return authority(host, port)


def free_port(host: str, port: int) -> int:
    """``port`` if it can be listened on, a free one for 0. Raises :class:`ConfigurationError` otherwise."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {authority(host, port)}: {error.strerror}; choose another web.port (--port)",
                field="web.port",
            ) from error
        return int(probe.getsockname()[1])
