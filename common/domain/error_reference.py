"""The table of errors as a document: ``python -m common.domain.error_reference``."""

from __future__ import annotations

import sys

from common.domain.errors import ERROR_TABLE, ERRORS_BY_CODE


def render() -> str:
    """The rows of ``docs/errors.md``."""
    lines = [
        "| code | meaning | status | HTTP | JSON-RPC | retryable |",
        "|---|---|---|---|---|---|",
    ]
    for code, meaning in ERROR_TABLE.items():
        first = (ERRORS_BY_CODE[code].__doc__ or "").strip().splitlines()[0]
        retry = "yes" if meaning.retryable else "no"
        lines.append(
            f"| `{code}` | {first} | {meaning.status} | {meaning.http} | {meaning.jsonrpc} | {retry} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
