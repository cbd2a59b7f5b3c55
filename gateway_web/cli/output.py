"""How the command line talks: results on standard output, everything else on standard error."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from functools import wraps
from typing import ParamSpec, TypeVar
from unicodedata import category

import orjson
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from common.domain.errors import ConfigurationError, GatewayError, StoreUnavailable
from gateway_web.cli.control import UntrustedGateway, status_of
from gateway_web.supervisor import SupervisorError

P = ParamSpec("P")
T = TypeVar("T")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
# Verbs use `say` and `remark`: a string given to a console is read as markup, and its escape sequences are obeyed.

_BEYOND_ASCII = re.compile(r"[^\x00-\x7e]")
_OF_TEXTS = frozenset("\n\t\u200c\u200d")
"""What has no look of its own and is part of ordinary texts: line end, tab, and the joiners of many scripts."""


class Exit(IntEnum):
    """Exit codes, the same for every verb; :data:`MEANINGS` says what for."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    PENDING = 5
    UNAUTHENTICATED = 6
    FORBIDDEN = 7
    NOT_FOUND = 8
    CONFLICT = 9
    BUSY = 10
    UNAVAILABLE = 11
    UNTRUSTED = 12


MEANINGS: Mapping[Exit, str] = {
    Exit.OK: "It is done, or as it should be.",
    Exit.FAILED: "An MCP tool answered with an error (`call`), a check found something (`config check`: a tool would "
    "be skipped; `doctor`; `policy test`: denied), a wait was in vain (`tools drain --wait`), or the terminal of `up` "
    "was closed. With a Python traceback: a bug.",
    Exit.USAGE: "Wrong arguments or settings (HTTP 400, 422).",
    Exit.REFUSED: "It could not be done for another reason; `status`: no call could be served.",
    Exit.UNREACHABLE: "No gateway, or no Redis, answers.",
    Exit.PENDING: "`apply --diff`: there is something to change.",
    Exit.UNAUTHENTICATED: "No token, or none that the gateway knows (401).",
    Exit.FORBIDDEN: "The token's role, or a rule, does not allow it (403).",
    Exit.NOT_FOUND: "There is no such tool, session, call, key or tenant, or no admin API (404).",
    Exit.CONFLICT: "Somebody else changed it meanwhile, or it is there already (409, 412).",
    Exit.BUSY: "Too much at a time; later it may go (429).",
    Exit.UNAVAILABLE: "The gateway, or what stands behind it, failed or did not answer in time (5xx).",
    Exit.UNTRUSTED: "The gateway's certificate is not trusted, or it speaks no TLS.",
}
"""The table of exit codes of ``docs/cli.md``."""

_BY_STATUS: Mapping[int, Exit] = {
    400: Exit.USAGE,
    401: Exit.UNAUTHENTICATED,
    403: Exit.FORBIDDEN,
    404: Exit.NOT_FOUND,
    409: Exit.CONFLICT,
    412: Exit.CONFLICT,
    413: Exit.USAGE,
    422: Exit.USAGE,
    428: Exit.CONFLICT,
    429: Exit.BUSY,
}


def exit_of(error: GatewayError) -> Exit:
    """The exit code that stands for an error."""
    if isinstance(error, ConfigurationError):
        return Exit.USAGE
    if isinstance(error, UntrustedGateway):
        return Exit.UNTRUSTED
    if isinstance(error, StoreUnavailable):
        return Exit.UNREACHABLE
    status = status_of(error) or 0
    return _BY_STATUS.get(status, Exit.UNAVAILABLE if status >= 500 else Exit.REFUSED)


def say_json(value: object) -> None:
    """One JSON document for scripts."""
    sys.stdout.write(json_text(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + "\n")


def json_text(value: object, *, option: int = 0) -> str:
    """JSON that says exactly this, in which whatever is no visible character is written as an escape."""
    return _BEYOND_ASCII.sub(_escaped, orjson.dumps(value, option=option).decode())


def _escaped(found: re.Match[str]) -> str:
    char = found.group()
    if char.isprintable():
        return char
    pair = char.encode("utf-16-be")
    return "".join(f"\\u{pair[at : at + 2].hex()}" for at in range(0, len(pair), 2))


def stop(message: str, code: Exit) -> typer.Exit:
    """Print an error and give the exception that ends the command. Further lines are indented, and so not ours."""
    err.print(Text.assemble(("error:", "red"), " ", printable_lines(message).replace("\n", "\n    ")))
    return typer.Exit(code)


def say(line: str) -> None:
    """One line of a result. What others chose is in it as plain text, and cannot make a second one."""
    out.print(Text(printable(line)))


def say_text(text: str) -> None:
    """A result of several lines, as plain text."""
    out.print(Text(printable_lines(text)))


def remark(line: str) -> None:
    """One line on standard error, as :func:`say`."""
    err.print(Text(printable(line)))


def remark_if_heard(line: str) -> None:
    """The same of a program that goes on where nobody reads it: its terminal, or the end of its pipe, is gone."""
    with suppress(OSError, SystemExit):
        remark(line)


def remark_text(text: str) -> None:
    """Several lines on standard error."""
    err.print(Text(printable_lines(text)))


def printable(text: str) -> str:
    """The text with a sign in place of each control character."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def printable_lines(text: str) -> str:
    """As :func:`printable`, with the line ends, tabs, spaces and joiners that texts of any language have."""
    return "".join(
        char
        if char.isprintable() or char in _OF_TEXTS or category(char) == "Zs"
        else "\N{REPLACEMENT CHARACTER}"
        for char in text.replace("\r\n", "\n")
    )


def say_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Lines in columns, as wide as what is in them: nothing is cut, so that lines can be searched."""
    lines = [list(columns), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(cell_len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True))
        say("  ".join(padded).rstrip())


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show a person at a terminal that something goes on; scripts see nothing."""
    if not err.is_terminal:
        yield
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    ) as bar:
        bar.add_task(printable(what), total=None)
        yield


def errors_as_exit_codes(verb: Callable[P, T]) -> Callable[P, T]:
    """Turn our errors into one line and an exit code; anything else is a bug and keeps its traceback."""

    @wraps(verb)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return verb(*args, **kwargs)
        except (ConfigurationError, UntrustedGateway) as error:
            raise stop(error.message, exit_of(error)) from None
        except StoreUnavailable as error:
            cause = "" if error.__cause__ is None else f" ({error.__cause__})"
            raise stop(error.message + cause, Exit.UNREACHABLE) from None
        except GatewayError as error:
            raise stop(f"{error.message} ({error.data.get('code', error.code)})", exit_of(error)) from None
        except SupervisorError as error:
            raise stop(str(error), Exit.REFUSED) from None
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise stop(f"{error.strerror or error}{where}", Exit.REFUSED) from None

    return wrapped
