"""Node packages of the tests, installed into ``.cache/`` from the committed lock files.

``python -m tests.interop.install`` installs the interoperability clients and backends and prints their paths.
Doing it again is free while the lock file is the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache"
HERE = Path(__file__).resolve().parent
NPM_TIMEOUT = 600.0
NODE_VERSION = (22, 19)
STAMP = ".installed"
SCRIPTS = ("client_v1.mjs", "client_v2.mjs", "scenario.mjs")


class NodeUnavailableError(Exception):
    """There is no npm, or it could not install; the message says which and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InteropPaths:
    """Where the installed programs are; each ``.mjs`` and ``.js`` is run as ``node FILE``."""

    node: str
    everything: Path
    filesystem: Path
    memory: Path
    inspector: Path
    scripts: Path

    def script(self, name: str) -> Path:
        """A client of this directory, where it finds its packages."""
        return self.scripts / name


def install_interop() -> InteropPaths:
    """Install what ``package-lock.json`` of this directory names, and the clients beside it.

    Raises ``NodeUnavailableError``.
    """
    node = install_node()
    target = npm_ci(HERE, CACHE / "interop")
    # A module finds its packages beside itself or above, so the clients have to stand next to node_modules.
    for name in SCRIPTS:
        shutil.copy2(HERE / name, target / name)
    servers = target / "node_modules" / "@modelcontextprotocol"
    return InteropPaths(
        node=node,
        scripts=target,
        everything=servers / "server-everything" / "dist" / "index.js",
        filesystem=servers / "server-filesystem" / "dist" / "index.js",
        memory=servers / "server-memory" / "dist" / "index.js",
        inspector=servers / "inspector" / "clients" / "launcher" / "build" / "index.js",
    )


def npm_ci(source: Path, target: Path) -> Path:
    """Install the locked packages of ``source`` into ``target/node_modules``; return ``target``.

    Raises ``NodeUnavailableError``.
    """
    manifests = [source / "package.json", source / "package-lock.json"]
    wanted = hashlib.sha256(b"".join(manifest.read_bytes() for manifest in manifests)).hexdigest()
    stamp = target / STAMP
    with _locked(target):
        if stamp.exists() and stamp.read_text() == wanted:
            return target
        stamp.unlink(missing_ok=True)
        for manifest in manifests:
            shutil.copy2(manifest, target / manifest.name)
        npm("ci", "--ignore-scripts", directory=target)
        stamp.write_text(wanted)
    return target


def npm(*arguments: str, directory: Path) -> None:
    """Run npm in ``directory``.

    Raises ``NodeUnavailableError`` when it is missing, fails or takes longer than ten minutes.
    """
    program = shutil.which("npm")
    if program is None:
        raise NodeUnavailableError("npm is not on PATH: install Node.js >= 20, which brings it")
    command = [program, *arguments, "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=NPM_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NodeUnavailableError(f"npm {' '.join(arguments)} took longer than {NPM_TIMEOUT:g} s") from error
    if done.returncode != 0:
        raise NodeUnavailableError(f"npm {' '.join(arguments)} failed in {directory}:\n{done.stderr[-2000:]}")


def install_node() -> str:
    """Return a Node that has a WebSocket client and runs what we install: from PATH, or else from ``.cache/node24``.

    Raises ``NodeUnavailableError``.
    """
    found = shutil.which("node")
    if found is not None and node_version(found) >= NODE_VERSION:
        return found
    directory = CACHE / "node24"
    program = directory / "node_modules" / ".bin" / "node"
    with _locked(directory):
        if not program.exists():
            (directory / "package.json").write_text('{"name": "canalgate-node", "private": true}\n')
            npm("install", "node@24", directory=directory)
    if node_version(str(program)) < NODE_VERSION:
        wanted = ".".join(map(str, NODE_VERSION))
        raise NodeUnavailableError(f"{program} is older than Node {wanted}; remove {directory} and run again")
    return str(program)


def node_version(program: str) -> tuple[int, int]:
    """Return the major and the minor version of a Node program."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=True)
    major, minor, *_ = done.stdout.strip().removeprefix("v").split(".")
    return int(major), int(minor)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Let one process at a time install into ``target`` (tests run in several)."""
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Install, and print where things are."""
    print(install_interop())


if __name__ == "__main__":
    main()
