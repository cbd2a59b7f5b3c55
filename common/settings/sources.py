"""The section ``sources``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema, model_validator

from common.settings.fields import AsList, Id, Plugin
from common.settings.kubernetes import KubernetesSettings
from common.settings.section import Section


class SourceSettings(Section):
    """Something that names tools while the gateway runs."""

    name: Id = Field(description="Under which its tools are marked. Another name makes it another source.")
    type: Plugin = Field(
        description="file, kubernetes, the name of an entry point in canalgate.discovery, or your own class as "
        "package.module:Class."
    )
    path: str | None = Field(
        default=None,
        min_length=1,
        description="For `file`: an `mcp.json` of any client, YAML with a section `tools`, or a directory of such.",
    )
    interval: float = Field(
        default=2.0, ge=0.1, le=3600, description="For `file`: seconds between two looks."
    )
    timeout: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds after which a source that has named nothing yet is told to be at fault.",
    )
    allow_credentials: bool = Field(
        default=False,
        description="Whether its tools may carry `credentials`: whoever names them may have these secrets sent to "
        "wherever discovered tools may lead.",
    )
    kubernetes: KubernetesSettings | None = Field(
        default=None,
        description="For `kubernetes`: where to look for what; absent: as in a pod, in all namespaces.",
    )
    options: Annotated[dict[str, Any], WithJsonSchema({"type": "object"})] = Field(
        default_factory=dict, description="What a class of your own wants to know.", repr=False
    )

    @model_validator(mode="after")
    def _agrees(self) -> SourceSettings:
        if (self.type == "file") != (self.path is not None):
            raise ValueError("path goes with type: file, and only with it")
        if self.type != "kubernetes" and self.kubernetes is not None:
            raise ValueError("kubernetes goes with type: kubernetes, and only with it")
        return self


class SourcesSettings(Section):
    """Who names tools beside this file and operators. One worker of the cluster asks them."""

    listed: Annotated[tuple[SourceSettings, ...], AsList] = Field(
        default=(), description="The sources, each with name, type and what goes with that."
    )

    @model_validator(mode="after")
    def _distinct(self) -> SourcesSettings:
        if len({source.name for source in self.listed}) != len(self.listed):
            raise ValueError("listed names two sources alike: give each a name of its own")
        return self
