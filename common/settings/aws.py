"""The section ``aws``: the credentials provider of that name."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, model_validator

from common.settings.fields import checked_secure_url
from common.settings.secret_names import NameTemplate, SecretNames


def _region(value: str) -> str:
    if not value or not value.isascii() or not all(part.isalnum() for part in value.split("-")):
        raise ValueError("must be the name of a region, such as eu-central-1")
    return value


class AwsSettings(SecretNames):
    """AWS Secrets Manager (extra `aws`). A secret is a JSON object of texts, or one text, the key `value`."""

    region: Annotated[str, AfterValidator(_region)] | None = Field(
        default=None, description="Region of the secrets, such as eu-central-1; the provider needs it."
    )
    endpoint_url: Annotated[str, AfterValidator(checked_secure_url)] | None = Field(
        default=None, description="Another address than the region's own, such as a VPC endpoint's."
    )
    tool_name: NameTemplate = Field(
        default="canalgate/{tool}", description="Name of secrets with `scope: tool`."
    )
    tenant_name: NameTemplate = Field(
        default="canalgate/{tool}/{tenant}", description="Name of secrets with `scope: tenant`."
    )
    client_name: NameTemplate = Field(
        default="canalgate/{tool}/{tenant}/{client}", description="Name of secrets with `scope: client`."
    )
    version_stage: str = Field(
        default="AWSCURRENT",
        min_length=1,
        max_length=256,
        description="Which version is read, by its staging label.",
    )
    access_key_id: SecretStr | None = Field(
        default=None,
        description="Access key; absent: the worker's own identity (environment, web identity, role, profile).",
    )
    secret_access_key: SecretStr | None = Field(default=None, description="Its secret.")
    session_token: SecretStr | None = Field(default=None, description="Its session token, if it has one.")
    ca_file: str | None = Field(
        default=None,
        min_length=1,
        description="File with the authorities to trust; absent: those of the system.",
    )

    @model_validator(mode="after")
    def _agrees(self) -> AwsSettings:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token goes with access_key_id")
        return self
