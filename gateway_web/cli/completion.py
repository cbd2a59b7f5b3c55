"""What the shell offers at Tab: the verbs and options by themselves, and the ids of the tools there are."""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]  # its only maker of scripts

from gateway_web.cli.anywhere import META
from gateway_web.cli.connection import Remote, control_at
from gateway_web.cli.control import ControlClient, items
from gateway_web.cli.output import errors_as_exit_codes

PATIENCE = 2.0
"""Seconds that somebody waits who pressed Tab."""
LOADED = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i; }"
"""A zsh whose ~/.zshrc sets up nothing has no completion at all."""
SHELLS = ("bash", "zsh", "fish")


def tool_ids(context: typer.Context, incomplete: str) -> list[str]:
    """The ids of tools that begin so. Degrades: none if the gateway does not say, whatever the reason."""
    try:
        with redirect_stderr(StringIO()):
            found = items(_plane(context), "/tools")
    except Exception:  # noqa: BLE001 - a shell that completes has no place for an error
        return []
    return [tool["id"] for tool in found if tool["id"].startswith(incomplete) and tool["id"].isprintable()]


def _plane(context: typer.Context) -> ControlClient:
    """As the verb would have it: the options before it are read, but nothing was run."""
    given = {**context.find_root().params, **context.meta.get(META, {})}
    file, authorities = given.get("token_file"), given.get("ca_file")
    remote = Remote(
        url=given.get("url"),
        token=None if file else given.get("token"),
        token_file=Path(file) if file else None,
        ca_file=Path(authorities) if authorities else None,
        timeout=PATIENCE,
    )
    if remote.url:
        return control_at(remote)
    from gateway_web.cli.local_control import local_control

    return local_control(None)


ToolArgument = Annotated[str, typer.Argument(help="Id of the tool.", autocompletion=tool_ids)]


@errors_as_exit_codes
def completion(
    shell: Annotated[
        str,
        typer.Argument(help=f"One of {', '.join(SHELLS)}.", autocompletion=lambda: list(SHELLS)),
    ],
) -> None:
    """Print the shell's completion script: eval "$(canalgate completion bash)"."""
    from common.domain.errors import ConfigurationError

    if shell not in SHELLS:
        raise ConfigurationError(f"SHELL must be one of {', '.join(SHELLS)}, not {shell!r}", field="SHELL")
    script = get_completion_script(prog_name="canalgate", complete_var="_CANALGATE_COMPLETE", shell=shell)
    typer.echo(script.replace("\ncompdef ", f"\n{LOADED}\ncompdef ") if shell == "zsh" else script)
