"""What Redis holds under some keys, read at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from common.calls.head import head_from_text
from common.domain.ledger import Call
from common.store.client import Client

_READ = """
local reads = {string = {'GET'}, hash = {'HGETALL'}, list = {'LRANGE', 0, -1}, set = {'SMEMBERS'},
  zset = {'ZRANGE', 0, -1, 'WITHSCORES'}}
local found = {}
for i, key in ipairs(KEYS) do
  local read = reads[redis.call('TYPE', key).ok]
  found[i] = read and redis.call(read[1], key, unpack(read, 2)) or false
end
return found
"""


def read(client: Client, names: Sequence[str]) -> Kept:
    """Read keys of any type, all at one moment."""
    found: Any = client.eval(_READ, len(names), *names)
    return Kept(dict(zip(names, found, strict=True)))


class Kept:
    """What Redis holds: a string, a flat list, or None for a key that is not there."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def pairs(self, key: str) -> list[tuple[str, bytes]]:
        """Fields and values of a hash, members and scores of a sorted set."""
        flat = self.values[key] or []
        return [(name.decode(), value) for name, value in zip(flat[::2], flat[1::2], strict=True)]

    def members(self, key: str) -> set[str]:
        """Of a set."""
        return {member.decode() for member in self.values[key] or ()}

    def items(self, key: str) -> list[bytes]:
        """Of a list, from its left end."""
        return list(self.values[key] or ())


def call_of(message: bytes) -> Call:
    """The call that a message is for."""
    of = head_from_text(orjson.loads(message)["canalgate"])
    return Call(id=of.id, session=of.session, leave=of.leave, attempt=of.attempt)


def calls_of(messages: Sequence[bytes]) -> tuple[Call, ...]:
    """Those of a list, the next one first."""
    return tuple(call_of(message) for message in reversed(messages))
