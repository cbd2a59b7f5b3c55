"""What the admin API stands on: less than a whole gateway, so that the command line can stand on it as well."""

from __future__ import annotations

from typing import Protocol

from common.audit.refusals import Refusals
from common.control.reload import Prepare
from common.registry.registry import Registry
from common.settings import Settings
from common.store.client import Client
from common.store.keys import Keys


class Plane(Protocol):
    """A web process's gateway, or a command's own connection to Redis."""

    @property
    def settings(self) -> Settings:
        """The settings in force there."""

    @property
    def client(self) -> Client:
        """The connection to Redis."""

    @property
    def keys(self) -> Keys:
        """The keys in it."""

    @property
    def registry(self) -> Registry:
        """What is registered; its rules of egress are those of the settings."""

    @property
    def refusals(self) -> Refusals:
        """Tells the journal of what is refused."""

    def reloading(self, prepare: Prepare) -> None:
        """Have ``prepare`` called when other settings are taken over."""
