"""The section ``audit``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, WithJsonSchema, model_validator

from common.settings.audit_sinks import SINK_OPTIONS, CustomOptions
from common.settings.fields import AsList, Events, Id, LowerCase, Plugin
from common.settings.problems import dotted, explain, unknown_key
from common.settings.section import Section


class AuditSink(Section):
    """A place to which every record of the journal is delivered, in order, and from which it is kept until then."""

    type: Plugin = Field(
        description="file, stdout, memory, webhook, postgres, the name of an entry point in canalgate.audit, "
        "or your own class as package.module:Class."
    )
    name: Id = Field(
        default="",
        validate_default=False,
        description="Under which its place in the journal is kept; default: its type. Two of a kind need two names.",
    )
    options: Annotated[Any, WithJsonSchema({"type": "object"})] = Field(
        default_factory=dict, description="What a sink of this type wants to know (see docs/audit.md)."
    )

    @model_validator(mode="before")
    @classmethod
    def _typed(cls, given: Any) -> Any:
        """The options as the section of their type, so that they are checked and their secrets hidden."""
        if not isinstance(given, Mapping) or not isinstance(given.get("type"), str):
            return given
        options = given.get("options")
        if options is not None and not isinstance(options, Mapping | Section):
            raise ValueError("options must be a mapping of keys to values")
        if not isinstance(options, Section):
            options = _options(given["type"], options or {})
        return {**given, "name": given.get("name") or given["type"], "options": options}


def _options(kind: str, given: Mapping[str, Any]) -> Section:
    model = SINK_OPTIONS.get(kind)
    if model is None:
        return CustomOptions(values=dict(given))
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        found = error.errors()[0]
        path = ("options", *found["loc"])
        if found["type"] == "extra_forbidden":
            raise ValueError(unknown_key(path, model.model_fields)) from None
        raise ValueError(f"{dotted(path)} {explain(found)}") from None


class AuditSettings(Section):
    """The journal of what happened: what is written, how far it may fall behind, and to whom it is delivered."""

    calls: bool = Field(
        default=True,
        description="Whether every call is in the journal: its decision, its start and its end. "
        "Refusals, sessions, circuits and what operators do are there in any case.",
    )
    chain_key: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="Key of the records' digests: who does not have it cannot forge a chain. Keep it unchanged.",
    )
    max_backlog: Events = Field(
        default=100_000,
        description="Most events that the journal holds in Redis. Without sinks the oldest go first; "
        "with sinks nothing goes that one of them has not got, and `overflow` says what happens then.",
    )
    overflow: Annotated[Literal["refuse", "spill"], LowerCase] = Field(
        default="refuse",
        description="A sink is so far behind that the journal is full: refuse further calls, or spill events to "
        "`spill_dir`, from where they are delivered later.",
    )
    spill_dir: str | None = Field(
        default=None, min_length=1, description="Directory for what is spilled; it must outlive the process."
    )
    sinks: Annotated[tuple[AuditSink, ...], AsList] = Field(
        default=(),
        description="Where the records go, each with type, name and options; none: they stay in Redis.",
    )

    @property
    def bound(self) -> int:
        """Most events before calls are refused; 0 without sinks, where nothing has to wait for anybody."""
        return self.max_backlog if self.sinks else 0

    @model_validator(mode="after")
    def _agrees(self) -> AuditSettings:
        names = [sink.name for sink in self.sinks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sinks are named '{name}': give each a name of its own")
        if self.overflow == "spill" and not self.spill_dir:
            raise ValueError("overflow spill needs audit.spill_dir, a directory that outlives the process")
        return self
