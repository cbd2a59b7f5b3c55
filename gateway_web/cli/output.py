"""How the command line talks: results on standard output, everything else on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import wraps
from typing import ParamSpec, TypeVar

import orjson
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape

from common.domain.errors import ConfigurationError, GatewayError, StoreUnavailable
from gateway_web.supervisor import SupervisorError

P = ParamSpec("P")
T = TypeVar("T")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Exit(IntEnum):
    """Exit codes, the same for every verb."""

    OK = 0
    FAILED = 1
    """The tool answered with an error, or a check failed."""
    USAGE = 2
    """Wrong arguments or settings."""
    REFUSED = 3
    """The gateway refused or could not do it."""
    UNREACHABLE = 4
    """No gateway, or no Redis, answers."""
    PENDING = 5
    """There is something to change (``apply --diff``)."""


def say_json(value: object) -> None:
    """One JSON document for scripts."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode() + "\n")


def stop(message: str, code: Exit) -> typer.Exit:
    """Print an error and give the exception that ends the command."""
    err.print(f"[red]error:[/red] {_plain(message)}")
    return typer.Exit(code)


def _plain(text: str) -> str:
    """Text from elsewhere must not be read as markup."""
    return text.replace("[", r"\[")


def for_terminal(text: str) -> str:
    """A name that anybody may have chosen: neither markup nor control characters reach the terminal."""
    return escape(printable(text))


def printable(text: str) -> str:
    """The text with a sign in place of each control character."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def say_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Lines in columns, as wide as what is in them: nothing is cut, so that lines can be searched."""
    lines = [list(columns), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(cell_len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True))
        out.print("  ".join(padded).rstrip(), markup=False)


def errors_as_exit_codes(verb: Callable[P, T]) -> Callable[P, T]:
    """Turn our errors into one line and an exit code; anything else is a bug and keeps its traceback."""

    @wraps(verb)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return verb(*args, **kwargs)
        except ConfigurationError as error:
            raise stop(error.message, Exit.USAGE) from None
        except StoreUnavailable as error:
            cause = "" if error.__cause__ is None else f" ({error.__cause__})"
            raise stop(error.message + cause, Exit.UNREACHABLE) from None
        except GatewayError as error:
            raise stop(f"{error.message} ({error.data.get('code', error.code)})", Exit.REFUSED) from None
        except SupervisorError as error:
            raise stop(str(error), Exit.REFUSED) from None
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise stop(f"{error.strerror or error}{where}", Exit.REFUSED) from None

    return wrapped
