"""``identity.mtls``: client certificates, checked by a proxy that says so in a header, or by our own listener."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from common.settings.fields import HeaderName, Id, LowerCase
from common.settings.section import Section

_ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9-]*|[0-9]+(\.[0-9]+)+", re.ASCII)


def _attribute(value: str) -> str:
    if not _ATTRIBUTE.fullmatch(value):
        raise ValueError("must be an attribute of a subject name, such as CN or O")
    return value


_Attribute = Annotated[str, AfterValidator(_attribute)]


class MtlsSettings(Section):
    """Client certificates that a trusted proxy has checked, or our own listener."""

    header: HeaderName = Field(
        default="X-Forwarded-Client-Cert",
        description="Header that the proxy sets and takes from its clients; with form listener none is looked at.",
    )
    form: Annotated[Literal["xfcc", "dn", "listener"], LowerCase] = Field(
        default="xfcc",
        description="xfcc: Envoy's form. dn: the subject name alone (RFC 4514), as nginx's $ssl_client_s_dn. "
        "listener: no header, but the certificate shown to our own listener (`web.tls_client_auth`).",
    )
    source: Annotated[Literal["subject", "uri", "dns"], LowerCase] = Field(
        default="subject", description="Which part of Envoy's form names the caller."
    )
    tenant: Id | None = Field(default=None, description="Tenant of whoever has a certificate.")
    tenant_attribute: _Attribute | None = Field(
        default=None, description="Attribute of the subject name that is the tenant, instead of `tenant`."
    )
    client_attribute: _Attribute = Field(
        default="CN",
        description="Attribute of the subject name that is the client; a URI or DNS name is it as a whole.",
    )

    @model_validator(mode="after")
    def _agrees(self) -> MtlsSettings:
        if (self.tenant is None) == (self.tenant_attribute is None):
            raise ValueError(
                "give either tenant, or tenant_attribute with the attribute of the subject that is it"
            )
        if self.form != "xfcc" and self.source != "subject":
            raise ValueError("source uri and dns go with form xfcc: the others know the subject alone")
        if self.source != "subject" and self.tenant is None:
            raise ValueError(
                "tenant must be set where the source is a URI or a DNS name: those have no attributes"
            )
        return self
