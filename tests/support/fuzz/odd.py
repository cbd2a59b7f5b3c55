"""Values that are odd, and texts that only look like values."""

# ruff: noqa: RUF001 - what is ambiguous is so on purpose

from __future__ import annotations

from random import Random
from typing import Any

# fmt: off
WORDS = (
    "a",
    "A",
    "text",
    "name",
    "Name",
    "ſ",
    "ключ",
    "__proto__",
    "\u0000",
    "\ud83d\ude00",
    "",
    "a.b",
    "$ref",
)
STRINGS = (
    "", "x", "päivää", "🚢", "\u0000", "\u202e", "a\nb", 'q"\\', "\u2028", "../..", "%2e%2e/", "x" * 3000, "both__see",
    "other", "see", "SEE", "ſee", "see ", " see", "both__", "__see", "both__see__other", "canalgate://both/witness://one",
    "witness://{number}", "\r\nMcp-Name: other", "=?base64?c2Vl?=", "null", "${ENV}", "{{7*7}}", "\ufeff",
)
NUMBERS = (0, -1, 1, 2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 0.5, -0.0, 1e300, 1.0)
TOKENS = (
    b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e999", b"1E2", b"1.0", b"-0", b"01", b"+1", b".5", b"1.", b"0x10",
    b"1" * 20, b"18446744073709551616", b"-9223372036854775809", b"9" * 5000, b"1e-400", b"tru", b"undefined", b"'x'",
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\\x41"', b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"',
    b"[" * 70 + b"]" * 70,
    b'{"a":' * 63 + b"1" + b"}" * 63, b"[" * 9000, b"[],", b"/**/1", b"0.1000000000000000055511151231257827",
    b"123456789012345678", b"1234567890123456789.0", b"1e19", b'"' + b"a" * 70_000 + b'"',
)
# fmt: on


def value(rng: Random, depth: int) -> Any:
    """Any value that JSON has, or seems to have."""
    kind = rng.randrange(8 if depth else 6)
    if kind == 0:
        return rng.choice(NUMBERS)
    if kind in (1, 2):
        return rng.choice(STRINGS)
    if kind == 3:
        return rng.choice((None, True, False))
    if kind == 4:
        return rng.choice(([], {}, [[]], {"a": {}}))
    if kind == 5:
        return rng.randrange(-1000, 1000)
    if kind == 6:
        return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(WORDS): value(rng, depth - 1) for _ in range(rng.randrange(4))}
