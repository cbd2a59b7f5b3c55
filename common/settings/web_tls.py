"""The keys about TLS of the section ``web``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.settings.fields import LowerCase
from common.settings.section import Section
from common.settings.tls import FileName, TlsVersion


class ListenerTlsKeys(Section):
    """What our own listener speaks."""

    tls_cert_file: FileName | None = Field(
        default=None,
        description="Certificate (PEM) to listen with, with those between it and its authority; absent: no TLS.",
    )
    tls_key_file: FileName | None = Field(
        default=None, description="Its key, without a passphrase; absent: it stands in `web.tls_cert_file`."
    )
    tls_client_ca_file: FileName | None = Field(
        default=None, description="Authorities (PEM) of the clients' certificates."
    )
    tls_client_auth: Annotated[Literal["none", "optional", "required"], LowerCase] = Field(
        default="none",
        description="Whether clients are asked for a certificate, and refused if they have none.",
    )
    tls_min_version: TlsVersion = Field(
        default="1.2", description="Oldest version of TLS to speak: 1.2 or 1.3."
    )

    @model_validator(mode="after")
    def _tls_agrees(self) -> ListenerTlsKeys:
        if self.tls_cert_file is None and (self.tls_key_file or self.tls_client_auth != "none"):
            raise ValueError("tls_key_file and tls_client_auth need tls_cert_file beside them")
        if (self.tls_client_auth == "none") != (self.tls_client_ca_file is None):
            raise ValueError("tls_client_ca_file goes with tls_client_auth: optional or required")
        return self
