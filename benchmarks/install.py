"""Installation of the peers, each into a folder of its own, once, at an exact version."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_TIMEOUT = 900.0  # seconds for one installer
_STAMP = ".installed"


class UnavailableError(Exception):
    """A peer cannot be installed here; the message says why."""


def install_python(
    folder: Path, requirement: str, *, minimum: tuple[int, int] = (3, 11), overrides: Sequence[str] = ()
) -> Path:
    """Install a PyPI distribution into a virtual environment in ``folder``; return its ``bin``.

    ``overrides`` replace what the distribution asks of its dependencies, and are used only where it cannot be
    installed without them.

    Raises:
        UnavailableError: no suitable Python, or the installer failed.
    """
    if _is_stamped(folder, requirement):
        return folder / "bin"
    python = _interpreter(minimum)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if shutil.which("uv"):
        _install_with_uv(folder, python, requirement, overrides)
    else:
        _run([python, "-m", "venv", str(folder)])
        _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", requirement])
    (folder / _STAMP).write_text(requirement)
    return folder / "bin"


def install_node(folder: Path, package: str) -> Path:
    """Install an npm package (``name@version``) in ``folder``; return the folder of its commands.

    Raises:
        UnavailableError: npm is missing or failed.
    """
    commands = folder / "node_modules" / ".bin"
    if _is_stamped(folder, package):
        return commands
    if not shutil.which("npm"):
        raise UnavailableError("npm is not on PATH; install Node.js 20 or later")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder), package])
    (folder / _STAMP).write_text(package)
    return commands


def _install_with_uv(folder: Path, python: str, requirement: str, overrides: Sequence[str]) -> None:
    _run(["uv", "venv", "--quiet", "--no-project", "--python", python, str(folder)])
    command = ["uv", "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), requirement]
    try:
        _run(command)
    except UnavailableError:
        if not overrides:
            raise
        print(f"  note: {requirement} does not resolve as it is; installing it with {', '.join(overrides)}")
        listed = folder / "overrides.txt"
        listed.write_text("\n".join(overrides) + "\n")
        _run([*command, "--override", str(listed)])


def _is_stamped(folder: Path, wanted: str) -> bool:
    stamp = folder / _STAMP
    return stamp.is_file() and stamp.read_text() == wanted


def _interpreter(minimum: tuple[int, int]) -> str:
    for candidate in _candidates():
        answer = subprocess.run(
            [candidate, "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if answer.returncode == 0 and tuple(map(int, answer.stdout.split())) >= minimum:
            return candidate
    raise UnavailableError(f"needs Python {minimum[0]}.{minimum[1]} or later, and none was found")


def _candidates() -> Iterator[str]:
    yield sys.executable
    for minor in range(12, 16):
        if path := shutil.which(f"python3.{minor}"):
            yield path
    yield from sorted(str(path) for path in Path.home().glob(".pyenv/versions/3.*/bin/python"))


def _run(command: Sequence[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-600:]
        raise UnavailableError(f"{' '.join(command[:4])} ... failed: {said}")
