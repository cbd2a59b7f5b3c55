"""Buildah, podman and podman-compose: without a Docker engine they build the images and run the Compose file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PROJECT = "canalgate-test"
BASE = "localhost/python:3.11-slim-bookworm"
PROGRAMS = ("buildah", "podman", "runc", "debootstrap", "iptables")
DEBIAN = "http://deb.debian.org/debian"
CERTIFICATES = "/etc/ssl/certs"
CONF = """\
[containers]
default_ulimits = ["nofile=1024:20000", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
[network]
network_backend = "netavark"
"""


def missing() -> str:
    """Why containers cannot be run here; empty if they can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    return "" if os.geteuid() == 0 else "containers are run as root only"


@dataclass(frozen=True, slots=True)
class Engine:
    """Builds and runs; ``directory`` holds its files."""

    directory: Path

    def run(self, *command: str, timeout: float = 600.0, **variables: str) -> str:
        """What a command prints. Raises :class:`AssertionError` with all its output if it fails."""
        done = self._done(command, timeout, variables)
        assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _done(
        self, command: Sequence[str], timeout: float, variables: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        conf = self.directory / "containers.conf"
        conf.write_text(CONF)
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "CONTAINERS_CONF": str(conf), **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def base(self) -> None:
        """Make the image that stands for python:slim, which no registry gives us: Debian's own Python, and tini."""
        if BASE in self.run("buildah", "images", "--format", "{{.Name}}:{{.Tag}}"):
            return
        root = self.directory / "rootfs"
        include = "python3,python3-venv,python3-pip,ca-certificates,tini"
        self.run("debootstrap", "--variant=minbase", f"--include={include}", "bookworm", str(root), DEBIAN)
        container = self.run("buildah", "from", "scratch").strip()
        self.run("buildah", "add", container, str(root), "/")
        self.run("buildah", "commit", container, BASE)
        self.run("buildah", "rm", container)
        shutil.rmtree(root)

    def build(self, tag: str, *options: str, context: Path = ROOT) -> None:
        """Build an image; layers that did not change are kept."""
        command = [
            *("buildah", "build", "--layers", "--format", "docker", "--isolation", "chroot", "--network", "host"),
            *("--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro", "--build-arg", f"BASE={BASE}", "--tag", tag),
        ]  # fmt: skip
        self.run(*command, *options, str(context))

    def compose(self, *arguments: str, values: Mapping[str, str]) -> str:
        """Run podman-compose on the Compose file, with these values in its environment."""
        command: Sequence[str] = (
            *(sys.executable, "-m", "podman_compose", "--project-name", PROJECT),
            *("--file", str(ROOT / "docker-compose.yml"), "--file", str(HERE / "compose.ci.yml")),
        )
        return self.run(*command, *arguments, **values)

    def down(self, *, values: Mapping[str, str]) -> None:
        """Remove the containers and volumes of this and every earlier run, also of one that was cut off."""
        self.compose("down", "--volumes", values=values)
        # podman-compose knows of one worker only; those that a test has added are found by their label.
        label = f"label=com.docker.compose.project={PROJECT}"
        remove = ("podman", "rm", "--force", "--depend", "--time", "0", "--filter", label)
        self._done(
            remove, 60.0, {}
        )  # it removes them and fails, where no systemd runs that knows their health checks
        assert not self.run("podman", "ps", "--all", "--quiet", "--filter", label)

    def execute(self, container: str, *command: str) -> str:
        """What a command prints inside a container."""
        return self.run("podman", "exec", container, *command)
