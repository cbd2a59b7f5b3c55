"""Keys about TLS that several parts of the settings have."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from common.domain.tls import TlsRules
from common.settings.section import Section


def _version(value: object) -> object:
    """YAML takes 1.3 for a number."""
    return str(value) if isinstance(value, float) else value


def _file(value: str) -> str:
    if not value.strip() or "\0" in value:
        raise ValueError("must be the path of a file")
    return value


TlsVersion = Annotated[Literal["1.2", "1.3"], BeforeValidator(_version)]
FileName = Annotated[str, AfterValidator(_file)]


class TlsKeys(Section):
    """What a client's side of TLS may be told."""

    tls_ca_file: FileName | None = Field(
        default=None, description="Authorities (PEM) to trust instead of the system's."
    )
    tls_cert_file: FileName | None = Field(
        default=None, description="Certificate (PEM) to show, with those between it and its authority."
    )
    tls_key_file: FileName | None = Field(
        default=None, description="Its key, without a passphrase; absent: it stands in tls_cert_file."
    )
    tls_min_version: TlsVersion = Field(
        default="1.2", description="Oldest version of TLS to speak: 1.2 or 1.3."
    )

    def tls_rules(self) -> TlsRules:
        """The same for the domain. Raises :class:`InvalidRequest` for keys that do not go together."""
        return TlsRules(
            ca_file=self.tls_ca_file,
            cert_file=self.tls_cert_file,
            key_file=self.tls_key_file,
            min_version=self.tls_min_version,
        )


class BackendTlsKeys(TlsKeys):
    """The same for a tool."""

    tls_server_name: Annotated[str, Field(min_length=1, max_length=253)] | None = Field(
        default=None, description="Name that the server has to prove, instead of the URL's host."
    )

    def tls_rules(self) -> TlsRules:
        """As for :class:`TlsKeys`."""
        return replace(super().tls_rules(), server_name=self.tls_server_name)
