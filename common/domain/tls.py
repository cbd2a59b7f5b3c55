"""How the other end of a TLS connection is trusted, and what this end shows. Pure: names of files."""

from __future__ import annotations

from dataclasses import dataclass

from common.domain.errors import InvalidRequest

VERSIONS = ("1.2", "1.3")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsRules:
    """A client's side. Certificates are always required and names always checked: there is no switch for that.

    ``ca_file`` is trusted instead of the system's authorities. ``cert_file`` and ``key_file`` are what this end shows;
    the key may stand in ``cert_file``. ``server_name`` is what the other end has to prove instead of the URL's host.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    min_version: str = "1.2"
    server_name: str | None = None

    def __post_init__(self) -> None:
        if self.key_file is not None and self.cert_file is None:
            raise InvalidRequest("tls_key_file needs tls_cert_file beside it", field="tls_key_file")
        if self.min_version not in VERSIONS:
            raise InvalidRequest(
                f"tls_min_version must be one of {', '.join(VERSIONS)}", field="tls_min_version"
            )

    @property
    def files(self) -> tuple[str, ...]:
        """The files named."""
        return tuple(name for name in (self.ca_file, self.cert_file, self.key_file) if name is not None)


PLAIN_TLS = TlsRules()
"""The system's authorities, and nothing to show."""
