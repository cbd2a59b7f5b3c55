"""The section ``gcp``: the credentials provider of that name."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from common.settings.fields import checked_secure_url
from common.settings.secret_names import NameTemplate, SecretNames

_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,62}")
_VERSION = re.compile(r"[A-Za-z0-9_-]{1,63}")


def _project(value: str) -> str:
    if not _PROJECT.fullmatch(value):
        raise ValueError("must be the id or number of a project, such as my-project")
    return value


def _version(value: str) -> str:
    if not _VERSION.fullmatch(value):
        raise ValueError("must be latest, a number or an alias")
    return value


def _flat(value: str) -> str:
    if "/" in value:
        raise ValueError("must have no '/': names of secrets there have none")
    return value


_Name = Annotated[NameTemplate, AfterValidator(_flat)]


class GcpSettings(SecretNames):
    """Google Cloud Secret Manager (extra `gcp`). A secret is a JSON object of texts, or one text, the key `value`."""

    project: Annotated[str, AfterValidator(_project)] | None = Field(
        default=None, description="Project of the secrets, such as my-project; the provider needs it."
    )
    endpoint_url: Annotated[str, AfterValidator(checked_secure_url)] | None = Field(
        default=None,
        description="Another address than https://secretmanager.googleapis.com, such as a private one.",
    )
    tool_name: _Name = Field(default="canalgate-{tool}", description="Name of secrets with `scope: tool`.")
    tenant_name: _Name = Field(
        default="canalgate-{tool}-{tenant}", description="Name of secrets with `scope: tenant`."
    )
    client_name: _Name = Field(
        default="canalgate-{tool}-{tenant}-{client}", description="Name of secrets with `scope: client`."
    )
    version: Annotated[str, AfterValidator(_version)] = Field(
        default="latest", description="Which version is read: latest, a number or an alias."
    )
    credentials_file: str | None = Field(
        default=None,
        min_length=1,
        description="File with a service account's key; absent: the worker's own identity (application default).",
    )
    anonymous: bool = Field(
        default=False, description="True asks without an identity, as emulators want; goes with endpoint_url."
    )
    ca_file: str | None = Field(
        default=None,
        min_length=1,
        description="File with the authorities to trust; absent: those of the system.",
    )

    @model_validator(mode="after")
    def _agrees(self) -> GcpSettings:
        if self.anonymous and (self.endpoint_url is None or self.credentials_file is not None):
            raise ValueError("anonymous goes with endpoint_url, and without credentials_file")
        return self
