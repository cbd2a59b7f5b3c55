"""Putting the values of credentials where a tool's rules say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.domain.credential_rules import CredentialMode, CredentialRules, filled, keys_of, pointer_of
from common.domain.credentials import Credentials

_NOT_IN_A_HEADER = re.compile(r"[^\t\x20-\x7e\x80-\xff]")


class CannotInject(Exception):
    """Why values cannot be put into place; the message names key and place, and no value."""


@dataclass(frozen=True, slots=True)
class Injected:
    """What a session with a tool is given beside what the tool's definition holds. All of it is secret."""

    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def in_meta(self) -> tuple[str, ...]:
        """The values in ``meta``, however deep they stand."""
        return tuple(_values_in(self.meta))


NOTHING = Injected()


def inject(rules: CredentialRules, credentials: Credentials) -> Injected:
    """The values in their places. Optional ones that the credentials lack are left out.

    Raises :class:`CannotInject` if a required one is not among them, and for one that its place cannot hold.
    """
    values = {name: value.reveal() for name, value in credentials.values.items()}
    lacking = rules.mode is CredentialMode.OPTIONAL
    env = {
        name: _for_environment(key, values[key], name)
        for name, key in rules.inject.env.items()
        if _there((key,), values, lacking=lacking)
    }
    headers = {
        name: _for_header(filled(template, values), name)
        for name, template in rules.inject.headers.items()
        if _there(keys_of(template), values, lacking=lacking)
    }
    meta: dict[str, Any] = {}
    for member, key in rules.inject.meta.items():
        if _there((key,), values, lacking=lacking):
            _put(meta, pointer_of(member), values[key])
    secrets = {
        name: values[key]
        for name, key in rules.inject.secrets.items()
        if _there((key,), values, lacking=lacking)
    }
    return Injected(env, headers, meta, secrets)


def _there(keys: tuple[str, ...], values: Mapping[str, str], *, lacking: bool) -> bool:
    missing = next((key for key in keys if key not in values), None)
    if missing is not None and not lacking:
        raise CannotInject(f"there is no {missing!r} among the credentials")
    return missing is None


def _for_environment(key: str, value: str, name: str) -> str:
    if "\0" in value:
        raise CannotInject(f"{key!r} holds a NUL, which the variable {name} cannot")
    return value


def _for_header(value: str, name: str) -> str:
    """No line break: what stands behind it would be read as another header."""
    if _NOT_IN_A_HEADER.search(value) or value != value.strip(" \t"):
        raise CannotInject(
            f"the header {name} would hold a character that it cannot, or spaces around its value"
        )
    return value


def _values_in(meta: Mapping[str, Any]) -> Iterator[str]:
    for value in meta.values():
        if isinstance(value, str):
            yield value
        else:
            yield from _values_in(value)


def _put(meta: dict[str, Any], way: tuple[str, ...], value: str) -> None:
    *parents, last = way
    for parent in parents:
        meta = meta.setdefault(parent, {})
    meta[last] = value


def with_meta(params: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``params`` with these members in ``_meta``, whatever the caller put there under the same names."""
    found = params.get("_meta")
    return {**params, "_meta": _merged(found if isinstance(found, dict) else {}, own)}


def _merged(below: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in own.items():
        if isinstance(value, dict):
            there = merged.get(name)
            merged[name] = _merged(there if isinstance(there, dict) else {}, value)
        else:
            merged[name] = value
    return merged
