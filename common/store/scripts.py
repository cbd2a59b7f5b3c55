"""Loads the Lua files and runs them by digest.

A script runs at most once per call: it is sent by EVALSHA, and only a NOSCRIPT answer, which says that it did
not run, is followed by EVAL. There is no other retry (see :mod:`common.store.client`).

Functions that several scripts share stand in ``lua/lib``: a script that says ``-- uses: <name>`` in its head has those
that it calls put where it says ``--@uses``. No others, since Redis makes a closure of each function at each call.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import NoScriptError

Arg = str | bytes | int | float
_USES = re.compile(r"^-- uses: (.+)$", re.MULTILINE)
PLACE = "--@uses"
_PART = re.compile(r"^local (?:function )?(\w+(?:, \w+)*)", re.MULTILINE)
"""How a definition of the library begins: at the left edge, with the names that it defines."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua file and its digest."""

    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script ``lua/<name>.lua``."""
    folder = resources.files("common.store").joinpath("lua")
    source = folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
    if (uses := _USES.search(source)) is not None:
        shared = (
            folder.joinpath("lib", f"{used}.lua").read_text(encoding="utf-8") for used in uses[1].split(", ")
        )
        source = source.replace(PLACE, _needed("".join(shared), source))
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _needed(library: str, source: str) -> str:
    """The definitions of the library that a source names, and those that these name, in the order of the library."""
    begins = [*_PART.finditer(library)]
    ends = [*(found.start() for found in begins[1:]), len(library)]
    kept: list[str] = []
    for found, end in zip(reversed(begins), reversed(ends), strict=True):
        users = "".join((source, *kept))
        if any(re.search(rf"\b{name}\b", users) for name in found[1].split(", ")):
            kept.append(library[found.start() : end])
    return "".join(reversed(kept))


def run(client: Redis, name: str, keys: Sequence[str], args: Sequence[Arg] = ()) -> Any:
    """Run a script on a blocking client and return Redis' answer."""
    wanted = script(name)
    try:
        return client.evalsha(wanted.sha, len(keys), *keys, *args)
    except NoScriptError:
        return client.eval(wanted.source, len(keys), *keys, *args)


async def run_async(client: AsyncRedis, name: str, keys: Sequence[str], args: Sequence[Arg] = ()) -> Any:
    """Run a script on an asyncio client and return Redis' answer."""
    wanted = script(name)
    try:
        return await client.evalsha(wanted.sha, len(keys), *keys, *args)
    except NoScriptError:
        return await client.eval(wanted.source, len(keys), *keys, *args)
