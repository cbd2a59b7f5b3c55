"""The options that name a gateway have one meaning, before a verb and behind it.

What :mod:`~gateway_web.cli.connection` takes before the verb is taken behind each verb as well. A verb that acts on
this machine alone refuses a ``--url`` at either place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from functools import wraps
from typing import Any

from typer.core import TyperGroup, TyperOption

from gateway_web.cli.connection import also, only_here
from gateway_web.cli.output import errors_as_exit_codes

META = "canalgate.remote"
"""Where a context keeps what was typed behind verbs, for completion, which runs no verb."""
OPTIONS = ("url", "token_file", "token", "ca_file", "timeout")
PANEL = "Which gateway"
LOCAL = frozenset(
    (
        *(
            "apply",
            "audit verify",
            "completion",
            "config check",
            "doctor",
            "flower",
            "import",
            "policy check",
        ),
        *("up", "version", "web", "worker"),
    )
)
"""Verbs of this machine alone."""
INSTEAD = {"apply": "`config import FILE` (--dry-run) and `tenants set` change a gateway elsewhere"}


class AnywhereGroup(TyperGroup):
    """The group of all verbs, which has its own options behind each of them."""

    def __init__(self, **attributes: Any) -> None:
        """``attributes`` are those of any group."""
        super().__init__(**attributes)
        own = {str(option.name): option for option in self.params if isinstance(option, TyperOption)}
        _spread(self, "", {name: own[name] for name in OPTIONS})


def _spread(group: TyperGroup, path: str, options: Mapping[str, TyperOption]) -> None:
    for name, command in group.commands.items():
        verb = f"{path} {name}".strip()
        if verb in LOCAL:
            command.params.append(_behind(options["url"], hidden=True))
            command.callback = _here_alone(command.callback, INSTEAD.get(verb, ""))
            continue
        taken = {spelling for parameter in command.params for spelling in parameter.opts}
        free = [option for option in options.values() if not taken & set(option.opts)]
        command.params += [_behind(option) for option in free]
        if isinstance(command, TyperGroup):
            _spread(command, verb, options)


def _behind(option: TyperOption, *, hidden: bool = False) -> TyperOption:
    """The same option, which speaks only if it is typed: the environment was asked before the verb."""
    found = copy(option)
    found.envvar = None
    found.default = None
    found.expose_value = False
    found.hidden = hidden
    found.rich_help_panel = PANEL
    found.callback = _take
    return found


@errors_as_exit_codes
def _take(context: Any, parameter: Any, value: Any) -> Any:
    if value is None:
        return None
    context.meta.setdefault(META, {})[parameter.name] = value
    if not context.resilient_parsing:
        also(parameter.name, value)
    return value


def _here_alone(verb: Callable[..., Any] | None, instead: str) -> Callable[..., Any] | None:
    if verb is None:
        return None

    @wraps(verb)
    @errors_as_exit_codes
    def refusing(**given: Any) -> Any:
        only_here(instead)
        return verb(**given)

    return refusing
